"""What a gang, a pool or a service asks for, and whether a cluster can ever hold it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

CHOSEN = "ORCHESTRATE_NODES"
"""Variable of a driver: Ray ids of the nodes that were chosen for its workers, one for each."""


class GangRefused(ValueError):  # reads as what happened
    """More workers, CPUs or GPUs are asked for than the cluster can ever have."""


@dataclass(frozen=True)
class Placement:
    """How many workers, what each gets, and where."""

    workers: int
    cpus_per_worker: int
    gpus_per_worker: int = 0
    address: str | None = None
    """Ray cluster to run on. None: a private Ray, started for this job and ended with it."""
    fewer: tuple[int, ...] = ()
    """Smaller numbers of workers that would do where there is less room; the largest first."""
    beside: int = 0
    """More processes with as much each, which the workers start themselves: a service."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """All numbers of workers that would do; the largest first."""
        return (self.workers, *self.fewer)

    def most(self, room: int) -> int | None:
        """The largest number of workers that would do and for which there is room, if any."""
        return next((size for size in self.sizes if size <= room), None)

    def room(self, nodes: Iterable[Mapping[str, float]]) -> int:
        """How many such workers nodes with these resources, by Ray's names, can hold, with what is
        beside them.
        """
        every = sum(
            min(int(node.get(name, 0) // amount) for name, amount in self.each.items())
            for node in nodes
        )
        return max(every - self.beside, 0)

    @property
    def each(self) -> dict[str, int]:
        """What each worker gets, by Ray's names."""
        each = {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}
        return {name: amount for name, amount in each.items() if amount}

    def __str__(self) -> str:
        """E.g. `2 worker(s) with 1 CPU(s) and 1 GPU(s) each`."""
        asked = " and ".join(f"{amount} {name}(s)" for name, amount in self.each.items())
        workers = " or ".join(str(size) for size in self.sizes[::-1])
        return f"{workers} worker(s) with {asked} each"


def refuse_what_never_fits(
    placement: Placement,
    nodes: Sequence[Mapping[str, float]],
    where: str,
    note: str | None = None,
) -> None:
    """Raise GangRefused unless every worker finds a node with room, were the nodes all free.

    Args:
        placement: what the gang asks for.
        nodes: the resources of each node alive, by Ray's names ("CPU", "GPU").
        where: what the nodes are, for the message.
        note: why something that is there does not count, for the message.
    """
    if placement.workers < 1 or placement.cpus_per_worker < 1 or placement.gpus_per_worker < 0:
        raise GangRefused(
            f"workers={placement.workers}, cpus_per_worker={placement.cpus_per_worker}, "
            f"gpus_per_worker={placement.gpus_per_worker}: the first two must be at least 1, "
            "the last at least 0"
        )
    each = placement.each
    room, least = placement.room(nodes), placement.sizes[-1]
    if room >= least:
        return
    asked = " and ".join(f"{amount} {name}(s)" for name, amount in each.items())
    has = " and ".join(f"{sum(n.get(name, 0) for n in nodes):.0f} {name}(s)" for name in each)
    advice = f"set resources.workers={room}" if room else "ask for fewer per worker"
    workers = f"[{least},{placement.workers}]" if placement.fewer else f"{least}"
    beside = f", and as much for {placement.beside} more process(es)," if placement.beside else ""
    raise GangRefused(
        f"resources.workers={workers} with {asked} each{beside} do not fit {where}, which has "
        f"{has} in all and room for {room} such worker(s); {advice}"
        + (f" ({note})" if note else "")
    )


def places(nodes: Mapping[str, Mapping[str, float]], placement: Placement) -> list[str]:
    """The node of each worker that could run at once, spread evenly.

    Args:
        nodes: the resources of each node, by any name of the node.
        placement: what each worker gets.
    """
    room = {
        node: min(int(has.get(name, 0) // amount) for name, amount in placement.each.items())
        for node, has in nodes.items()
    }
    rounds = range(max(room.values(), default=0))
    return [node for turn in rounds for node in nodes if turn < room[node]]


def chosen_nodes() -> tuple[str, ...]:
    """The node of each worker, where whoever admitted this job chose them; none: any will do."""
    return tuple(os.environ.get(CHOSEN, "").split())
