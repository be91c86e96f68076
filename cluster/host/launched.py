"""What torchrun has told this process of its world, and what other launchers have left behind.

Shells, containers and allocations keep the variables of what once started something there: only
the whole set of torchrun counts, and the workers of a gang see none but their own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

OF_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
OF_MPI = ("OMPI_", "PMIX_", "PMI_", "MPI_", "MV2_")  # DeepSpeed compares them with LOCAL_RANK
OF_ELASTIC = ("TORCHELASTIC_", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_")  # of another store


@dataclass(frozen=True)
class World:
    """The place of this process among those that torchrun has started."""

    rank: int
    size: int
    local_size: int
    """Processes on this host."""


def world_of_torchrun() -> World | None:
    """The world that this process is a part of; None: torchrun has not started it.

    Raises:
        ValueError: the variables tell of several processes, and not how to find them, or are no
            numbers.
    """
    told = {name: os.environ.get(name, "") for name in (*OF_TORCHRUN, "LOCAL_WORLD_SIZE")}
    shown = ", ".join(f"{name}={value}" for name, value in told.items() if value)
    if not all(told[name] for name in OF_TORCHRUN):
        if told["WORLD_SIZE"] in ("", "1") and told["RANK"] in ("", "0"):
            return None
        missing = ", ".join(name for name in OF_TORCHRUN if not told[name])
        raise ValueError(
            f"{shown} in the environment, without {missing}: torchrun, which sets them all, has "
            "not started this process; unset RANK WORLD_SIZE, or use torchrun -m orchestrator"
        )
    numbers = (told["RANK"], told["WORLD_SIZE"], told["LOCAL_WORLD_SIZE"] or told["WORLD_SIZE"])
    if not all(number.isdecimal() for number in numbers):
        raise ValueError(f"{shown} in the environment must be whole numbers; unset them")
    return World(*map(int, numbers))


def left_over(*prefixes: str) -> dict[str, None]:
    """The variables of this process that begin so, to be taken out."""
    return dict.fromkeys(name for name in os.environ if name.startswith(prefixes))
