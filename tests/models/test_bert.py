import pytest
import torch
from torch import nn

from models import build
from models.configs import BertConfig

V, D, H, F = 23, 16, 2, 24


def model_for(**settings):
    torch.manual_seed(0)
    plain = {"vocab_size": V, "max_positions": 12, "width": D, "heads": H, "ffn_width": F}
    model = build(BertConfig(**plain, **settings))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def bert_of_hugging_face(ours):
    """The same weights; its segment 0 is a vector of zeros."""
    from transformers import BertConfig as TheirConfig
    from transformers import BertForMaskedLM

    theirs = BertForMaskedLM(
        TheirConfig(
            vocab_size=V, hidden_size=D, num_hidden_layers=2, num_attention_heads=H,
            intermediate_size=F, max_position_embeddings=12, layer_norm_eps=1e-12,
        )
    ).eval()  # fmt: skip
    embeddings = theirs.bert.embeddings
    nn.init.zeros_(embeddings.token_type_embeddings.weight)
    pairs = [
        (embeddings.word_embeddings, ours.embedding),
        (embeddings.position_embeddings, ours.position_embedding),
        (embeddings.LayerNorm, ours.embedding_norm),
        (theirs.cls.predictions.transform.dense, ours.head.dense),
        (theirs.cls.predictions.transform.LayerNorm, ours.head.norm),
    ]
    for layer, block in zip(theirs.bert.encoder.layer, ours.blocks, strict=True):
        attention, own = layer.attention, block.attention
        names = ("query", "key", "value")
        for number, name in enumerate(names):
            part = getattr(attention.self, name)
            for kind in ("weight", "bias"):
                whole = getattr(own.layer.qkv, kind)
                getattr(part, kind).data.copy_(whole.chunk(3)[number])
        pairs += [
            (attention.output.dense, own.layer.output),
            (attention.output.LayerNorm, own.norm),
            (layer.intermediate.dense, block.ffn.layer.up),
            (layer.output.dense, block.ffn.layer.down),
            (layer.output.LayerNorm, block.ffn.norm),
        ]
    for their, our in pairs:
        their.load_state_dict(our.state_dict())
    theirs.cls.predictions.bias.data.copy_(ours.head.bias)
    return theirs


def tokens_and_mask():
    tokens = torch.randint(V, (3, 9), generator=torch.Generator().manual_seed(1))
    return tokens, torch.arange(9) < torch.tensor([9, 4, 1])[:, None]


def test_it_is_bert_of_hugging_face_with_the_same_weights():
    ours = model_for()
    theirs = bert_of_hugging_face(ours)
    tokens, real = tokens_and_mask()
    found = ours(tokens, real)
    expected = theirs(input_ids=tokens, attention_mask=real.long()).logits
    torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-4)
    counted = real & (torch.rand(3, 9, generator=torch.Generator().manual_seed(2)) < 0.5)
    targets = tokens.flip(0)
    labels = torch.where(counted, targets, -100)
    mean = theirs(input_ids=tokens, attention_mask=real.long(), labels=labels).loss
    loss = ours(tokens, real, targets=targets, loss_mask=counted)
    torch.testing.assert_close(loss / counted.sum(), mean, rtol=1e-4, atol=1e-4)
    loss.backward()
    (mean * counted.sum()).backward()
    for name, parameter in (("bias", ours.head.bias), ("weight", ours.embedding.weight)):
        their = theirs.cls.predictions.bias if name == "bias" else theirs.get_input_embeddings()
        gradient = their.grad if name == "bias" else their.weight.grad
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("order", ["post", "pre"])
def test_every_token_sees_every_other_of_its_own_text_alone(order):
    model = model_for(norm_order=order)
    tokens, _ = tokens_and_mask()
    documents = torch.tensor([[0] * 4 + [1] * 5]).expand(3, 9)
    before = model(tokens, documents=documents)
    for t in range(9):
        other = tokens.clone()
        other[:, t] = (other[:, t] + 1) % V
        changed = (model(other, documents=documents) != before).any(-1)
        assert torch.equal(changed, documents == documents[:, t : t + 1])
    second = model(tokens[:, 4:])
    torch.testing.assert_close(before[:, 4:], second)


def test_padding_never_changes_a_result():
    model = model_for()
    tokens, real = tokens_and_mask()
    found = model(tokens, real)
    for row, (own, mask) in enumerate(zip(tokens, real, strict=True)):
        torch.testing.assert_close(found[row][mask], model(own[mask][None])[0])


def test_a_micro_batch_without_a_masked_token_has_no_loss_and_a_gradient_of_zeros():
    model = model_for()
    tokens, _ = tokens_and_mask()
    loss = model(tokens, targets=tokens, loss_mask=torch.zeros(3, 9, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not any(p.grad.any() for p in model.parameters())


def test_a_sequence_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="13 tokens is longer than model"):
        model_for()(torch.zeros(1, 13, dtype=torch.int64))


def test_a_classifier_scores_the_mean_of_the_vectors_that_the_masked_model_makes():
    torch.manual_seed(0)
    masked, classifier = model_for(), model_for(classes=["a", "b", "c"])
    shared = {name: p for name, p in masked.state_dict().items() if not name.startswith("head.")}
    assert classifier.load_state_dict(shared, strict=False).unexpected_keys == []
    tokens, real = tokens_and_mask()
    found = classifier(tokens, real)
    for row, (own, mask) in enumerate(zip(tokens, real, strict=True)):
        pooled = masked.hidden(own[mask][None])[0].mean(0)
        expected = classifier.classifier.weight @ pooled + classifier.classifier.bias
        torch.testing.assert_close(found[row], expected)
        torch.testing.assert_close(classifier(own[mask][None])[0], expected)


def test_a_segment_table_adds_its_first_row_to_every_token():
    plain, with_segments = model_for(), model_for(segments=2)
    with_segments.load_state_dict(plain.state_dict(), strict=False)
    tokens, real = tokens_and_mask()
    nn.init.zeros_(with_segments.segment_embedding.weight[0])
    torch.testing.assert_close(with_segments(tokens, real), plain(tokens, real))
    with torch.no_grad():
        plain.position_embedding.weight += 0.7
        with_segments.segment_embedding.weight[0] = 0.7
    torch.testing.assert_close(with_segments(tokens, real), plain(tokens, real))


def test_positions_start_as_vectors_whose_products_tell_their_distance_alone():
    table = build(BertConfig(vocab_size=V, max_positions=12, width=D, init_std=0.3))
    weight = table.position_embedding.weight.detach()
    products = weight @ weight.T
    for distance in range(12):
        line = products.diagonal(distance)
        torch.testing.assert_close(line, line[:1].expand_as(line))
    assert float(weight.square().mean()) ** 0.5 == pytest.approx(0.3, rel=1e-4)
