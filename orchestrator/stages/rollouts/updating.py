"""What a policy learns from a step's answers: their account, its objective, an optimizer step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.stages.rollouts.pretraining import Text
from orchestrator.stages.rollouts.section import RolloutConfig
from orchestrator.training import distributed
from orchestrator.training.bad_loss import Losses
from orchestrator.training.engine import Engine
from orchestrator.training.kl import kl_estimate
from orchestrator.training.loop import Metrics, Totals, backward
from orchestrator.training.objectives import Objective, Summed
from orchestrator.training.own_work import OwnWork
from orchestrator.training.policy_loss import policy_loss, ratios, step_weight, token_weights
from orchestrator.training.rollout import Rollout, Rows, slices


@dataclass(frozen=True)
class Asked:
    """What a rank's policy was asked in a step, and its answers."""

    ids: NDArray[np.int64]
    """(B,): numbers of the answers in the run."""
    prompts: list[tuple[str, str]]
    """Of each answer what was asked, and the answer of the data."""
    rollout: Rollout
    texts: list[str]
    """The answers."""


@dataclass(frozen=True)
class Experience(Rows):
    """Answers with all that is known of them before the policy changes; T as in `Rollout`."""

    rollout: Rollout
    rewards: Tensor
    """fp32 (B,)."""
    old: Tensor
    """fp32 (B, T): log-probabilities of the policy that has written them."""
    reference: Tensor
    """fp32 (B, T): those of the reference."""
    advantages: Tensor
    """fp32 (B, T), 0 outside the mask."""

    @property
    def kl(self) -> Tensor:
        """Of policy and reference, nats at each token, (B, T); never negative (k3)."""
        return kl_estimate(self.old, self.reference, "k3") * self.rollout.mask


@dataclass(frozen=True)
class MicroBatch:
    """Answers that go through a model together."""

    of: Experience
    sample_ids: NDArray[np.int64]
    """(B,): numbers of the answers in the run."""
    weight: float
    """What their losses are divided by, summed over the optimizer step."""


def mini_batches(
    experience: Experience, ids: NDArray[np.int64], stage: RolloutConfig, micro: int
) -> Iterator[list[MicroBatch]]:
    """This rank's micro-batches of each optimizer step of an epoch, the same in every epoch.

    None is filled up beyond its own longest answer.
    """
    each = len(ids) // stage.mini_batches
    for start in range(0, len(ids), each):
        own, numbers = experience.at(slice(start, start + each)), ids[start : start + each]
        yield [
            MicroBatch(part, numbers[rows], step_weight(part.rollout.mask, stage.aggregation))
            for rows in slices(each, micro)
            for some in [own.at(rows)]
            for part in [some.cut(some.rollout.longest)]
        ]


def policy_objective(
    how: str, stage: RolloutConfig, *, kl_coefficient: float
) -> Objective[MicroBatch]:
    """The loss of a policy on answers.

    Args:
        how: of training/policy_loss.py.
        stage: the settings.
        kl_coefficient: what a nat of KL to the reference costs in the loss.
    """

    def objective(engine: Engine, batch: MicroBatch) -> Summed:
        own, rollout = batch.of, batch.of.rollout
        tokens, mask = rollout.tokens, rollout.mask
        found = engine.forward(
            tokens[:, :-1], targets=tokens[:, 1:], loss_mask=mask, temperature=stage.temperature
        )  # (B, T, 2)
        logprobs, entropy = found.unbind(-1)
        losses, clipped = policy_loss(
            logprobs, own.old, own.advantages, mask,
            how=how, low=stage.clip_low, high=stage.clip_high,
        )  # fmt: skip
        if stage.corrects:  # they were written by the policy of a step before, or by vLLM
            losses = losses * importance(own.old, rollout.sampled, stage.importance_limit)
        total = losses
        if stage.entropy_coefficient:
            total = total - stage.entropy_coefficient * entropy
        if kl_coefficient:
            total = total + kl_coefficient * kl_estimate(
                logprobs, own.reference, stage.kl_estimator
            )
        weights = token_weights(mask, stage.aggregation, stage.answer_tokens)
        moved = (ratios(logprobs.detach(), own.old, mask) - 1).abs()
        means = {"clipped": clipped, "entropy": entropy.detach(), "ratio_moved": moved}
        return Summed(
            (total * weights).sum(), {name: (x * weights).sum() for name, x in means.items()}
        )

    return objective


