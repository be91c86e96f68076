"""A worker function in this process: for a debugger, for torchrun, and where Ray is not wanted."""

from __future__ import annotations

import os
import threading
from typing import Any

from cluster.host.environment import environment
from cluster.host.launched import OF_ELASTIC, OF_MPI, left_over
from cluster.host.network import free_port
from cluster.polls import OnRecords
from cluster.worker import Channel, Target

GIVEN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def given_world_size() -> int | None:
    """Ranks of the world in which torchrun gave this process a place.

    None: it gave none. A single variable that a shell or a container has left says nothing.
    """
    given = all(os.environ.get(name) for name in GIVEN)
    return int(os.environ["WORLD_SIZE"]) if given and os.environ["WORLD_SIZE"].isdigit() else None


def run_inline(
    target: Target, payload: Any, *, on_records: OnRecords, stop: threading.Event
) -> Any:
    """Run the target in this process: as rank 0 of 1, or as the rank that torchrun gave it.

    Raises:
        ValueError: only a part of torchrun's variables is set.
    """
    alone = {
        **left_over(*OF_ELASTIC),
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": "1",
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    with environment({**left_over(*OF_MPI), **(alone if given_world_size() is None else {})}):
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        channel = Channel(rank, world_size, lambda r: on_records(rank, [r]), stop.is_set)
        return target(payload, channel)
