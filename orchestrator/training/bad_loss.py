"""Steps whose loss or gradient is not to be trusted: not finite, or a spike."""

import math
from collections import deque
from collections.abc import Sequence
from statistics import median

from orchestrator.training import distributed
from orchestrator.training.objectives import MicroBatch, Summed

WINDOW = 64  # steps whose losses a spike is compared with
LEAST = 16  # of them, before anything is called a spike
TO_SIGMA = 1.4826  # a normal distribution's standard deviation / median absolute deviation
LEAST_SIGMA = 1e-3  # of the median: losses that hardly vary are no reason to be strict


class BadLoss(RuntimeError):
    """The loss or the gradient of a step is bad; raised on every rank, before any weight changes.

    On DeepSpeed with a bad gradient weights may have changed; either way nothing of the step is
    saved.
    """

    def __init__(self, message: str, step: int, batches: Sequence[MicroBatch]) -> None:
        """`batches` are this rank's micro-batches of the step."""
        super().__init__(message)
        self.step, self.batches = step, list(batches)


class NonFiniteLoss(BadLoss):
    """The loss or the gradient of a step is NaN or infinite."""


class LossSpike(BadLoss):
    """The loss of a step is far above those before it."""


class Losses:
    """The losses of the last steps, and whether the next one fits them."""

    def __init__(self, spike_sigmas: float | None) -> None:
        """Nothing is known yet.

        Args:
            spike_sigmas: robust standard deviations above the median of the last losses from which
                on a loss is a spike: 1.4826 x the median absolute deviation (Hampel 1974). None:
                only a loss that is not finite is bad.
        """
        self._sigmas = spike_sigmas
        self._last: deque[float] = deque(maxlen=WINDOW)

    def check(
        self, step: int, loss: float, batches: Sequence[MicroBatch], parts: Sequence[Summed]
    ) -> None:
        """Take in the mean loss of a step. Every rank calls it, with the same loss.

        Raises:
            NonFiniteLoss: names the samples of the micro-batches whose loss is not finite.
            LossSpike: names the threshold.
        """
        if not math.isfinite(loss):
            pairs = zip(batches, parts, strict=True)
            wrong = [batch for batch, part in pairs if not math.isfinite(float(part.loss))]
            message = f"the loss of step {step} is not finite; samples {_samples(wrong)}"
            raise NonFiniteLoss(message, step, batches)
        if self._sigmas is not None and len(self._last) >= LEAST:
            middle = median(self._last)
            deviation = median(abs(own - middle) for own in self._last)
            sigma = max(TO_SIGMA * deviation, LEAST_SIGMA * abs(middle))
            if loss > middle + self._sigmas * sigma:
                raise LossSpike(
                    f"the loss of step {step} is {loss:.4g}, {(loss - middle) / sigma:.3g} robust "
                    f"standard deviations above {middle:.4g}, the median of the last "
                    f"{len(self._last)} steps; samples {_samples(batches)}",
                    step,
                    batches,
                )
        self._last.append(loss)

    def check_gradient(self, step: int, norm: float, batches: Sequence[MicroBatch]) -> None:
        """Raise NonFiniteLoss unless the norm of the gradient is finite. Every rank calls it."""
        if not math.isfinite(norm):
            message = f"the gradient norm of step {step} is {norm}; samples {_samples(batches)}"
            raise NonFiniteLoss(message, step, batches)


def _samples(batches: Sequence[MicroBatch]) -> list[int]:
    """Their samples on all ranks, sorted."""
    own = [int(sample) for batch in batches for sample in batch.sample_ids]
    return sorted(sample for rank in distributed.gather_objects(own) for sample in rank)
