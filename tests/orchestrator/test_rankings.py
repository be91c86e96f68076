"""Losses of reward models, against closed forms and enumerated orders."""

import math
from itertools import permutations

import pytest
import torch

from orchestrator.training.rankings import (
    bradley_terry,
    centring,
    last_values,
    plackett_luce,
    squared_error,
)

ALL = torch.ones(1, 2, dtype=torch.bool)
NONE = torch.zeros(1, dtype=torch.float64)


def table(*rewards):
    return torch.tensor([rewards], dtype=torch.float64)


def test_equal_rewards_give_ln_2_and_exchanging_the_answers_turns_the_gradient_round():
    rewards = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    loss = bradley_terry(rewards, ALL, NONE)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-15)
    loss.sum().backward()
    assert rewards.grad.tolist() == [[-0.5, 0.5]]
    right, wrong = (bradley_terry(table(*own), ALL, NONE) for own in ((1.0, 0.3), (0.3, 1.0)))
    assert (wrong - right).item() == pytest.approx(0.7)  # -log s(-x) + log s(x) = x


def test_a_margin_is_what_the_better_answer_has_to_be_ahead():
    ahead = bradley_terry(table(2.0, 0.5), ALL, NONE + 1.5)
    assert ahead.item() == pytest.approx(math.log(2))


def test_a_ranking_is_the_mean_over_its_pairs_whatever_stands_where_no_answer_is():
    there = torch.tensor([[True, True, True, False]])
    found = bradley_terry(table(1.0, 0.5, -1.0, 99.0), there, NONE)
    pairs = [(1.0, 0.5), (1.0, -1.0), (0.5, -1.0)]
    by_hand = sum(math.log1p(math.exp(b - a)) for a, b in pairs) / 3
    assert found.item() == pytest.approx(by_hand, rel=1e-12)


def test_plackett_luce_of_two_is_bradley_terry_and_all_orders_together_are_certain():
    assert plackett_luce(table(1.0, 0.2), ALL).item() == pytest.approx(
        bradley_terry(table(1.0, 0.2), ALL, NONE).item(), rel=1e-12
    )
    there = torch.tensor([[True] * 3 + [False]])
    chances = [
        math.exp(-plackett_luce(table(*order, 7.0), there).item())
        for order in permutations((1.0, -0.5, 2.0))
    ]
    assert sum(chances) == pytest.approx(1, rel=1e-12)
    assert max(chances) == chances[list(permutations((1.0, -0.5, 2.0))).index((2.0, 1.0, -0.5))]


def test_places_without_an_answer_have_no_gradient():
    there = torch.tensor([[True, True, False]])
    for loss in (
        lambda own: bradley_terry(own, there, NONE),
        lambda own: plackett_luce(own, there),
        lambda own: squared_error(own, there, table(1.0, 0.0, math.nan)),
        lambda own: centring(own, there),
    ):
        rewards = table(0.5, 0.1, 3.0).requires_grad_()
        loss(rewards).sum().backward()
        assert rewards.grad[0, 2] == 0
        assert rewards.grad[0, :2].abs().min() > 0


def test_centring_of_two_is_the_square_of_their_sum():
    assert centring(table(1.5, -0.5), ALL).item() == pytest.approx(1.0)


def test_a_reward_is_read_at_the_token_that_ends_the_answer_though_it_fills_up_rows_too():
    values = torch.arange(12.0).view(3, 4)
    lengths = torch.tensor([4, 1, 3])  # tokens behind may all be the end token
    assert last_values(values, lengths).tolist() == [3.0, 4.0, 10.0]
    values[1, 1:] = values[2, 3] = math.inf
    assert last_values(values, lengths).tolist() == [3.0, 4.0, 10.0]
