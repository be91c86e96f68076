import math

import pytest
import torch

from orchestrator.training.objectives import next_token_loss

B, T, V = 3, 5, 7


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(B, T, V, generator=generator, dtype=torch.float64)
    targets = torch.randint(V, (B, T), generator=generator)
    mask = torch.rand(B, T, generator=generator) < 0.6
    return logits, targets, mask


def test_the_loss_is_the_sum_of_minus_log_probabilities_of_unmasked_targets(batch):
    logits, targets, mask = batch
    expected = 0.0
    for b in range(B):
        for t in range(T):
            if mask[b, t]:
                scores = logits[b, t].tolist()
                total = math.fsum(math.exp(score) for score in scores)
                expected -= scores[int(targets[b, t])] - math.log(total)
    assert float(next_token_loss(logits, targets, mask)) == pytest.approx(expected, rel=1e-6)


def test_the_gradient_is_probability_minus_one_hot_and_zero_where_masked(batch):
    logits, targets, mask = batch
    logits.requires_grad_()
    next_token_loss(logits, targets, mask).backward()
    with torch.no_grad():
        expected = (logits.softmax(-1) - torch.eye(V)[targets]) * mask[..., None]
    assert torch.allclose(logits.grad, expected, atol=1e-6)
    assert bool((logits.grad[~mask] == 0).all())


def test_nothing_behind_the_mask_changes_loss_or_gradient(batch):
    logits, targets, mask = batch
    spoiled = logits.clone()
    spoiled[~mask] = 1e4
    other_targets = torch.where(mask, targets, (targets + 1) % V)
    assert next_token_loss(spoiled, other_targets, mask) == next_token_loss(logits, targets, mask)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_values_that_are_not_finite_behind_the_mask_do_not_reach_the_loss(batch, poison):
    logits, targets, mask = batch
    spoiled = logits.clone()
    spoiled[~mask] = poison
    assert next_token_loss(spoiled, targets, mask) == next_token_loss(logits, targets, mask)


def test_parts_add_up_to_the_whole_however_rows_are_cut(batch):
    logits, targets, mask = batch
    whole = next_token_loss(logits, targets, mask)
    for cut in (1, 2):
        parts = next_token_loss(logits[:cut], targets[:cut], mask[:cut])
        parts = parts + next_token_loss(logits[cut:], targets[cut:], mask[cut:])
        assert float(parts) == pytest.approx(float(whole), rel=1e-6)


def test_uniform_logits_cost_log_of_the_vocabulary_per_token(batch):
    _, targets, mask = batch
    loss = next_token_loss(torch.zeros(B, T, V), targets, mask)
    assert float(loss) == pytest.approx(int(mask.sum()) * math.log(V), rel=1e-6)


def test_bf16_logits_are_summed_in_fp32(batch):
    logits, targets, mask = batch
    rounded = logits.bfloat16()
    loss = next_token_loss(rounded, targets, mask)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(
        float(next_token_loss(rounded.double(), targets, mask)), rel=1e-5
    )


def test_a_fully_masked_batch_costs_nothing_and_has_a_zero_gradient(batch):
    logits, targets, mask = batch
    logits.requires_grad_()
    loss = next_token_loss(logits, targets, torch.zeros_like(mask))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert bool((logits.grad == 0).all())
