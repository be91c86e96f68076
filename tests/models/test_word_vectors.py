import pytest
import torch
from torch.nn import functional

from models import build
from models.configs import CBOWConfig, SkipGramConfig
from models.cost import flops_per_sample, largest_layer, parameters
from orchestrator.training.objectives import negative_sampling

KINDS = (CBOWConfig, SkipGramConfig)


def example(kind):
    """A model with drawn outputs, and centres with their neighbours and negatives."""
    torch.manual_seed(0)
    model = build(kind(vocab_size=13, width=6)).double()
    torch.nn.init.normal_(model.inputs.weight)
    torch.nn.init.normal_(model.outputs.weight)
    centres, neighbours = torch.randint(13, (4,)), torch.randint(13, (4, 5))
    mask = torch.rand(4, 5) < 0.7
    mask[0] = False
    return (
        model,
        centres,
        neighbours,
        mask,
        torch.randint(13, (4, 1 if kind is CBOWConfig else 5, 3)),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_dot_products_of_a_loop(kind):
    model, centres, neighbours, mask, negatives = example(kind)
    true, false = model(centres, neighbours, mask, negatives)
    into, out = model.inputs.weight, model.outputs.weight
    for b in range(4):
        own = [neighbours[b, c] for c in range(5) if mask[b, c]]
        for c in range(negatives.shape[1]):
            if kind is SkipGramConfig:
                seen, told = into[centres[b]], out[neighbours[b, c]]
            else:
                seen = sum(into[n] for n in own) / len(own) if own else torch.zeros(6).double()
                told = out[centres[b]]
            torch.testing.assert_close(true[b, c], seen @ told)
            for k in range(3):
                torch.testing.assert_close(false[b, c, k], seen @ out[negatives[b, c, k]])


def test_the_gradient_of_negative_sampling_is_that_of_its_paper_and_numerical():
    torch.manual_seed(0)
    true, false = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, 2, dtype=torch.float64)
    mask, valid = torch.rand(3, 4) < 0.6, torch.rand(3, 4, 2) < 0.8
    valid &= mask[..., None]
    true.requires_grad_()
    false.requires_grad_()
    summed = negative_sampling(true, false, mask, valid)
    expected = sum(
        -functional.logsigmoid(true[place])
        - functional.logsigmoid(-false[place])[valid[place]].sum()
        for place in map(tuple, mask.nonzero().tolist())
    )
    assert summed.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    summed.loss.backward()
    torch.testing.assert_close(
        true.grad, (true.detach().sigmoid() - 1) * mask, atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(false.grad, false.detach().sigmoid() * valid, atol=1e-6, rtol=1e-5)


def test_a_new_model_is_at_chance_whatever_the_pairs():
    _, centres, neighbours, mask, negatives = example(SkipGramConfig)
    true, false = build(SkipGramConfig(vocab_size=13, width=6))(
        centres, neighbours, mask, negatives
    )
    valid = mask[..., None].expand_as(negatives)
    loss = negative_sampling(true, false, mask, valid).loss
    assert loss.item() == pytest.approx(int(mask.sum()) * 4 * 0.6931472, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_cost_counts_both_tables_and_their_dot_products(kind):
    config = kind(vocab_size=13, width=6)
    model = build(config)
    assert parameters(config) == sum(p.numel() for p in model.parameters()) == 2 * 13 * 6
    assert largest_layer(config) == 13 * 6
    assert flops_per_sample(config, 18) == 18 * 6 * 6
