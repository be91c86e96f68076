"""Which answers a rank wants in a step, and from which seeds they are drawn."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.order import Order
from models.decoding import row_seed
from orchestrator.config import JobConfig
from orchestrator.stages.examples.feeding import Split
from orchestrator.stages.rollouts.prompts import Questions
from orchestrator.stages.rollouts.section import RolloutConfig
from orchestrator.training import distributed
from orchestrator.training.rollout import step_ids


@dataclass(frozen=True, order=True)
class Wanted:
    """An answer that is to be written."""

    number: int
    """Of the answer in the run, or of the prompt among those held out."""
    prompt: list[int]
    seed: int


@dataclass(frozen=True)
class Asking:
    """What a rank asks in a step."""

    ids: NDArray[np.int64]
    """(B,): numbers of the answers in the run."""
    index: NDArray[np.int64]
    """(B,): place of the prompt of each in `questions`."""
    order: NDArray[np.int64]
    """(B,): places of the answers, in the order in which they are written."""
    questions: Questions
    copies: list[int]
    """Answers to each of the questions."""
    numbers: list[int]
    """The ids in the order in which they are written."""


def asking(
    config: JobConfig, train: Split[Questions], order: Order, position: int, copies: int
) -> Asking:
    """What this rank asks in the step that begins at this position, `copies` times each prompt."""
    batch, settings = config.batch, config.section(RolloutConfig)
    ranks = distributed.rank(), distributed.world_size()
    numbers = step_ids(1, batch.step, settings.mini_batches, batch.micro, *ranks)
    ids = numbers + position * copies
    places, index, counts = np.unique(ids // copies, return_inverse=True, return_counts=True)
    questions = train.batch(order(places), places, np.ones(len(places), np.bool_))
    written = np.argsort(index, kind="stable")  # answers to a prompt are written side by side
    return Asking(ids, index, written, questions, counts.tolist(), ids[written].tolist())


def wanted(
    prompts: Sequence[Sequence[int]], copies: Sequence[int], numbers: Sequence[int], draws: str
) -> list[Wanted]:
    """Answers to prompts, each from the seed that its number and the name of the draws give."""
    digest = hashlib.blake2b(draws.encode(), digest_size=8).digest()
    base = int.from_bytes(digest, "little")
    rows = [list(row) for row, count in zip(prompts, copies, strict=True) for _ in range(count)]
    return [
        Wanted(number, prompt, row_seed(base, number))
        for number, prompt in zip(numbers, rows, strict=True)
    ]
