"""Several documents in a row: what each of them computes is what it computes alone."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from models import build
from models.cache import KVCache
from models.configs.gpt import POSITIONS, GPTConfig

GPT2 = GPTConfig(vocab_size=61, max_positions=16, layers=2, width=32, heads=4, init_std=0.2)
LLAMA = replace(GPT2, norm="rmsnorm", activation="swiglu", bias=False, kv_heads=2)
VARIANTS = [
    replace(family, positions=positions) for family in (GPT2, LLAMA) for positions in POSITIONS
]
NAMES = [f"{config.norm}-{config.positions}" for config in VARIANTS]
LENGTHS = ((5, 8, 3), (1, 6, 9))  # of the documents of two rows
DOCUMENTS = torch.stack([torch.arange(3).repeat_interleave(torch.tensor(n)) for n in LENGTHS])


def tokens_for(config, B=2, T=16):
    return torch.randint(config.vocab_size, (B, T))


def token_losses(model, tokens, documents):
    """Losses (B, T) of the next tokens, the row's first token after its last, and logits."""
    logits = model(tokens, documents=documents)
    losses = functional.cross_entropy(
        logits.float().transpose(1, 2), tokens.roll(-1, 1), reduction="none"
    )
    return losses, logits


def numbers(model, tokens, documents, kept):
    """Logits of the kept tokens, and the gradient of their losses in every parameter."""
    model.zero_grad()
    torch.manual_seed(1)
    losses, logits = token_losses(model, tokens, documents)
    losses[kept].sum().backward()
    return logits[kept].detach(), [p.grad.clone() for p in model.parameters()]


def changes(model, tokens, documents, changed, kept):
    """Whether logits, and gradients, of the kept tokens differ where other tokens change."""
    other = torch.where(changed, (tokens + 7) % model.config.vocab_size, tokens)
    before, after = (numbers(model, t, documents, kept) for t in (tokens, other))
    gradients = zip(before[1], after[1], strict=True)
    return not torch.equal(before[0], after[0]), any(not torch.equal(a, b) for a, b in gradients)


@pytest.mark.parametrize("config", VARIANTS, ids=NAMES)
@pytest.mark.parametrize("precision", ["fp32", "cast to bf16", "bf16 by autocast"])
@pytest.mark.parametrize("training", [False, True], ids=["plain", "checkpointing-and-dropout"])
def test_no_bit_of_a_document_depends_on_the_documents_beside_it(config, precision, training):
    torch.manual_seed(0)
    model = build(replace(config, dropout=0.2 * training)).train(training)
    model.activation_checkpointing = training
    if precision == "cast to bf16":
        model = model.bfloat16()
    tokens, documents = tokens_for(config), DOCUMENTS
    ends = documents.diff(append=torch.full((2, 1), 3)) > 0
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16 by autocast"):
        for document in range(3):
            changed = documents == document
            # The target of a document's last token is the next one's first: none here.
            kept = ~changed & ~ends
            assert changes(model, tokens, documents, changed, kept) == (False, False)
            if document < 2:
                assert changes(model, tokens, None, changed, kept) == (True, True)


@pytest.mark.parametrize("config", VARIANTS, ids=NAMES)
def test_the_loss_of_a_packed_row_is_the_token_weighted_loss_of_its_documents(config):
    torch.manual_seed(0)
    model = build(config)
    tokens = tokens_for(config)
    losses, logits = token_losses(model, tokens, DOCUMENTS)
    losses.mean().backward()
    packed = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    total = 0
    for row, lengths, expected, targets in zip(
        tokens, LENGTHS, logits, tokens.roll(-1, 1), strict=True
    ):
        start = 0
        for length in lengths:
            place = slice(start, start + length)
            alone = model(row[None, place])[0]
            torch.testing.assert_close(alone, expected[place], atol=2e-5, rtol=1e-5)
            total = total + functional.cross_entropy(alone, targets[place]) * length / 32
            start += length
    total.backward()
    torch.testing.assert_close(total, losses.mean(), atol=0, rtol=1e-6)
    for a, p in zip(packed, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("config", VARIANTS, ids=NAMES)
def test_a_document_has_the_same_logits_wherever_it_stands(config):
    model = build(config).eval()
    text = tokens_for(config, B=1, T=8)
    documents = torch.arange(16)[None] // 8
    first, second = model(text.repeat(1, 2), documents=documents)[0].split(8)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)
    if config.positions == "learned":
        model(text.repeat(1, 2), documents=documents).sum().backward()
        used = model.position_embedding.weight.grad.any(1)
        assert used.tolist() == [True] * 8 + [False] * 8


@pytest.mark.parametrize("config", VARIANTS, ids=NAMES)
def test_a_row_of_one_document_has_the_logits_of_a_row_without_documents(config):
    model = build(config)
    tokens = tokens_for(config)
    one = torch.tensor([[4], [9]], dtype=torch.int32).expand(2, 16)
    torch.testing.assert_close(model(tokens, documents=one), model(tokens), atol=2e-5, rtol=1e-5)


def test_documents_that_can_not_be_kept_apart_are_refused():
    model, tokens = build(GPT2), tokens_for(GPT2)
    with pytest.raises(ValueError, match="documents can't be kept apart over a cache"):
        model(tokens, KVCache(16), DOCUMENTS)
    with pytest.raises(ValueError, match=r"documents has shape \(2, 15\); .* \(2, 16\)"):
        model(tokens, documents=DOCUMENTS[:, 1:])
