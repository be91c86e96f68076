"""The CPUs and GPUs that a job can have, on this machine or on a Ray cluster."""

from __future__ import annotations

from cluster.connection.session import connected
from cluster.nodes import Devices, local_devices


def devices(address: str | None) -> Devices:
    """Devices of this machine, or of the Ray cluster at `address`."""
    return local_devices() if address is None else _cluster_devices(address)


def _cluster_devices(address: str) -> Devices:
    """Totals of the nodes alive in the Ray cluster at `address`; connects and disconnects."""
    with connected(address) as ray:
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = tuple((int(node.get("GPU", 0)), int(node.get("CPU", 0))) for node in alive)
    return Devices(
        gpus=sum(gpus for gpus, _ in nodes),
        cpus=sum(cpus for _, cpus in nodes),
        where=f"Ray cluster at {address}, {len(nodes)} node(s)",
        nodes=nodes,
    )
