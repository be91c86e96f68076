"""What differs between two checkpoints, tensor by tensor; a stretch of each at a time in memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from orchestrator.record.checkpoints.manifest import Checkpoint
from orchestrator.training.checkpoint.opening import open_role
from orchestrator.training.state import WEIGHT

STRETCH = 1 << 22
"""Elements read at once: 16 MiB of each checkpoint."""


@dataclass(frozen=True)
class Difference:
    """One tensor in two checkpoints."""

    name: str
    """`ROLE/PARAMETER`, and for the optimizer's `ROLE/PARAMETER.KEY`."""
    absolute: float | None
    """Largest difference of two elements. None: they can't be compared."""
    relative: float | None
    """That over the largest element of the first, in absolute value; infinite if that is 0."""
    reason: str = ""
    """Why they can't be compared."""


def compare(first: Checkpoint, second: Checkpoint) -> Iterator[Difference]:
    """Every tensor that either of two checkpoints holds; their files are verified already."""
    for role in dict.fromkeys([*first.roles, *second.roles]):
        if role not in first.roles or role not in second.roles:
            has = "first" if role in first.roles else "second"
            yield Difference(role, None, None, f"only the {has} has this role")
            continue
        yield from _compare_role(role, first, second)


def _compare_role(role: str, first: Checkpoint, second: Checkpoint) -> Iterator[Difference]:
    ours, theirs = open_role(first, role), open_role(second, role)
    known, others = set(ours.names()), set(theirs.names())
    for name in dict.fromkeys([*ours.names(), *theirs.names()]):
        if name not in known or name not in others:
            has = "first" if name in known else "second"
            yield Difference(f"{role}/{name}", None, None, f"only in the {has}")
            continue
        shapes = ours.shape(name), theirs.shape(name)
        if shapes[0] != shapes[1]:
            yield Difference(f"{role}/{name}", None, None, f"{shapes[0]} and {shapes[1]}")
            continue
        keys = ours.keys(name), theirs.keys(name)
        for key in (WEIGHT, *sorted((keys[0] | keys[1]) - {WEIGHT})):
            shown = f"{role}/{name}" + ("" if key == WEIGHT else f".{key}")
            if key not in keys[0] or key not in keys[1]:
                has = "first" if key in keys[0] else "second"
                yield Difference(shown, None, None, f"only in the {has}")
                continue
            largest = difference = 0.0
            size = math.prod(shapes[0])
            for start in range(0, size, STRETCH):
                stop = min(size, start + STRETCH)
                a, b = (reader.read(name, key, start, stop) for reader in (ours, theirs))
                largest = max(largest, float(torch.linalg.vector_norm(a, math.inf)))
                difference = max(difference, float(torch.linalg.vector_norm(a - b, math.inf)))
            relative = difference / largest if largest else math.inf if difference else 0.0
            yield Difference(shown, difference, relative)
