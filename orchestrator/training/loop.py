"""The one supervised training loop, and evaluation.

`fit` takes what it needs as functions (objective, log, evaluate, save, should_stop) and knows
nothing of stages, Ray or MLflow. One optimizer step:

1. The weight of the step (tokens, samples) is summed over all ranks, with the wishes to stop
   and to save.
2. Each micro-batch: the objective's summed loss / the weight of the whole step, backward.
3. Loss and metrics are summed over ranks; a loss that is not finite ends the job before the step.
4. Gradients are reduced, clipped and applied; metrics are logged; an evaluation, a checkpoint or
   the end for want of progress may be due.
"""

import hashlib
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from cluster.heart import Heart
from models.dropout import keyed
from orchestrator.training import distributed
from orchestrator.training.bad_loss import Losses
from orchestrator.training.engine import Engine
from orchestrator.training.objectives import Batch, MicroBatch, Objective, Summed
from orchestrator.training.own_work import OwnWork
from orchestrator.training.patience import END, EVALUATION, STEP
from orchestrator.training.selection import Selection

Metrics = dict[str, float]


class NothingToTrainOn(RuntimeError):
    """A step has no target at all: all of its samples are damaged and were skipped, or masked."""


@dataclass(frozen=True)
class Trained:
    """How a call of `fit` ended."""

    step: int
    """Optimizer steps done since the start of the run."""
    weight: float
    """What was trained on in this call (tokens, samples), over all ranks."""
    training_seconds: float
    """Wall time in optimizer steps alone."""
    stopped: bool
    """Whether a stop was asked for before the last step."""
    exhausted: bool = False
    """Whether it ended before the last step for want of progress."""


@dataclass
class Spent:
    """What training has taken since step 0, through all the runs that led here."""

    weight: float = 0.0
    """Tokens or samples trained on, over all ranks."""
    flops: float = 0.0
    """Floating-point operations of the models, by models/cost.py."""
    seconds: float = 0.0
    """Wall time in optimizer steps alone."""

    def add(self, weight: float, flops: float, seconds: float) -> None:
        """Count a step that was done."""
        self.weight += weight
        self.flops += flops
        self.seconds += seconds


@dataclass(frozen=True)
class Schedule:
    """When things are due, in optimizer steps, and the learning rate of each step."""

    steps: int
    evaluate_at: Callable[[int], bool]
    save_at: Callable[[int], bool]
    learning_rate: Callable[[int], float]
    save_minutes: float | None = None
    """Minutes after which a checkpoint is due, whatever the step. None: steps alone decide."""
    save_best: bool = False
    """Whether a checkpoint is due where an evaluation is the best so far."""


@dataclass(frozen=True)
class Totals:
    """What an objective says of many micro-batches, summed over their samples."""

    weight: float
    loss: float
    means: Metrics
    """Divided by the weight in `metrics`."""
    counts: Metrics

    @classmethod
    def of(cls, parts: Sequence[Summed], weight: float) -> "Totals":
        """The sums over micro-batches of one rank; waits for the device, once."""
        if not parts:
            return cls(weight, 0.0, {}, {})
        rows = [[part.loss, *part.means.values(), *part.counts.values()] for part in parts]
        table = torch.stack([torch.stack([x.detach().double() for x in row]) for row in rows])
        loss, *others = table.sum(0).tolist()
        means, counts = list(parts[0].means), list(parts[0].counts)
        return cls(
            weight,
            loss,
            dict(zip(means, others[: len(means)], strict=True)),
            dict(zip(counts, others[len(means) :], strict=True)),
        )

    def __add__(self, other: "Totals") -> "Totals":
        """The sums over both."""
        return Totals(
            self.weight + other.weight,
            self.loss + other.loss,
            _added(self.means, other.means),
            _added(self.counts, other.counts),
        )

    def over_ranks(self) -> "Totals":
        """The sums over all ranks, of which some may have had nothing. Every rank calls it."""
        first, *others = distributed.gather_objects(self)
        return sum(others, start=first)

    def of_step(self, device: torch.device) -> "Totals":
        """The sums over ranks that all had a micro-batch, in one reduction. Every rank calls it."""
        numbers = [self.weight, self.loss, *self.means.values(), *self.counts.values()]
        weight, loss, *others = distributed.sum_over_ranks(numbers, device)
        means, counts = others[: len(self.means)], others[len(self.means) :]
        return Totals(
            weight,
            loss,
            dict(zip(self.means, means, strict=True)),
            dict(zip(self.counts, counts, strict=True)),
        )

    def metrics(self, prefix: str) -> Metrics:
        """Mean loss, means and counts, by names such as `prefix/loss`."""
        means = {name: x / self.weight for name, x in {"loss": self.loss, **self.means}.items()}
        return {f"{prefix}/{name}": x for name, x in {**means, **self.counts}.items()}


