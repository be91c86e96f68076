"""Losses of preference pairs, against closed forms and gradients worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from orchestrator.training.preferences import answer_logprobs, dpo, ipo, kto, orpo, simpo


def test_at_equal_preference_dpo_is_ln_2_and_its_gradient_half_of_beta():
    margin = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    loss = dpo(margin, 0.3)
    assert loss.tolist() == pytest.approx([math.log(2)] * 3, abs=1e-15)
    loss.sum().backward()
    assert margin.grad.tolist() == pytest.approx([-0.15] * 3, abs=1e-15)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo_is_the_cross_entropy_of_a_coin_that_is_wrong_so_often(smoothing):
    for margin in (-7.0, -0.5, 0.0, 2.0, 40.0):
        chance = 1 / (1 + math.exp(-0.5 * margin))
        wrong = -0.5 * margin - math.log1p(math.exp(-0.5 * margin))  # log(1 - chance)
        by_hand = -(1 - smoothing) * math.log(chance) - smoothing * wrong
        found = dpo(torch.tensor([margin], dtype=torch.float64), 0.5, smoothing)
        assert found.item() == pytest.approx(by_hand, rel=1e-12)


def test_swapping_the_answers_of_a_pair_turns_the_gradient_round():
    margin = torch.tensor([1.5, -1.5], dtype=torch.float64, requires_grad=True)
    (dpo(margin, 1.0) * torch.tensor([1.0, 0.0])).sum().backward()
    right = margin.grad.clone()
    margin.grad = None
    (dpo(-margin, 1.0) * torch.tensor([0.0, 1.0])).sum().backward()
    assert right[0].item() == pytest.approx(-margin.grad[1].item())


def test_conservative_dpo_is_lowest_where_the_coin_is_as_often_wrong():
    margin = torch.tensor([math.log(0.8 / 0.2) / 0.1], dtype=torch.float64, requires_grad=True)
    dpo(margin, 0.1, 0.2).sum().backward()
    assert margin.grad.item() == pytest.approx(0, abs=1e-15)


def test_ipo_is_lowest_at_half_of_the_inverse_of_beta():
    margin = torch.tensor([5.0, 4.0, 6.0], dtype=torch.float64, requires_grad=True)
    loss = ipo(margin, 0.1)
    loss.sum().backward()
    assert loss.tolist() == [0, 1, 1]
    assert margin.grad.tolist() == [0, -2, 2]


def test_only_the_tokens_of_the_answer_are_summed():
    losses = torch.tensor([[9.0, 1.0, 2.0, 9.0], [9.0, 9.0, 9.0, 0.5]])
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]]).bool()
    assert answer_logprobs(losses, mask).tolist() == [-3.0, -0.5]


LOGPROBS = torch.tensor([[-3.0, -8.0], [-20.0, -1.5]], dtype=torch.float64)
LENGTHS = torch.tensor([[4, 5], [6, 2]])


def test_kto_is_1_half_where_nothing_was_learned_and_counts_each_answer_by_itself():
    nothing = torch.zeros(1, 2, dtype=torch.float64)
    assert kto(nothing, torch.tensor(0.0), 0.1).tolist() == [0.5]
    gains, kl, beta = torch.tensor([[2.0, -1.0]], dtype=torch.float64), torch.tensor(0.5), 0.3
    good = 1 - torch.sigmoid(beta * (gains[:, 0] - kl))  # as TRL has them, each with weight 1
    bad = 1 - torch.sigmoid(beta * (kl - gains[:, 1]))
    mean_of_all = torch.cat([good, bad]).mean()
    assert kto(gains, kl, beta).item() == pytest.approx(mean_of_all.item(), abs=1e-12)


def test_simpo_is_that_of_a_margin_per_token_less_a_gap():
    found = simpo(LOGPROBS, LENGTHS, 2.0, 1.0)
    for (chosen, rejected), (many, few), loss in zip(LOGPROBS, LENGTHS, found, strict=True):
        margin = chosen / many - rejected / few
        trl = -F.logsigmoid(2.0 * (margin - 1.0 / 2.0))  # it divides gamma by beta beforehand
        assert loss.item() == pytest.approx(trl.item(), abs=1e-12)


def test_orpo_is_the_loss_of_the_chosen_answer_and_the_log_of_the_odds_ratio():
    found = orpo(LOGPROBS, LENGTHS, 0.1)
    for (chosen, rejected), (many, few), loss in zip(LOGPROBS, LENGTHS, found, strict=True):
        p, q = math.exp(chosen / many), math.exp(rejected / few)
        ratio = (p / (1 - p)) / (q / (1 - q))
        by_hand = -chosen / many - 0.1 * math.log(ratio / (1 + ratio))
        assert loss.item() == pytest.approx(float(by_hand), abs=1e-12)


def test_orpo_of_a_sure_answer_and_its_gradient_are_finite():
    sure = torch.tensor([[0.0, -5.0], [-1e-9, 0.0]], requires_grad=True)
    loss = orpo(sure, LENGTHS, 0.1).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(sure.grad).all()
