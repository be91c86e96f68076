"""Losses of the tokens that count alone, against the same of all logits."""

from dataclasses import replace

import pytest
import torch

from models import build
from models.configs import GPTConfig, LSTMConfig
from models.counted import columns_that_count, put, take

GPT2 = GPTConfig(vocab_size=31, max_positions=16, layers=2, width=32, heads=4, init_std=0.2)
LLAMA = replace(
    GPT2, norm="rmsnorm", positions="rotary", activation="swiglu", bias=False, kv_heads=2
)
CASES = {
    "gpt2": GPT2,
    "one layer": replace(GPT2, layers=1),
    "llama": LLAMA,
    "window": replace(LLAMA, mask="sliding_window", window=5),
    "additive": replace(GPT2, score="additive"),
    "prompt": replace(LLAMA, adapter="prompt", adapter_tokens=3),
    "dropout": replace(GPT2, dropout=0.1),
    "lstm": LSTMConfig(vocab_size=31, max_positions=16, layers=2, width=32),
}


def made(config):
    torch.manual_seed(0)
    model = build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def rows():
    tokens = torch.randint(31, (4, 13))
    mask = torch.zeros(4, 12, dtype=torch.bool)
    mask[0, 7:11] = mask[1, 2:4] = mask[1, 9] = True  # the third row has none
    mask[3, 0] = mask[3, 11] = True
    return tokens[:, :-1], tokens[:, 1:], mask


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_what_is_told_of_the_tokens_that_count_is_what_all_logits_tell(name, documents):
    model = made(CASES[name])
    tokens, targets, mask = rows()
    own = (torch.arange(12) >= 6).long().expand(4, -1) if documents else None
    logits = model(tokens, documents=own)
    wanted = (logits / 0.7).log_softmax(-1)
    chosen = wanted.gather(-1, targets[..., None])[..., 0]
    entropy = -(wanted.exp() * wanted).sum(-1)
    told = model(tokens, documents=own, targets=targets, loss_mask=mask, temperature=0.7)
    torch.testing.assert_close(told, torch.stack([chosen, entropy], -1) * mask[..., None])
    weights = torch.randn(4, 12)
    learned = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad((told[..., 0] * weights).sum(), learned, allow_unused=True)
    plain = torch.autograd.grad((chosen * mask * weights).sum(), learned, allow_unused=True)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    losses = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0] * mask
    each = {"targets": targets, "loss_mask": mask, "documents": own}
    torch.testing.assert_close(model(tokens, **each, summed=False), losses)
    torch.testing.assert_close(model(tokens, **each), losses.sum())
    right = (logits.argmax(-1) == targets) & mask
    torch.testing.assert_close(
        model(tokens, **each, grades=True), torch.stack([losses, right.float()])
    )


def test_a_value_head_tells_the_values_of_the_tokens_that_count():
    model = made(replace(LLAMA, value_head=True))
    tokens, _, mask = rows()
    torch.testing.assert_close(model(tokens, loss_mask=mask), model(tokens) * mask)


def test_the_last_layer_does_nothing_for_tokens_that_do_not_count():
    model = made(GPT2)
    tokens, targets, mask = rows()
    seen = []
    for block in model.blocks:
        block.ffn.register_forward_hook(lambda module, inputs, found: seen.append(found.shape[1]))
    model(tokens, targets=targets, loss_mask=mask)
    assert seen == [12, 4]
    mask[:, 2:] = True  # most count: all are computed
    model(tokens, targets=targets, loss_mask=mask)
    assert seen[2:] == [12, 12]


def test_what_is_put_back_stands_where_it_was_taken():
    _, _, mask = rows()
    columns = columns_that_count(mask)
    assert columns.shape == (4, 4)
    assert all(len(set(row)) == 4 for row in columns.tolist())
    assert torch.equal(take(mask, columns).sum(1), mask.sum(1))
    x = torch.randn(4, 12, 3)
    found = take(x, columns) * take(mask, columns)[..., None]
    assert torch.equal(put(found, columns, 12), x * mask[..., None])
