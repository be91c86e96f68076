"""Advantages against loops over single answers, and against what published trainers got wrong."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.training.advantages import (
    gae,
    group_relative,
    penalised_rewards,
    returns_to_go,
    whiten,
)

LENGTHS = [5, 1, 3, 0, 4]  # the last but one is an answer that is masked as a whole


def ragged(seed, lengths=LENGTHS):
    """Rewards, values (B, T) with noise outside of the answers, and the mask."""
    draw = torch.Generator().manual_seed(seed)
    T = max(lengths) + 1
    mask = torch.arange(T) < torch.tensor(lengths)[:, None]
    shape = (len(lengths), T)
    return torch.randn(shape, generator=draw), torch.randn(shape, generator=draw), mask


def gae_of_one(rewards, values, gamma, lam):
    """By the definition: the discounted sum of the surprises that are still to come."""
    surprises = [
        r + gamma * (values[t + 1] if t + 1 < len(values) else 0) - values[t]
        for t, r in enumerate(rewards)
    ]
    return [
        sum((gamma * lam) ** (k - t) * surprises[k] for k in range(t, len(values)))
        for t in range(len(values))
    ]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.0), (0.99, 1.0)])
def test_advantages_and_returns_are_those_of_each_answer_alone(gamma, lam):
    rewards, values, mask = ragged(0)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for row, length in enumerate(LENGTHS):
        own = values[row, :length].tolist()
        expected = gae_of_one(rewards[row, :length].tolist(), own, gamma, lam)
        assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-6)
        wanted = [a + v for a, v in zip(expected, own, strict=True)]
        assert returns[row, :length].tolist() == pytest.approx(wanted, abs=1e-6)
        assert not advantages[row, length:].any()


def test_what_stands_outside_the_mask_reaches_no_advantage():
    rewards, values, mask = ragged(1)
    loud = torch.where(mask, values, 100.0), torch.where(mask, rewards, torch.nan)
    assert torch.equal(
        gae(rewards, values, mask, 1, 0.95)[0], gae(loud[1], loud[0], mask, 1, 0.95)[0]
    )


def test_tokens_of_a_tool_inside_an_answer_take_no_discount():
    rewards, values, _ = ragged(2, [4, 4])
    own = torch.ones(2, 4, dtype=torch.bool)
    plain, _ = gae(rewards[:, :4], values[:, :4], own, 1, 0.95)
    apart = [0, 1, 5, 6]  # three tokens of a tool after the second
    mask = torch.zeros(2, 7, dtype=torch.bool)
    mask[:, apart] = True
    spread = [
        torch.full((2, 7), 9.0).index_copy(1, torch.tensor(apart), x[:, :4])
        for x in (rewards, values)
    ]
    found, _ = gae(*spread, mask, 1, 0.95)
    assert torch.allclose(found[:, apart], plain, atol=1e-6)


def test_the_score_lands_on_the_last_token_of_an_answer_of_any_length():
    _, _, mask = ragged(3)
    kl = torch.ones(mask.shape)
    rewards = penalised_rewards(torch.full((5,), 10.0), kl, mask, 0.5)
    for row, length in enumerate(LENGTHS):
        expected = [-0.5] * max(length - 1, 0) + [9.5] * (length > 0)
        assert rewards[row].tolist() == expected + [0.0] * (mask.shape[1] - length)
    sums = returns_to_go(rewards, mask)
    assert sums[0].tolist() == [7.5, 8.0, 8.5, 9.0, 9.5, 0.0]


def test_whitened_advantages_have_mean_0_and_variance_1_where_the_mask_is_and_nowhere_else():
    values, _, mask = ragged(4)
    for offset in (0.0, 1e3):
        white = whiten(values + offset, mask)
        assert white[mask].mean().item() == pytest.approx(0, abs=1e-5)
        assert white[mask].var(unbiased=False).item() == pytest.approx(1, abs=1e-4)
        assert not white[~mask].any()
    same = whiten(torch.full(mask.shape, 0.35), mask)
    assert torch.equal(same, torch.zeros(mask.shape))
    assert not whiten(values, torch.zeros_like(mask)).any()


REWARDS = torch.tensor([[1.0, 0.0, 0.0, 0.5], [0.2, 0.9, 0.4, 0.1]])


def test_group_relative_advantages_follow_their_papers():
    for row, group in enumerate(REWARDS.tolist()):
        mean = sum(group) / 4
        deviation = math.sqrt(sum((r - mean) ** 2 for r in group) / 3)
        others = [r - (sum(group) - r) / 3 for r in group]
        wanted = {
            "grpo": [(r - mean) / (deviation + 1e-6) for r in group],
            "dr_grpo": [r - mean for r in group],
            "rloo": others,
            "reinforce_pp": group,
        }
        for how, expected in wanted.items():
            found = group_relative(REWARDS, how)[row].tolist()
            assert found == pytest.approx(expected, abs=1e-6)


@given(
    st.sampled_from(["grpo", "dr_grpo", "rloo"]),
    st.one_of(
        st.floats(-5, 5, width=32).flatmap(lambda r: st.integers(1, 9).map(lambda n: [r] * n)),
        st.just([0.35] * 7 + [0.350001]),
        st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=8),
    ),
)
def test_no_group_of_rewards_gives_a_huge_advantage(how, group):
    found = group_relative(torch.tensor([group]), how)
    assert found.isfinite().all()
    if len(set(group)) == 1:
        assert not found.any()
    if how == "grpo":
        assert found.abs().max() <= math.sqrt(len(group)) + 1e-5
