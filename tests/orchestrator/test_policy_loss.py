"""Policy and value losses against loops over single tokens."""

import math

import pytest
import torch

from orchestrator.training.policy_loss import (
    AGGREGATIONS,
    policy_loss,
    ratios,
    step_weight,
    token_weights,
    value_loss,
)

LENGTHS = [4, 1, 0, 3]
MASK = torch.arange(5) < torch.tensor(LENGTHS)[:, None]


def drawn(seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn((4, 5), generator=draw)


OLD, ADVANTAGES = -drawn(0).abs(), drawn(2)
NOW = OLD + 0.4 * drawn(1)


def one(how, now, old, advantage, low, high):
    """The loss of one token, or of one answer in place of it."""
    r = math.exp(now - old)
    bounded = min(max(r, 1 - low), 1 + high)
    return (
        -bounded * advantage * now if how == "cispo" else -min(r * advantage, bounded * advantage)
    )


@pytest.mark.parametrize("how", ["clip", "gspo", "cispo"])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (0.01, 0.02)])
def test_each_loss_is_that_of_a_loop_over_tokens(how, low, high):
    losses, clipped = policy_loss(NOW, OLD, ADVANTAGES, MASK, how=how, low=low, high=high)
    for row, length in enumerate(LENGTHS):
        mean = sum(float(NOW[row, t] - OLD[row, t]) for t in range(length)) / max(length, 1)
        for t in range(5):
            if t >= length:
                assert losses[row, t] == 0
                assert not clipped[row, t]
                continue
            now, old, a = (float(x[row, t]) for x in (NOW, OLD, ADVANTAGES))
            now = old + mean if how == "gspo" else now
            assert float(losses[row, t]) == pytest.approx(
                one(how, now, old, a, low, high), abs=1e-6
            )
            r = math.exp(now - old)
            outside = r > 1 + high if a > 0 else r < 1 - low
            assert bool(clipped[row, t]) == (
                outside or (how == "cispo" and not 1 - low <= r <= 1 + high)
            )


def gradient(how, **settings):
    now = NOW.clone().requires_grad_()
    losses, _ = policy_loss(now, OLD, ADVANTAGES, MASK, how=how, **settings)
    (found,) = torch.autograd.grad(losses.sum(), now)
    return found


def test_a_clipped_token_has_no_gradient_but_under_cispo():
    _, clipped = policy_loss(NOW, OLD, ADVANTAGES, MASK, low=0.1, high=0.1)
    assert clipped.any()
    assert not gradient("clip", low=0.1, high=0.1)[clipped].any()
    assert gradient("cispo", low=0.1, high=0.1)[clipped].all()


def test_the_first_ratio_is_1_and_no_difference_overflows():
    assert torch.equal(ratios(OLD, OLD, MASK), torch.ones(4, 5))
    wild = torch.where(MASK, OLD + 500, torch.nan)
    for sequence in (False, True):
        assert ratios(wild, OLD, MASK, sequence=sequence).isfinite().all()


def test_the_critic_is_clipped_on_the_side_that_makes_the_loss_larger():
    # (value, old, return) -> with clip 0.5: the larger of both squared errors, halved.
    table = {
        (2.0, 1.0, 2.0): 0.125,
        (2.0, 1.0, 0.0): 2.0,
        (1.2, 1.0, 0.0): 0.72,
        (0.0, 1.0, 0.0): 0.125,
    }
    values, old, returns = torch.tensor(list(table)).T[..., None]  # (4, 1) each
    own = torch.ones(4, 1, dtype=torch.bool)
    found = value_loss(values, old, returns, own, 0.5)[:, 0].tolist()
    assert found == pytest.approx(list(table.values()))
    assert value_loss(values, old, returns, own, None)[0].item() == 0
    assert not value_loss(values, old, returns, ~own, 0.5).any()


def test_each_aggregation_has_its_named_mean():
    losses = torch.where(MASK, drawn(3), 0.0)
    rows = [losses[row, :length] for row, length in enumerate(LENGTHS) if length]
    wanted = {
        "token": torch.cat(rows).mean(),
        "sequence": torch.stack([row.mean() for row in rows]).mean(),
        "constant": torch.stack([row.sum() / 5 for row in rows]).mean(),
    }
    for how, mean in wanted.items():
        found = (losses * token_weights(MASK, how, 5)).sum() / step_weight(MASK, how)
        assert found.item() == pytest.approx(mean.item(), abs=1e-6)


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_a_mean_does_not_depend_on_the_cut_into_micro_batches(how):
    losses = torch.where(MASK, drawn(4), 0.0)
    whole = (losses * token_weights(MASK, how, 5)).sum() / step_weight(MASK, how)
    for size in (1, 2):
        parts = [slice(start, start + size) for start in range(0, 4, size)]
        total = sum((losses[p] * token_weights(MASK[p], how, 5)).sum() for p in parts)
        weight = sum(step_weight(MASK[p], how) for p in parts)
        assert (total / weight).item() == pytest.approx(whole.item(), abs=1e-6)
