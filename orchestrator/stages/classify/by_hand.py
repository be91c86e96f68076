"""Classification by a network in numpy: its gradients, its mini-batches and its steps by hand.

The loop of `training/loop.py` is for engines, and takes longer for a step than this network does.
B examples of a mini-batch, F features, C classes.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from models.by_hand import Network, Numbers
from models.configs import ByHandConfig
from orchestrator.config import RoleConfig
from orchestrator.stages.checkpoints import Savable
from orchestrator.stages.classify.classification import Classification
from orchestrator.training import checkpoint
from orchestrator.training.bad_loss import NonFiniteLoss
from orchestrator.training.checkpoint import SavedRole
from orchestrator.training.loop import Metrics, Trained
from orchestrator.training.patience import END, EVALUATION, STEP
from orchestrator.training.state import WEIGHT, Slice, StateReader, check_parameters

MOST_AT_ONCE = 4096
"""Examples that are fetched together, and after which the run looks whether it shall stop."""


@dataclass
class Since:
    """What training has come to since it was last recorded."""

    loss: float = 0.0
    """A sum over examples."""
    right: int = 0
    examples: int = 0
    seconds: float = 0.0
    """In steps alone."""


class _Saved(NamedTuple):
    """A network as checkpoints look at it."""

    name: str
    saved: SavedRole


class ByHand(Classification):
    """A classification run of a network by hand, in one process."""

    def make(self, role: RoleConfig) -> None:
        """Draw the network, or read it where the run goes on or shall start from."""
        assert isinstance(role.model, ByHandConfig)
        self.network = Network.drawn(role.model, self.config.seed)
        if self.checkpoints.start is not None:
            self._read(checkpoint.open_role(self.checkpoints.start, "model"))
        elif role.model.weights is not None:
            path, name = Path(role.model.weights), role.model.weights_role
            self._read(checkpoint.open_weights(path, name, verified=True).reader)

    def restore_best(self) -> bool:
        """Take back the weights of the best evaluation; whether they are others than these."""
        best = self.checkpoints.best
        if best is not None:
            self._read(checkpoint.open_role(best, "model"))
        return best is not None

    def loop(self, from_step: int) -> Trained:
        """Go down the gradient, mini-batch after mini-batch, to the last step or a stop.

        Metrics are recorded where something is due: a step takes some ten microseconds.
        """
        schedule, selection = self.schedule, self.checkpoints.selection
        step, saved, saved_at = from_step, from_step, time.monotonic()
        stopped = exhausted = False
        since, seconds, examples = Since(), 0.0, 0
        while step < schedule.steps and not exhausted:
            self.run.heart.beat(STEP, step)
            if stopped := self.checkpoints.should_stop():
                break
            self.checkpoints.before_update()
            before, step = step, self._next_stop(step)
            self._descend(before, step, since)
            minutes = schedule.save_minutes
            due = minutes is not None and time.monotonic() - saved_at >= 60 * minutes
            due |= schedule.save_at(step) or step == schedule.steps
            evaluated = schedule.evaluate_at(step) or step == schedule.steps
            if due or evaluated:
                seconds, examples = seconds + since.seconds, examples + since.examples
                self._log(step, since)
                since = Since()
            if evaluated:
                measured = self.evaluate(step)
                if selection is not None:
                    best = selection.take(step, measured)
                    exhausted = selection.exhausted
                    due |= exhausted or (best and schedule.save_best)
            if due:
                self.save(step)
                saved, saved_at = step, time.monotonic()
        if saved != step:
            self.save(step)
        self.run.heart.beat(END)
        early = step < schedule.steps
        return Trained(step, examples, seconds, stopped, early and exhausted)

    def _next_stop(self, step: int) -> int:
        """The next step after which something is due, or may be."""
        schedule = self.schedule
        most = step + max(1, MOST_AT_ONCE // self.config.batch.step)
        for later in count(step + 1):
            due = schedule.evaluate_at(later) or schedule.save_at(later)
            if due or later in (most, schedule.steps):
                return later
        raise AssertionError("count has no end")

    def _descend(self, step: int, last: int, since: Since) -> None:
        """Take the steps after `step` up to `last`.

        Raises:
            NonFiniteLoss: the network has diverged.
        """
        begun, size, optim = time.perf_counter(), self.config.batch.step, self.role.optim
        assert optim is not None
        decay, rate_of = optim.weight_decay or 0.0, self.schedule.learning_rate
        line = np.arange(self.position, self.position + (last - step) * size)
        features, labels = self.examples.take(self.order(line))
        targets = one_hot(labels, len(self.names))  # (n, C)
        outputs = np.empty_like(targets)
        for number in range(last - step):
            own = slice(number * size, (number + 1) * size)
            activations = self.network.forward(features[own])
            outputs[own] = activations[-1]
            gradients = self.network.gradients(activations, targets[own])
            self.network.descend(gradients, rate_of(step + number + 1), size, decay)
        self.position += len(line)
        losses = self.network.losses(outputs, targets)  # (n,)
        if not np.isfinite(losses).all():
            wrong = step + int(np.flatnonzero(~np.isfinite(losses))[0]) // size + 1
            raise NonFiniteLoss(f"the loss of step {wrong} is not finite", wrong, [])
        since.loss += float(losses.sum())
        since.right += int((outputs.argmax(1) == labels).sum())
        since.examples += len(line)
        since.seconds += time.perf_counter() - begun

    def _log(self, step: int, since: Since) -> None:
        """Record what was done since the last time."""
        spent, batch = self.checkpoints.spent, self.config.batch.step
        spent.add(since.examples, self.flops_per_example * since.examples, since.seconds)
        metrics = {
            "train/loss": since.loss / since.examples,
            "train/accuracy": since.right / since.examples,
            "train/learning_rate": self.schedule.learning_rate(step),
            "train/examples_per_second": since.examples / since.seconds,
            "train/examples": spent.weight,
            "train/flops": spent.flops,
            "train/seconds": spent.seconds,
            "train/step_seconds": since.seconds * batch / since.examples,
        }
        self.log(step, metrics)

    def measure(self) -> Metrics:
        """Cost and accuracy over the whole validation split."""
        total, told = 0.0, []
        for start in range(0, len(self.validation), MOST_AT_ONCE):
            self.run.heart.beat(EVALUATION)
            stop = min(start + MOST_AT_ONCE, len(self.validation))
            features, labels = self.validation.take(np.arange(start, stop))
            outputs = self.network.forward(features)[-1]
            total += float(self.network.losses(outputs, one_hot(labels, len(self.names))).sum())
            told.append(np.stack([labels, outputs.argmax(1)], 1))
        self.told = torch.from_numpy(np.concatenate(told))
        right = float((self.told[:, 0] == self.told[:, 1]).sum())
        count = len(self.validation)
        return {"validation/loss": total / count, "validation/accuracy": right / count}

    def shares(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The outputs (n, C) in parts of their sum."""
        outputs = self.network.forward(features)[-1]
        shares: NDArray[np.float32] = outputs / outputs.sum(1, keepdims=True)
        return shares

    @property
    def savable(self) -> Savable:
        """The network as checkpoints look at it; its optimizer has no state."""
        return _Saved("model", SavedRole(self._slices, self.role.model, None))

    def _slices(self) -> Iterator[Slice]:
        for name, array in self.network.named().items():
            yield Slice(name, array.shape, 0, {WEIGHT: torch.from_numpy(array).flatten()})

    def _read(self, reader: StateReader) -> None:
        """Take over saved weights. Raises DifferentState if they are of another network."""
        named = self.network.named()
        check_parameters(reader, {name: array.shape for name, array in named.items()})
        for name, array in named.items():
            array[:] = reader.read(name, WEIGHT, 0, array.size).numpy().reshape(array.shape)


def one_hot(labels: NDArray[np.int64] | NDArray[np.float32], classes: int) -> Numbers:
    """What the outputs shall be, float32 (n, C): 1 for the class of a label (n,), 0 for others."""
    targets = np.zeros((len(labels), classes), dtype=np.float32)
    targets[np.arange(len(labels)), labels.astype(np.int64)] = 1
    return targets
