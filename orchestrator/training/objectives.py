"""Objectives: what a step minimises, and the pure functions of tensors that they are made of.

B batch, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.training.engine import Engine


class MicroBatch(Protocol):
    """What the loop asks of the samples that go through the model together."""

    @property
    def weight(self) -> float:
        """What the losses of its samples are divided by, summed over the step: tokens, samples."""

    @property
    def sample_ids(self) -> NDArray[np.int64]:
        """(B,): numbers that tell samples apart over the whole run, in their order."""


@dataclass(frozen=True)
class Summed:
    """What an objective says of one micro-batch: sums over its samples, each a scalar tensor."""

    loss: Tensor
    """A sum, not a mean: the loop divides by the weight of the whole step over all ranks, so that
    the gradient does not depend on how the step is cut into micro-batches."""
    means: Mapping[str, Tensor] = field(default_factory=dict)
    """Metrics that are divided by the weight, as the loss is."""
    counts: Mapping[str, Tensor] = field(default_factory=dict)
    """Metrics that are added up."""


Batch = TypeVar("Batch", bound=MicroBatch)
Objective = Callable[[Engine, Batch], Summed]
"""Runs a micro-batch through the engine's forward pass."""


def classification(logits: Tensor, labels: Tensor) -> Summed:
    """Summed negative log-likelihood, in nats, of the labels; the mean of `accuracy` is theirs.

    Args:
        logits: (B, C), any float type; the softmax is taken in float32.
        labels: (B,) int64.
    """
    loss = F.cross_entropy(logits.float(), labels, reduction="sum")
    correct = (logits.detach().argmax(1) == labels).sum()
    return Summed(loss, means={"accuracy": correct})


def squared_error(given: Tensor, told: Tensor) -> Summed:
    """Summed squared distance of what a model gives to what it should.

    Args:
        given: (B, O), any float type; errors are taken in float32.
        told: (B, O) float32.
    """
    return Summed((given.float() - told).square().sum())


def negative_sampling(true: Tensor, false: Tensor, mask: Tensor, valid: Tensor) -> Summed:
    """Negative sampling (Mikolov et al. 2013, equation 4), summed over pairs, in nats.

    For each pair -log sigmoid(its score) - the sum over its negatives of log sigmoid(-their score).
    The mean of `ranked_first` is the share of pairs whose score is above those of its negatives.

    Args:
        true: (B, C) scores of pairs.
        false: (B, C, K) scores of their negatives.
        mask: bool (B, C), which pairs there are.
        valid: bool (B, C, K), which negatives count.
    """
    true, false = true.float(), false.float()
    losses = -F.logsigmoid(true) - (F.logsigmoid(-false) * valid).sum(-1)  # (B, C)
    above = (true[..., None] > false) | ~valid
    first = (above.all(-1) & mask).sum()
    return Summed(losses[mask].sum(), means={"ranked_first": first})
