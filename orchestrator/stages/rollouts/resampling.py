"""Prompts whose answers all got the same reward, exchanged for further ones (Yu et al. 2025, DAPO).

Such a group teaches nothing. A place is that of an answer in its step, over all ranks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.stages.rollouts.updating import Asked
from orchestrator.training import distributed
from orchestrator.training.rollout import as_rollout


@dataclass(frozen=True)
class Answer:
    """One of them, without filling, as it goes from rank to rank."""

    number: int
    asked: tuple[str, str]
    text: str
    prompt: list[int]
    tokens: list[int]
    sampled: list[float]


def exchanged(
    asked: Asked, further: Asked, places: NDArray[np.int64], sources: Mapping[int, int], end: int
) -> Asked:
    """A rank's answers with some of another rollout in their places. Every rank calls it.

    Args:
        asked: of this rank.
        further: of this rank in the other rollout, at the same places.
        places: (B,) of both.
        sources: where the answer of the other rollout stands that comes to a place.
        end: the token that ends an answer.
    """
    wanted = set(sources.values())
    own = {p: one for p, one in zip(places.tolist(), _answers(further), strict=True) if p in wanted}
    moved = {place: one for part in distributed.gather_objects(own) for place, one in part.items()}
    rows = [
        moved[sources[place]] if place in sources else one
        for place, one in zip(places.tolist(), _answers(asked), strict=True)
    ]
    rollout = as_rollout(
        [one.prompt for one in rows],
        [(one.tokens, one.sampled) for one in rows],
        end,
        asked.rollout.tokens.device,
    )
    numbers = np.array([one.number for one in rows], dtype=np.int64)
    return Asked(numbers, [one.asked for one in rows], rollout, [one.text for one in rows])


def sources_of(uneven: torch.Tensor, further: torch.Tensor, copies: int) -> dict[int, int]:
    """For `exchanged`: groups that differ of another rollout, in order, for those that do not.

    Args:
        uneven: bool (N,), whether rewards differ within each group of the step.
        further: bool (N,), the same of the other rollout.
        copies: answers of a group.
    """
    pairs = zip((~uneven).nonzero()[:, 0].tolist(), further.nonzero()[:, 0].tolist(), strict=False)
    return {
        group * copies + n: source * copies + n for group, source in pairs for n in range(copies)
    }


def _answers(asked: Asked) -> list[Answer]:
    rollout, found = asked.rollout, []
    for row, (number, pair, text) in enumerate(
        zip(asked.ids.tolist(), asked.prompts, asked.texts, strict=True)
    ):
        tokens, mask = rollout.tokens[row], rollout.mask[row]
        start = int(mask.int().argmax()) + 1
        answer = tokens[1:][mask].tolist()
        sampled = rollout.sampled[row][mask].tolist()
        found.append(Answer(number, pair, text, tokens[:start].tolist(), answer, sampled))
    return found
