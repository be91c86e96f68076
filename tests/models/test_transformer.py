import itertools

import pytest
import torch
from torch import nn

from models import build
from models.configs import TransformerConfig
from models.dropout import keyed

V, D, H, F = 11, 16, 4, 40


def model_for(order="post", **settings):
    torch.manual_seed(0)
    plain = {"vocab_size": V, "max_positions": 32, "width": D, "heads": H, "ffn_width": F}
    model = build(TransformerConfig(**plain, norm_order=order, **settings))
    for parameter in model.parameters():  # norms and biases, too, so that each is compared
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def copy_attention(theirs, weights, biases, output):
    theirs.in_proj_weight.data.copy_(torch.cat(weights))
    theirs.in_proj_bias.data.copy_(torch.cat(biases))
    theirs.out_proj.load_state_dict(output.state_dict())


def copy_ffn(theirs, ours):
    theirs.linear1.load_state_dict(ours.layer.up.state_dict())
    theirs.linear2.load_state_dict(ours.layer.down.state_dict())


def torch_blocks(model, order):
    """Encoder and decoder layers of torch with the weights of ours."""
    settings = {"dropout": 0.1, "batch_first": True, "norm_first": order == "pre"}
    encoder, decoder = [], []
    for ours in model.encoder:
        theirs = nn.TransformerEncoderLayer(D, H, F, **settings).eval()
        own = ours.attention.layer
        copy_attention(theirs.self_attn, [own.qkv.weight], [own.qkv.bias], own.output)
        copy_ffn(theirs, ours.ffn)
        for number, part in enumerate((ours.attention, ours.ffn), 1):
            getattr(theirs, f"norm{number}").load_state_dict(part.norm.state_dict())
        encoder.append(theirs)
    for ours in model.decoder:
        theirs = nn.TransformerDecoderLayer(D, H, F, **settings).eval()
        own, cross = ours.attention.layer, ours.cross.layer
        copy_attention(theirs.self_attn, [own.qkv.weight], [own.qkv.bias], own.output)
        copy_attention(
            theirs.multihead_attn,
            [cross.query.weight, cross.key_value.weight],
            [cross.query.bias, cross.key_value.bias],
            cross.output,
        )
        copy_ffn(theirs, ours.ffn)
        for number, part in enumerate((ours.attention, ours.cross, ours.ffn), 1):
            getattr(theirs, f"norm{number}").load_state_dict(part.norm.state_dict())
        decoder.append(theirs)
    return encoder, decoder


def batch(B=3, S=7, T=5):
    draw = torch.Generator().manual_seed(1)
    source = torch.randint(V, (B, S), generator=draw)
    target = torch.randint(V, (B, T), generator=draw)
    lengths = torch.tensor([S, S - 2, 1][:B])
    return source, target, torch.arange(S) < lengths[:, None]


@pytest.mark.parametrize("order", ["post", "pre"])
def test_it_is_the_encoder_and_decoder_of_torch_with_the_same_weights(order):
    model = model_for(order)
    encoder, decoder = torch_blocks(model, order)
    source, target, mask = batch()
    # Section 3.5, written out: position p, columns 2i and 2i + 1.
    places = torch.zeros(7, D, dtype=torch.float64)
    for p, i in itertools.product(range(7), range(D // 2)):
        angle = torch.tensor(p / 10000 ** (2 * i / D), dtype=torch.float64)
        places[p, 2 * i], places[p, 2 * i + 1] = angle.sin(), angle.cos()
    table = model.embedding.weight * D**0.5
    x = table[source] + places.float()
    for layer in encoder:
        x = layer(x, src_key_padding_mask=~mask)
    memory = model.encoder_norm(x)
    T = target.shape[1]
    y = table[target] + places[:T].float()
    causal = nn.Transformer.generate_square_subsequent_mask(T) < 0
    for layer in decoder:
        y = layer(y, memory, tgt_mask=causal, memory_key_padding_mask=~mask)
    theirs = model.decoder_norm(y) @ model.embedding.weight.T
    torch.testing.assert_close(model(source, target, mask), theirs, rtol=1e-4, atol=1e-4)


def test_shared_tables_are_one_and_separate_ones_are_three():
    shared, own = model_for(), model_for(shared_embedding=False)
    count = [sum(p.numel() for p in model.parameters()) for model in (shared, own)]
    assert count[1] - count[0] == 2 * V * D
    assert shared.head_weight is shared.embedding.weight
    assert own.head_weight is own.head.weight


@pytest.mark.parametrize("order", ["post", "pre"])
def test_a_token_sees_the_whole_source_and_no_target_token_after_it(order):
    model = model_for(order)
    source, target, mask = batch()
    before = model(source, target, mask)
    for t in range(5):
        other = target.clone()
        other[:, t] = (other[:, t] + 1) % V
        after = model(source, other, mask)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.equal(after[:, t], before[:, t])
    for s in range(7):
        other = source.clone()
        other[:, s] = (other[:, s] + 1) % V
        changed = (model(other, target, mask) != before).flatten(1).any(1)
        assert torch.equal(changed, mask[:, s])  # padding is seen by nobody


@pytest.mark.parametrize("more", [1, 4])
def test_padding_of_source_and_target_never_changes_a_result(more):
    model = model_for()
    source, target, mask = batch()
    alone = torch.cat([model(s[m][None], t[None]) for s, t, m in zip(*batch(), strict=True)])
    torch.testing.assert_close(model(source, target, mask), alone)
    wide = nn.functional.pad(source, (0, more), value=3), nn.functional.pad(target, (0, more))
    padded = model(*wide, nn.functional.pad(mask, (0, more)))
    torch.testing.assert_close(padded[:, :5], alone)


def test_the_loss_is_that_of_torch_over_what_counts_and_the_gradient_too():
    source, target, mask = batch()
    targets, counted = target.roll(-1, 1), torch.tensor([[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0] * 5])
    gradients = []
    for ours in (True, False):
        model = model_for()
        if ours:
            loss = model(source, target, mask, targets, counted.bool(), label_smoothing=0.1)
        else:
            logits = model(source, target, mask)[counted.bool()]
            loss = nn.functional.cross_entropy(
                logits, targets[counted.bool()], reduction="sum", label_smoothing=0.1
            )
        loss.backward()
        gradients.append([loss.detach(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_dropout_belongs_to_the_pair_whatever_stands_beside_it():
    model = model_for(dropout=0.3).train()
    source, target, mask = batch()
    with keyed(torch.tensor([5, 6, 7])):
        together = model(source, target, mask)
    with keyed(torch.tensor([6])):
        alone = model(source[1:2, :5], target[1:2])
    torch.testing.assert_close(together[1:2], alone)
    with keyed(torch.tensor([7])):
        assert not torch.allclose(model(source[1:2, :5], target[1:2]), alone)


def test_a_text_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="text of 33 tokens is longer than model"):
        model_for()(torch.zeros(1, 33, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 130}, "model.width=130 must be a multiple of model.heads=4; nearest: 128, 132"),
        ({"width": 5, "heads": 5}, "model.width=5 must be even"),
        ({"norm_order": "pst"}, "model.norm_order='pst' must be one of post, pre; did you mean"),
        ({"activation": "gela"}, "model.activation='gela' must be one of relu, gelu"),
        ({"layers": 0}, "model.layers=0 must be a whole number of at least 1"),
        ({"shared_embedding": 1}, "model.shared_embedding=1 must be true or false"),
    ],
)
def test_sizes_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**settings)
