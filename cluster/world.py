"""Whether a gang fits a cluster, and the torch.distributed world that its workers see."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from cluster.failure import GangRefused
from cluster.worker import Record

if TYPE_CHECKING:
    from cluster.gang import Placement


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
    each = {"CPU": placement.cpus_per_worker, "GPU": placement.gpus_per_worker}
    each = {name: amount for name, amount in each.items() if amount}
    room = sum(
        min(int(node.get(name, 0) // amount) for name, amount in each.items()) for node in nodes
    )
    if room >= placement.workers:
        return
    asked = " and ".join(f"{amount} {name}(s)" for name, amount in each.items())
    has = " and ".join(f"{sum(n.get(name, 0) for n in nodes):.0f} {name}(s)" for name in each)
    advice = f"set resources.workers={room}" if room else "ask for fewer per worker"
    raise GangRefused(
        f"resources.workers={placement.workers} with {asked} each do not fit {where}, which has "
        f"{has} in all and room for {room} such worker(s); {advice}"
        + (f" ({note})" if note else "")
    )


def by_host(workers: Sequence[Record]) -> Callable[[int], tuple[int, int]]:
    """Sort key over indices of workers that puts those of one host side by side."""
    ips = list(dict.fromkeys(worker["ip"] for worker in workers))
    return lambda index: (ips.index(workers[index]["ip"]), index)


def worlds_of(workers: Sequence[Record], port: int, cpus_per_worker: int) -> list[dict[str, str]]:
    """Environment of each worker, as torchrun would set it; workers are in order of rank.

    CUDA_VISIBLE_DEVICES holds all GPUs of the host that belong to the gang, the first GPU of
    each local rank first, so that `cuda:LOCAL_RANK` is that worker's own.
    """
    on_host: dict[str, list[Record]] = defaultdict(list)
    for worker in workers:
        on_host[worker["ip"]].append(worker)
    one_host = len(on_host) == 1
    worlds = []
    for rank, worker in enumerate(workers):
        peers = on_host[worker["ip"]]
        world = {
            "RANK": str(rank),
            "LOCAL_RANK": str(peers.index(worker)),
            "WORLD_SIZE": str(len(workers)),
            "LOCAL_WORLD_SIZE": str(len(peers)),
            "NODE_RANK": str(list(on_host).index(worker["ip"])),
            "MASTER_ADDR": "127.0.0.1" if one_host else workers[0]["ip"],
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": str(cpus_per_worker),
        }
        if one_host:
            world["GLOO_SOCKET_IFNAME"] = "lo"
        gpus = [gpu for slot in zip(*(peer["gpus"] for peer in peers), strict=True) for gpu in slot]
        if gpus:
            world["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu) for gpu in gpus)
        worlds.append(world)
    return worlds
