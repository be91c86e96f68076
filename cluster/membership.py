"""The nodes of the cluster that work can be placed on, and those that are about to leave it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from cluster.head import head_answers


def leaving(ray: ModuleType) -> dict[str, int]:
    """Ray ids of nodes that are being drained, and until when (milliseconds since 1970; 0: open).

    A cluster's autoscaler or its cloud asks for it, or `ray drain-node`. None while the head
    process does not answer, for whom a question would wait until Ray ends this process.
    """
    if not head_answers(ray):
        return {}
    from ray._private import state

    found: dict[str, int] = state.state.get_draining_nodes()
    return found


def living(ray: ModuleType) -> list[dict[str, Any]]:
    """The nodes that live, by Ray's account, and are to stay; none while the head is away."""
    if not head_answers(ray):
        return []
    going = leaving(ray)
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in going]