def importance(ours: Tensor, theirs: Tensor, limit: float) -> Tensor:
    """What tokens count that others have written: our probability / theirs, at most `limit`.

    Truncated importance sampling (Ionides 2008), by log-probabilities (B, T), without a gradient.
    """
    return (ours - theirs).detach().exp().clamp(max=limit)


class Updates:
    """Takes optimizer steps of one model. Every rank calls it, for the same models in one order."""

    def __init__(
        self,
        engine: Engine,
        seed: int,
        own: OwnWork,
        *,
        before: Callable[[], None],
        after: Callable[[], None] | None = None,
        text: Text | None = None,
    ) -> None:
        """Begin with no loss.

        Args:
            engine: holds the model.
            seed: of dropout.
            own: measures forward passes.
            before: called before weights change.
            after: called when they have changed.
            text: learned beside the answers.
        """
        self.engine, self.seed, self.own = engine, seed, own
        self.before, self.after, self.text = before, after, text
        self.losses = Losses(None)

    def __call__(
        self,
        step: int,
        objective: Objective[MicroBatch],
        batches: Sequence[MicroBatch],
        rate: float,
        name: str = "train",
    ) -> Metrics:
        """One optimizer step on this rank's micro-batches; mean loss and metrics over all ranks,
        whose names begin with `name`.

        Raises:
            NonFiniteLoss: on every rank, naming step and answers.
        """
        own = float(sum(batch.weight for batch in batches))
        [weight] = distributed.sum_over_ranks([own], self.engine.device)
        parts = [
            backward(self.engine, objective, batch, weight, self.seed, self.own)
            for batch in batches
        ]
        of_text = {} if self.text is None else self.text.learn(self.engine, self.own)
        totals = Totals.of(parts, own).of_step(self.engine.device)
        self.losses.check(step, totals.loss / weight, batches, parts)
        self.before()
        norm = self.engine.step(rate)
        self.losses.check_gradient(step, norm, batches)
        if self.after is not None:
            self.after()
        return totals.metrics(name) | of_text | {f"{name}/gradient_norm": norm}


def over_all(places: NDArray[np.int64], values: Tensor) -> Tensor:
    """A number of each answer of a step over all ranks, float64, by place. Every rank calls it.

    Args:
        places: of this rank's answers among all of the step, (B,).
        values: (B,).
    """
    every = distributed.gather_objects((places, values.double().cpu()))
    order = torch.from_numpy(np.concatenate([own for own, _ in every]))
    whole = torch.empty(len(order), dtype=torch.float64)
    whole[order] = torch.cat([own for _, own in every])
    return whole


def averaged(parts: Sequence[Metrics]) -> Metrics:
    """Means over the optimizer steps of a step."""
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


def mean_over_tokens(values: Tensor, mask: Tensor) -> float:
    """Mean of values (B, T) over the masks of all ranks. Every rank calls it."""
    own = [float(values[mask].double().sum()), float(mask.sum())]
    total, count = distributed.sum_over_ranks(own, values.device)
    return total / max(count, 1.0)


def kl_of_an_answer(experience: Experience) -> float:
    """Nats, on average over the answers of all ranks (k1). Every rank calls it."""
    mask = experience.rollout.mask
    kl = kl_estimate(experience.old, experience.reference, "k1")
    own = [float(kl[mask].double().sum()), float(len(mask))]
    total, count = distributed.sum_over_ranks(own, mask.device)
    return total / count


def spread(advantages: Tensor, mask: Tensor) -> Tensor:
    """The advantage of each answer, (B,), at each of its tokens, (B, T)."""
    return torch.where(mask, advantages[:, None], 0.0)
