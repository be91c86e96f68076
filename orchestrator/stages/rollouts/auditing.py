"""Checks of a policy and its settings before a long run, on one step's answers.

Each is a bug that published trainers had: one of them makes a run worthless without stopping it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.configs import language
from orchestrator.config import JobConfig
from orchestrator.stages.rollouts.prompts import PublishedPrompts
from orchestrator.stages.rollouts.training import RolloutTraining
from orchestrator.stages.rollouts.updating import (
    Asked,
    Experience,
    MicroBatch,
    mini_batches,
    policy_objective,
)
from orchestrator.stages.run import Run
from orchestrator.training.advantages import penalised_rewards
from orchestrator.training.loop import backward
from orchestrator.training.objectives import Objective
from orchestrator.training.roles import Role
from orchestrator.training.rollout import Rollout, step_ids, token_logprobs

MISMATCH = 1.05  # mean of exp |difference| of sampler and trainer from which on learning suffers
CLOSE = {"fp32": 1e-4, "bf16": 5e-2}  # nats that rounding may make between two ways to compute
MORE_PADDING = 7


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    name: str
    passed: bool
    detail: str


def audit(config: JobConfig, inputs: PublishedPrompts, run: Run) -> Iterator[Finding]:
    """Let the policy answer the prompts of a first step, and check what is made of that.

    On one rank with a plain engine; no weight changes.
    """
    training = RolloutTraining(config, inputs, run)
    asked = training.ask(1)
    return of_policy(training, asked, training.judge(1, asked))


def of_policy(training: RolloutTraining, asked: Asked, judged: Experience) -> Iterator[Finding]:
    """What is said of the tokens of a first step's answers, and the first update by them."""
    rollout, mask, old = judged.rollout, judged.rollout.mask, judged.old
    close = CLOSE[training.model.config.engine.precision]
    apart = float((old - rollout.sampled)[mask].abs().exp().mean())
    yield Finding(
        "sampler and trainer agree on each token",
        apart <= MISMATCH,
        f"mean exp|difference| {apart:.6f}, at most {MISMATCH}",
    )
    again = float((old - training.logprobs(training.model, rollout)).abs().max())
    yield Finding("scoring twice gives the same", again == 0, f"largest difference {again:.2g}")
    alone = _difference(training, rollout, old, micro=1)
    yield Finding("micro-batches of one give the same", alone <= close, _nats(alone, close))
    padded = _difference(training, wider(rollout), old, micro=len(mask))
    yield Finding("more padding gives the same", padded <= close, _nats(padded, close))
    yield _of_the_reference(training, float(judged.kl[mask].mean()), close)
    yield _of_ends(training, judged, asked)
    yield _of_reward_places(rollout)
    settings = training.settings
    objective = policy_objective("clip", settings, kl_coefficient=settings.kl_coefficient)
    scored = replace(judged, advantages=mask.float())
    yield from of_update(training, training.model, objective, scored, asked)


def _of_the_reference(training: RolloutTraining, kl: float, close: float) -> Finding:
    """Whether a policy that begins as its reference is none apart from it."""
    weights = {
        language(training.config.role(name).model).weights for name in ("model", "reference")
    }
    if len(weights) > 1:
        told = f"{kl:.2g} nats a token; roles.reference has weights of its own"
        return Finding("KL to the reference is a number", math.isfinite(kl), told)
    name = "KL to the reference is that of equal models"
    return Finding(name, abs(kl) <= close, f"{kl:.2g} nats a token, at most {close:g}")


def _of_ends(training: RolloutTraining, judged: Experience, asked: Asked) -> Finding:
    """What is learned of end tokens, and of what fills rows up, which may be the same token."""
    rollout, mask = judged.rollout, judged.rollout.mask
    ends = (rollout.tokens[:, 1:] == training.tokens.end_of_text) & mask
    settings = replace(training.settings, entropy_coefficient=0.0)
    objective = policy_objective("clip", settings, kl_coefficient=0.0)

    def learned(places: Tensor) -> float:
        own = replace(judged, advantages=places.float())
        every = mini_batches(own, asked.ids, settings, training.config.batch.micro)
        batches = [batch for some in every for batch in some]
        return float(_gradient(training, training.model, objective, batches)[0].norm())

    of_ends, of_filling, ended = learned(ends), learned(~mask), int(rollout.ended.sum())
    covered = torch.equal(ends.sum(1), rollout.ended.long()) and of_filling == 0
    return Finding(
        "the end token is learned where an answer has one, and filling nowhere",
        covered and (of_ends > 0 or not ended),
        f"{ended} of {len(mask)} answers end by themselves; gradient of their ends "
        f"{of_ends:.2g}, of filling {of_filling:.2g}",
    )