def every(steps: int | None) -> Callable[[int], bool]:
    """Due at each multiple of so many steps; None: never."""
    return lambda step: steps is not None and step % steps == 0


def once_an_epoch(samples: int, batch: int) -> Callable[[int], bool]:
    """Due at the step that completes an epoch of so many samples, `batch` of them in a step."""
    return lambda step: step * batch // samples > (step - 1) * batch // samples


def fit(
    engine: Engine,
    objective: Objective[Batch],
    batches: Iterator[list[Batch]],
    schedule: Schedule,
    *,
    start_step: int,
    spent: Spent,
    flops_per_step: float,
    seed: int,
    unit: str,
    trained: Callable[[list[Batch]], None],
    log: Callable[[int, Metrics], None],
    evaluate: Callable[[int], Metrics],
    save: Callable[[int], None],
    before_update: Callable[[], None],
    should_stop: Callable[[], bool],
    heart: Heart,
    selection: Selection | None = None,
    spike_sigmas: float | None = None,
    left_out: Container[int] = (),
) -> Trained:
    """Train from `start_step` to the end of the schedule, a stop, or the end of all progress.

    Every rank calls it.

    Args:
        engine: holds model and optimizer.
        objective: what is minimised.
        batches: this rank's micro-batches of one optimizer step after another.
        schedule: when what is due.
        start_step: optimizer steps already done.
        spent: what they have taken; it grows with each step. Its sums are metrics of every step,
            so that a curve can be drawn over any of them.
        flops_per_step: floating-point operations of a step, over all ranks.
        seed: of dropout; with the numbers of the samples it fixes every mask.
        unit: what weights count, for the names of metrics: tokens, samples.
        trained: gets this rank's micro-batches of each step that was done.
        log: takes a step and its metrics; called on every rank with the same values.
        evaluate: called with the step when an evaluation is due; returns what it has measured,
            the same on every rank.
        save: called with the step when a checkpoint is due; it may read the engine's state until
            `before_update`, which is called before that changes.
        should_stop: whether this process was asked to stop; one rank is enough.
        heart: told what this rank is busy with, and how long its own work took.
        selection: takes in each evaluation, and says when there is no more progress.
        spike_sigmas: from where on a loss is a spike, see `Losses`. None: nowhere.
        left_out: steps that may have no target at all: their gradient is zero, and momentum and
            the count of steps go on as in any other.

    Raises:
        BadLoss: on every rank, naming the step and the samples.
        NothingToTrainOn: on every rank, naming the step.
    """
    trained_weight, training_seconds, saved_step = 0.0, 0.0, start_step
    step, saved_at, exhausted = start_step, time.monotonic(), False
    own, losses = OwnWork(engine.device), Losses(spike_sigmas)
    for step in range(start_step + 1, schedule.steps + 1):
        heart.beat(STEP, step)
        begun = time.perf_counter()
        with own():
            micro_batches = next(batches)
        waited = time.perf_counter() - begun
        own_weight = float(sum(batch.weight for batch in micro_batches))
        overdue = _overdue(schedule.save_minutes, saved_at)
        # In one reduction, so that all ranks stop and save at the same step.
        weight, stop, overdue_ranks = distributed.sum_over_ranks(
            [own_weight, should_stop(), overdue], engine.device
        )
        if stop:
            step -= 1
            break
        if not weight and step not in left_out:
            raise NothingToTrainOn(
                f"no sample of step {step} has a target: all were on damaged blocks, or masked; "
                "repair the data, or use a larger stage.global_batch_size"
            )
        parts = [
            backward(engine, objective, batch, weight or 1.0, seed, own) for batch in micro_batches
        ]
        totals = Totals.of(parts, own_weight).of_step(engine.device)
        losses.check(step, totals.loss / (weight or 1.0), micro_batches, parts)
        rate = schedule.learning_rate(step)
        before_update()
        norm = engine.step(rate)
        losses.check_gradient(step, norm, micro_batches)
        heart.worked(step, own.take())
        trained(micro_batches)
        seconds = time.perf_counter() - begun
        trained_weight, training_seconds = trained_weight + weight, training_seconds + seconds
        spent.add(weight, flops_per_step, seconds)
        metrics = (totals.metrics("train") if weight else {}) | {
            "train/learning_rate": rate,
            "train/gradient_norm": norm,
            f"train/{unit}_per_second": weight / seconds,
            f"train/{unit}": spent.weight,
            "train/flops": spent.flops,
            "train/seconds": spent.seconds,
            "train/step_seconds": seconds,
            "train/data_wait_fraction": waited / seconds,
        }
        log(step, metrics)
        due = schedule.save_at(step) or bool(overdue_ranks) or step == schedule.steps
        if schedule.evaluate_at(step) or step == schedule.steps:
            measured = evaluate(step)
            if selection is not None:
                best = selection.take(step, measured)
                exhausted = selection.exhausted
                due |= exhausted or (best and schedule.save_best)
        if due:
            save(step)
            saved_step, saved_at = step, time.monotonic()
        if exhausted:
            break
    if saved_step != step:
        save(step)
    heart.beat(END)
    early = step < schedule.steps
    return Trained(
        step, trained_weight, training_seconds, early and not exhausted, early and exhausted
    )


