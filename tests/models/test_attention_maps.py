import pytest
import torch

from models import build
from models.attention_maps import recorded
from models.configs import BertConfig, GPTConfig, TransformerConfig

V, TEXT = 13, torch.tensor([[3, 1, 4, 1, 5, 9]])


def model_for(kind, **settings):
    torch.manual_seed(0)
    return build(kind(vocab_size=V, max_positions=16, width=16, heads=4, **settings)).eval()


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("kv_heads", [None, 2])
def test_the_weights_are_those_with_which_values_are_summed(positions, kv_heads):
    model = model_for(GPTConfig, positions=positions, kv_heads=kv_heads)
    block, seen = model.blocks[0].attention, {}
    block.output.register_forward_pre_hook(lambda module, inputs: seen.update(y=inputs[0]))
    block.qkv.register_forward_hook(lambda module, inputs, out: seen.update(qkv=out))
    with recorded(model) as maps, torch.no_grad():
        model(TEXT)
    weights = maps["blocks.0.attention"]  # (1, H, T, T)
    assert torch.equal(weights.triu(1), torch.zeros_like(weights))  # nobody sees what comes
    G = kv_heads or 4
    values = seen["qkv"].unflatten(-1, (4 + 2 * G, 4))[:, :, 4 + G :].transpose(1, 2)
    mixed = weights @ values.repeat_interleave(4 // G, 1)
    torch.testing.assert_close(mixed.transpose(1, 2).flatten(2), seen["y"])


@pytest.mark.parametrize("kind", [GPTConfig, BertConfig, TransformerConfig])
def test_every_attention_is_recorded_and_the_pass_stays_what_it_is(kind):
    model = model_for(kind, layers=2)
    rows = [TEXT, TEXT[:, :4]] if kind is TransformerConfig else [TEXT]
    with torch.no_grad():
        plain = model(*rows)
        with recorded(model) as maps:
            assert torch.equal(model(*rows), plain)
        count = len(maps)
        assert torch.equal(model(*rows), plain)
    assert count == (6 if kind is TransformerConfig else 2)
    for name, weights in maps.items():
        sizes = (4 if "decoder" in name else 6, 4 if "decoder.0.a" in name else 6)
        assert weights.shape[2] == sizes[0], name
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))
    if kind is TransformerConfig:
        assert maps["decoder.1.cross.layer"].shape == (1, 4, 4, 6)
