"""The torch.distributed world that the workers of a gang see."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from cluster.worker import Record


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
        interface = "lo" if one_host else worker["gloo_interface"]
        if interface:
            world["GLOO_SOCKET_IFNAME"] = interface
        gpus = [gpu for slot in zip(*(peer["gpus"] for peer in peers), strict=True) for gpu in slot]
        if gpus:
            world["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu) for gpu in gpus)
        worlds.append(world)
    return worlds