def _overdue(minutes: float | None, since: float) -> bool:
    """Whether so many minutes have passed; None: never."""
    return minutes is not None and time.monotonic() - since >= 60 * minutes


@contextmanager
def evaluating(engine: Engine) -> Iterator[None]:
    """The model without dropout and without gradients, while the block runs."""
    training = engine.model.training
    engine.model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        engine.model.train(training)


def evaluate(
    engine: Engine, objective: Objective[Batch], batches: Iterable[Batch], heart: Heart
) -> Totals:
    """The objective over all micro-batches of all ranks, without dropout. Every rank calls it.

    Ranks may have different numbers of micro-batches; under ZeRO 3, whose forward pass is one of
    all ranks together, they must have the same number.
    """
    weight, parts = 0.0, []
    with evaluating(engine):
        for batch in batches:
            heart.beat(EVALUATION)
            parts.append(objective(engine, batch))
            weight += batch.weight
    return Totals.of(parts, weight).over_ranks()


def backward(
    engine: Engine,
    objective: Objective[Batch],
    batch: Batch,
    weight: float,
    seed: int,
    own: OwnWork | None = None,
) -> Summed:
    """What the objective says of one micro-batch; adds its part of the step's gradient.

    Args:
        engine: holds the model.
        objective: what is minimised.
        batch: the micro-batch.
        weight: of the whole step, over all ranks.
        seed: of dropout; with the numbers of the samples it fixes every mask.
        own: measures the forward pass.
    """
    with _randomness(seed, batch, engine.device):
        with own() if own is not None else nullcontext():
            summed = objective(engine, batch)
        engine.backward(summed.loss / weight)
    return replace(summed, loss=summed.loss.detach())


@contextmanager
def _randomness(seed: int, batch: MicroBatch, device: torch.device) -> Iterator[None]:
    """Key dropout by the sample, so that it does not depend on how ranks share the work.

    Whatever else draws random numbers in the model starts from the number of the first sample.
    """
    digest = hashlib.blake2b(f"dropout {seed}".encode(), digest_size=8).digest()
    run = np.frombuffer(digest, dtype=np.int64)  # (1,)
    seeds = run + batch.sample_ids  # (B,); sums wrap around
    # Read on the CPU: reading one back would wait for the GPU. torch.manual_seed would note its
    # caller's stack for every kind of accelerator that is not there, each time.
    torch.default_generator.manual_seed(int(seeds[0]))
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed_all(int(seeds[0]))
    with keyed(torch.from_numpy(seeds).to(device)):
        yield


def _added(some: Metrics, others: Metrics) -> Metrics:
    return {name: some.get(name, 0.0) + others.get(name, 0.0) for name in {**some, **others}}
