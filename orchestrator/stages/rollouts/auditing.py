"""Checks of a policy and its settings before a long run, on one step's answers.

Each is a bug that published trainers had: one of them makes a run worthless without stopping it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

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
from orchestrator.training.advantages import last_tokens
from orchestrator.training.loop import backward
from orchestrator.training.objectives import Objective
from orchestrator.training.roles import Role
from orchestrator.training.rollout import Rollout, token_logprobs

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
    kl = float(judged.kl[mask].mean())
    yield Finding(
        "KL to the reference is that of equal models",
        abs(kl) <= close,
        f"{kl:.2g} nats a token; a policy that has learned already is apart from its reference",
    )
    ends = rollout.tokens[:, 1:] == training.tokens.end_of_text
    covered = torch.equal((ends & mask).sum(1), rollout.ended.long())
    yield Finding(
        "the end token is learned where an answer has one, and filling nowhere",
        covered,
        f"{int(rollout.ended.sum())} of {len(mask)} answers end by themselves",
    )
    placed = bool((last_tokens(mask).sum(1) == 1).all())
    yield Finding("each reward lands on the last token of its answer", placed, f"{len(mask)}")
    settings = training.settings
    objective = policy_objective("clip", settings, kl_coefficient=settings.kl_coefficient)
    scored = replace(judged, advantages=mask.float())
    yield from of_update(training, training.model, objective, scored, asked)


def of_update(
    training: RolloutTraining,
    role: Role,
    objective: Objective[MicroBatch],
    scored: Experience,
    asked: Asked,
) -> Iterator[Finding]:
    """The first update of a model: its ratio, and its gradient however it is cut."""
    close = CLOSE[role.config.engine.precision]
    gradients: dict[int, Tensor] = {}
    moved: list[float] = []
    micro = training.config.batch.micro
    for size in dict.fromkeys((micro, max(micro // 2, 1), 1)):
        batches = next(mini_batches(scored, asked.ids, training.settings, size))
        weight = sum(batch.weight for batch in batches)
        parts = [
            backward(role.engine, objective, own, weight, training.config.seed) for own in batches
        ]
        moved += [
            float(part.means["ratio_moved"]) / own.weight
            for part, own in zip(parts, batches, strict=True)
            if "ratio_moved" in part.means
        ]
        learned = [own for own in role.engine.model.parameters() if own.grad is not None]
        gradients[size] = torch.cat([p.grad.flatten() for p in learned if p.grad is not None])
        for parameter in learned:
            parameter.grad = None
    if moved:
        yield Finding(
            f"{role.name}: the first update begins at ratio 1",
            max(moved) <= close,
            f"mean |ratio - 1| {max(moved):.2g}",
        )
    whole = gradients[micro]
    apart = max(
        float((whole - own).norm() / whole.norm().clamp(min=1e-12)) for own in gradients.values()
    )
    yield Finding(
        f"{role.name}: the gradient does not depend on micro-batch and accumulation",
        apart <= 10 * close,
        f"relative difference {apart:.2g} of micro-batches of {', '.join(map(str, gradients))}",
    )


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