def _of_reward_places(rollout: Rollout) -> Finding:
    """Where a reward of 1 for each answer comes to stand."""
    mask = rollout.mask
    found = penalised_rewards(torch.ones(len(mask)), torch.zeros(mask.shape), mask.cpu(), 0.0)
    places = torch.arange(mask.shape[1]).expand(mask.shape)
    last = torch.where(mask.cpu(), places, -1).amax(1, keepdim=True)
    return Finding(
        "each reward lands on the last token of its answer",
        torch.equal(found, (places == last).float()),
        f"{len(mask)} answers of {int(mask.sum(1).min())} to {int(mask.sum(1).max())} tokens",
    )


def of_update(
    training: RolloutTraining,
    role: Role,
    objective: Objective[MicroBatch],
    scored: Experience,
    asked: Asked,
) -> Iterator[Finding]:
    """The first update of a model: its ratio, and its gradient however it is cut."""
    close = CLOSE[role.config.engine.precision]
    micro = training.config.batch.micro
    cuts = {
        f"micro-batches of {size}": next(mini_batches(scored, asked.ids, training.settings, size))
        for size in dict.fromkeys((micro, max(micro // 2, 1), 1))
    }
    cuts |= _of_two_workers(training, scored, asked)
    found = [_gradient(training, role, objective, batches) for batches in cuts.values()]
    moved = [each for _, ratios in found for each in ratios]
    if moved:
        yield Finding(
            f"{role.name}: the first update begins at ratio 1",
            max(moved) <= close,
            f"mean |ratio - 1| {max(moved):.2g}",
        )
    whole = found[0][0]
    apart = max(float((whole - own).norm() / whole.norm().clamp(min=1e-12)) for own, _ in found)
    yield Finding(
        f"{role.name}: the gradient does not depend on micro-batch, accumulation and workers",
        apart <= 10 * close,
        f"relative difference {apart:.2g} of {', '.join(cuts)}",
    )


def _of_two_workers(
    training: RolloutTraining, scored: Experience, asked: Asked
) -> dict[str, list[MicroBatch]]:
    """The first optimizer step as two workers share it, each with rows as long as it needs them.

    Empty where answers can't be shared.
    """
    batch, settings = training.config.batch, training.settings
    each, rest = divmod(batch.step // settings.mini_batches, 2)
    if rest:
        return {}
    micro, found = math.gcd(batch.micro, each), []
    for rank in range(2):
        places = step_ids(1, batch.step, settings.mini_batches, micro, rank, 2)
        own = scored.at(torch.from_numpy(places).to(scored.rewards.device))
        own = own.cut(own.rollout.longest)
        found += next(mini_batches(own, asked.ids[places], settings, micro))
    return {"two workers": found}


def _gradient(
    training: RolloutTraining,
    role: Role,
    objective: Objective[MicroBatch],
    batches: Sequence[MicroBatch],
) -> tuple[Tensor, list[float]]:
    """Of an optimizer step on these micro-batches, flat; and how far ratios of each are from 1."""
    weight = sum(batch.weight for batch in batches)
    parts = [backward(role.engine, objective, own, weight, training.config.seed) for own in batches]
    learned = [own for own in role.engine.model.parameters() if own.grad is not None]
    found = torch.cat([own.grad.flatten() for own in learned if own.grad is not None])
    for parameter in learned:
        parameter.grad = None
    moved = [
        float(part.means["ratio_moved"]) / own.weight
        for part, own in zip(parts, batches, strict=True)
        if "ratio_moved" in part.means
    ]
    return found, moved


def _difference(training: RolloutTraining, rollout: Rollout, old: Tensor, micro: int) -> float:
    """The largest of log-probabilities computed in another way and those of `judge`."""
    temperature = training.settings.temperature
    found = token_logprobs(training.model.engine, rollout, temperature, micro)
    return float((found[:, : old.shape[1]] - old).abs().max())


def wider(rollout: Rollout) -> Rollout:
    """The same answers with more filling behind them."""
    rows, more = len(rollout), MORE_PADDING
    filling = rollout.tokens.new_zeros(rows, more)
    return replace(
        rollout,
        tokens=torch.cat([rollout.tokens, filling], 1),
        mask=torch.cat([rollout.mask, filling.bool()], 1),
        sampled=torch.cat([rollout.sampled, filling.float()], 1),
    )


def _nats(found: float, most: float) -> str:
    return f"largest difference {found:.2g} nats, at most {most:g}"
