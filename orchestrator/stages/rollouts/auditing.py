"""Checks of a policy and its settings before a long run, on one step's answers.

Each is a bug that published trainers had: one of them makes a run worthless without stopping it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.stages.rollouts.training import RolloutTraining
from orchestrator.stages.rollouts.updating import Experience, mini_batches, policy_objective
from orchestrator.training.advantages import last_tokens
from orchestrator.training.loop import backward
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


def audit(training: RolloutTraining) -> Iterator[Finding]:
    """Let the policy answer the prompts of a first step, and check what is made of that.

    On one rank with a plain engine; no weight changes.
    """
    asked = training.ask(1)
    judged = training.judge(1, asked)
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
    wider = _difference(training, _wider(rollout), old, micro=len(mask))
    yield Finding("more padding gives the same", wider <= close, _nats(wider, close))
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
    yield from _of_gradients(training, judged, asked.ids)


def _of_gradients(
    training: RolloutTraining, judged: Experience, ids: NDArray[np.int64]
) -> Iterator[Finding]:
    """Ratio and gradient of the first update, whole and in micro-batches of one."""
    settings, mask = training.settings, judged.rollout.mask
    scored = replace(judged, advantages=mask.float())
    objective = policy_objective("clip", settings, kl_coefficient=settings.kl_coefficient)
    close = CLOSE[training.model.config.engine.precision]
    found: list[Tensor] = []
    moved = 0.0
    for micro in (training.config.batch.micro, 1):
        batches = next(mini_batches(scored, ids, settings, micro))
        weight = sum(batch.weight for batch in batches)
        for batch in batches:
            part = backward(training.model.engine, objective, batch, weight, training.config.seed)
            moved = max(moved, float(part.means["ratio_moved"]) / batch.weight)
        own = [p for p in training.model.engine.model.parameters() if p.grad is not None]
        found.append(torch.cat([p.grad.flatten() for p in own if p.grad is not None]))
        for parameter in own:
            parameter.grad = None
    yield Finding(
        "the first update begins at ratio 1", moved <= close, f"mean |ratio - 1| {moved:.2g}"
    )
    whole, cut = found
    apart = float((whole - cut).norm() / whole.norm().clamp(min=1e-12))
    yield Finding(
        "the gradient does not depend on the micro-batch",
        apart <= 10 * close,
        f"relative difference {apart:.2g}",
    )


def _difference(training: RolloutTraining, rollout: Rollout, old: Tensor, micro: int) -> float:
    """The largest of log-probabilities computed in another way and those of `judge`."""
    temperature = training.settings.temperature
    found = token_logprobs(training.model.engine, rollout, temperature, micro)
    return float((found[:, : old.shape[1]] - old).abs().max())


def _wider(rollout: Rollout) -> Rollout:
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
