"""The one supervised training loop, and evaluation.

`fit` takes what it needs as functions (log, evaluate, save, should_stop) and knows nothing of
stages, Ray or MLflow. One optimizer step:

1. Rows int64 (B, T+1) of this rank's micro-batches become inputs and targets (B, T).
2. The valid tokens of the step are counted over all ranks, with the wish to stop.
3. Each micro-batch: logits (B, T, V), summed loss / valid tokens of the whole step, backward.
4. The loss is summed over ranks; a loss that is not finite ends the job before the step.
5. Gradients are reduced, clipped and applied; metrics are logged; a checkpoint may be due.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from data.feed.loader import Batch
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.objectives import next_token_loss

Metrics = dict[str, float]


class NonFiniteLoss(RuntimeError):
    """The loss or the gradient of a step is NaN or infinite."""


class NothingToTrainOn(RuntimeError):
    """A step has no target at all: all of its stored tokens are damaged and were skipped."""


@dataclass(frozen=True)
class Outcome:
    """How a call of `fit` ended."""

    step: int
    """Optimizer steps done since the start of the run."""
    tokens: int
    """Valid tokens trained on in this call, over all ranks."""
    training_seconds: float
    """Wall time in optimizer steps alone."""
    stopped: bool
    """Whether a stop was asked for before the last step."""


@dataclass(frozen=True)
class Schedule:
    """When things are due, in optimizer steps, and the learning rate of each step."""

    steps: int
    evaluate_every: int
    checkpoint_every: int
    learning_rate: Callable[[int], float]


def fit(
    engine: Engine,
    batches: Iterator[list[Batch]],
    schedule: Schedule,
    *,
    start_step: int,
    seed: int,
    trained: Callable[[list[Batch]], None],
    log: Callable[[int, Metrics], None],
    evaluate: Callable[[int], None],
    save: Callable[[int], None],
    should_stop: Callable[[], bool],
) -> Outcome:
    """Train from `start_step` to the end of the schedule or until a stop. Every rank calls it.

    Args:
        engine: holds model and optimizer.
        batches: this rank's micro-batches of one optimizer step after another.
        schedule: when what is due.
        start_step: optimizer steps already done.
        seed: of dropout; with the sample position it fixes the mask of every micro-batch.
        trained: gets this rank's micro-batches of each step that was done.
        log: takes a step and its metrics; called on every rank with the same values.
        evaluate: called with the step when an evaluation is due.
        save: called with the step when a checkpoint is due.
        should_stop: whether this process was asked to stop; one rank is enough.

    Raises:
        NonFiniteLoss: on every rank, naming the step and the samples.
        NothingToTrainOn: on every rank, naming the step.
    """
    tokens, training_seconds, saved_step = 0, 0.0, start_step
    step = start_step
    for step in range(start_step + 1, schedule.steps + 1):
        begun = time.perf_counter()
        micro_batches = next(batches)
        valid = float(sum(int(batch.loss_mask.sum()) for batch in micro_batches))
        valid, stop = distributed.sum_over_ranks([valid, should_stop()], engine.device)
        if stop:
            step -= 1
            break
        if not valid:
            raise NothingToTrainOn(
                f"no sequence of step {step} can be read: all were on damaged blocks; repair the "
                "data, or use a larger stage.global_batch_size"
            )
        losses = [_backward(engine, batch, valid, seed) for batch in micro_batches]
        local = torch.stack(losses)  # (micro-batches,), on the device
        loss = distributed.sum_over_ranks([float(local.sum())], engine.device)[0]
        if not math.isfinite(loss):
            raise _non_finite(step, micro_batches, local)
        rate = schedule.learning_rate(step)
        norm = engine.step(rate)
        if not math.isfinite(norm):
            ids = [int(sample) for batch in micro_batches for sample in batch.sample_ids]
            samples = _over_ranks(ids)
            raise NonFiniteLoss(f"the gradient norm of step {step} is {norm}; samples {samples}")
        trained(micro_batches)
        seconds = time.perf_counter() - begun
        tokens, training_seconds = tokens + int(valid), training_seconds + seconds
        log(
            step,
            {
                "train/loss": loss,
                "train/learning_rate": rate,
                "train/gradient_norm": norm,
                "train/tokens_per_second": valid / seconds,
                "train/tokens": valid,
            },
        )
        if step % schedule.evaluate_every == 0 or step == schedule.steps:
            evaluate(step)
        if step % schedule.checkpoint_every == 0 or step == schedule.steps:
            save(step)
            saved_step = step
    if saved_step != step:
        save(step)
    return Outcome(step, tokens, training_seconds, stopped=step < schedule.steps)


@torch.no_grad()
def evaluate_loss(engine: Engine, batches: Iterator[Batch]) -> tuple[float, int]:
    """Summed loss in nats and number of tokens of a split, over all ranks. Every rank calls it."""
    engine.model.eval()
    total, tokens = 0.0, 0
    for batch in batches:
        inputs, targets, loss_mask, documents = _tensors(batch, engine.device)
        logits = engine.forward(inputs, documents=documents)  # (B, T, V)
        total += float(next_token_loss(logits, targets, loss_mask))
        tokens += int(loss_mask.sum())
    engine.model.train()
    total, count = distributed.sum_over_ranks([total, tokens], engine.device)
    return total, int(count)


def _backward(engine: Engine, batch: Batch, valid_tokens: float, seed: int) -> Tensor:
    """Loss of one micro-batch as its part of the step's mean; adds its gradient."""
    torch.manual_seed(_dropout_seed(seed, batch.position))
    inputs, targets, loss_mask, documents = _tensors(batch, engine.device)
    logits = engine.forward(inputs, documents=documents)  # (B, T, V)
    loss = next_token_loss(logits, targets, loss_mask) / valid_tokens
    engine.backward(loss)
    return loss.detach()


def _tensors(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Inputs, targets, loss mask and, where they are kept apart, documents, each (B, T)."""
    rows = torch.from_numpy(batch.tokens).to(device)  # (B, T+1)
    loss_mask = torch.from_numpy(batch.loss_mask).to(device)
    documents = None if batch.documents is None else torch.from_numpy(batch.documents).to(device)
    return rows[:, :-1], rows[:, 1:], loss_mask, documents


def _dropout_seed(seed: int, position: int) -> int:
    """A seed for each micro-batch, so that dropout does not depend on how ranks share the work."""
    digest = hashlib.blake2b(f"dropout {seed} {position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _non_finite(step: int, micro_batches: list[Batch], losses: Tensor) -> NonFiniteLoss:
    """The error for a step whose loss is not finite; the same on every rank."""
    mine = [
        int(sample)
        for batch, loss in zip(micro_batches, losses.tolist(), strict=True)
        if not math.isfinite(loss)
        for sample in batch.sample_ids
    ]
    return NonFiniteLoss(f"the loss of step {step} is not finite; samples {_over_ranks(mine)}")


def _over_ranks(samples: list[int]) -> list[int]:
    """Samples of all ranks, sorted."""
    return sorted(sample for own in distributed.gather_objects(samples) for sample in own)
