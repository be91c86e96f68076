"""An update of a policy on answers: where it begins, and what it does not depend on."""

import math
from dataclasses import replace

import pytest
import torch

from models.configs import GPTConfig
from orchestrator.config import EngineConfig, OptimConfig, RoleConfig
from orchestrator.stages.grpo.stage import GRPOConfig
from orchestrator.stages.rollouts.auditing import wider
from orchestrator.stages.rollouts.updating import (
    Experience,
    kl_of_an_answer,
    mean_over_tokens,
    mini_batches,
    policy_objective,
)
from orchestrator.training.loop import Totals, backward
from orchestrator.training.roles import build_role
from orchestrator.training.rollout import sample, token_logprobs

END = 23  # what this model often says
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]  # of unlike lengths
STAGE = GRPOConfig(entropy_coefficient=0.01, kl_coefficient=0.1, answer_tokens=8, temperature=1.0)


@pytest.fixture(scope="module")
def policy():
    """A small model whose positions are learned."""
    model = GPTConfig(
        vocab_size=31, max_positions=24, layers=2, width=32, heads=4, positions="learned",
        init_std=0.3,
    )  # fmt: skip
    engine = EngineConfig(name="torch", precision="fp32")
    own = RoleConfig(model, engine, OptimConfig())
    return build_role("model", own, device=torch.device("cpu"), seed=0)


@pytest.fixture(scope="module")
def answered(policy):
    """Eight answers of it with all that is known of them."""
    rollout = sample(
        policy, PROMPTS, [3, 3, 2], range(8), most_tokens=8, temperature=1.0, end=END, micro=8
    )
    assert rollout.ended.sum() > 0
    assert len(set(rollout.mask.sum(1).tolist())) > 2, "uneven lengths"
    old = token_logprobs(policy.engine, rollout, 1.0, 8)
    draw = torch.Generator().manual_seed(1)
    advantages = torch.randn(8, 1, generator=draw) * rollout.mask
    reference = old + 0.1 * torch.randn(old.shape, generator=draw) * rollout.mask
    return Experience(rollout, torch.zeros(8), old, reference, advantages)


def gradient(policy, experience, micro, stage=STAGE):
    """The gradient of a first update, flat, and what is told of it."""
    [batches] = mini_batches(experience, torch.arange(8).numpy(), stage, micro)
    weight = sum(own.weight for own in batches)
    objective = policy_objective("clip", stage, kl_coefficient=stage.kl_coefficient)
    parts = [backward(policy.engine, objective, own, weight, 0) for own in batches]
    found = torch.cat([own.grad.flatten() for own in policy.engine.model.parameters()])
    for own in policy.engine.model.parameters():
        own.grad = None
    return found, Totals.of(parts, weight).metrics("train")


def test_the_first_ratio_of_ragged_prompts_is_1(policy, answered):
    _, told = gradient(policy, answered, 4)
    assert told["train/ratio_moved"] == pytest.approx(0, abs=1e-5)
    assert told["train/clipped"] == 0


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_no_cut_into_micro_batches_changes_the_gradient_of_answers_of_uneven_length(
    policy, answered, aggregation
):
    stage = replace(STAGE, aggregation=aggregation)
    whole, told = gradient(policy, answered, 8, stage)
    for micro in (4, 2, 1):
        cut, own = gradient(policy, answered, micro, stage)
        assert torch.allclose(whole, cut, rtol=1e-4, atol=1e-6)
        assert own == pytest.approx(told, rel=1e-5, abs=1e-6)


def test_padding_reaches_neither_gradient_nor_entropy_nor_kl(policy, answered):
    rollout = wider(answered.rollout)
    extra = rollout.mask.shape[1] - answered.old.shape[1]
    filled = {
        name: torch.nn.functional.pad(getattr(answered, name), (0, extra), value=50.0)
        for name in ("old", "reference", "advantages")
    }
    padded = replace(answered, rollout=rollout, **filled)
    (plain, told), (found, own) = (gradient(policy, each, 8) for each in (answered, padded))
    assert torch.allclose(plain, found, rtol=1e-4, atol=1e-6)
    assert own == pytest.approx(told, rel=1e-5, abs=1e-6)
    assert kl_of_an_answer(padded) == pytest.approx(kl_of_an_answer(answered))
    first, second = (mean_over_tokens(o.kl, o.rollout.mask) for o in (answered, padded))
    assert second == pytest.approx(first)


def test_the_token_that_ends_an_answer_is_learned_though_filling_is_the_same_token(
    policy, answered
):
    ends = (answered.rollout.tokens[:, 1:] == END) & answered.rollout.mask
    only = replace(answered, advantages=ends.float(), reference=answered.old)
    learned, _ = gradient(policy, only, 8, replace(STAGE, entropy_coefficient=0.0))
    assert learned.norm() > 1e-3
    filling = replace(only, advantages=(~answered.rollout.mask).float())
    nothing, _ = gradient(policy, filling, 8, replace(STAGE, entropy_coefficient=0.0))
    assert nothing.norm() == pytest.approx(0, abs=1e-6)


def test_answers_after_an_update_are_those_of_the_new_weights(policy):
    how = {"most_tokens": 8, "temperature": 0.6, "end": END, "micro": 4}
    before = sample(policy, PROMPTS, [1, 1, 1], range(3), **how)
    kept = [own.detach().clone() for own in policy.engine.model.parameters()]
    try:
        with torch.no_grad():
            for own in policy.engine.model.parameters():
                own.add_(0.1 * torch.randn_like(own))
        after = sample(policy, PROMPTS, [1, 1, 1], range(3), **how)
        now = token_logprobs(policy.engine, after, 0.6, 4)
        assert torch.allclose(now, after.sampled, atol=1e-5)
        again = token_logprobs(policy.engine, before, 0.6, 4)
        assert not torch.allclose(again, before.sampled, atol=1e-2)
    finally:
        with torch.no_grad():
            for own, old in zip(policy.engine.model.parameters(), kept, strict=True):
                own.copy_(old)


def test_what_another_engine_has_written_counts_by_the_policys_own_probability_up_to_a_limit(
    policy, answered
):
    plain = replace(STAGE, entropy_coefficient=0.0, kl_coefficient=0.0)
    foreign = replace(plain, engines=1, engine_kind="vllm", engine_python="/python")
    expected, _ = gradient(policy, answered, 8, plain)
    for likelier, counts in ((0.5, 0.5), (1.5, 1.5), (4.0, 2.0)):
        theirs = answered.old - math.log(likelier) * answered.rollout.mask
        written = replace(answered, rollout=replace(answered.rollout, sampled=theirs))
        found, _ = gradient(policy, written, 8, foreign)
        torch.testing.assert_close(found, counts * expected, rtol=1e-4, atol=1e-6)
