"""Small functions carried out on a given node of the cluster, beside the workers there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, TypeVar

Result = TypeVar("Result")

ERRAND_LIMIT_S = 60.0  # a node may have to start a process for it, and be busy


def pinned_to(node: str) -> Any:
    """Scheduling strategy of a task or an actor that must run on the node with this Ray id."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def on_node(
    ray: ModuleType,
    node: str,
    function: Callable[..., Result],
    *arguments: Any,
    limit_s: float = ERRAND_LIMIT_S,
) -> Result:
    """Call an importable function on one node; takes none of its CPUs.

    Raises:
        ray.exceptions.RayError: the node is gone, does not answer within `limit_s` seconds
            (GetTimeoutError), or the function raised.
    """
    return on_nodes(ray, {node: arguments}, function, limit_s=limit_s)[node]


def on_nodes(
    ray: ModuleType,
    calls: Mapping[str, Iterable[Any]],
    function: Callable[..., Result],
    *,
    limit_s: float = ERRAND_LIMIT_S,
) -> dict[str, Result]:
    """Call a function on several nodes at once.

    Args:
        ray: connected to the cluster.
        calls: the arguments for each node, by the node's Ray id.
        function: importable there.
        limit_s: seconds that all of them have.

    Raises:
        ray.exceptions.RayError: as `on_node`.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    refs = {
        node: task.options(scheduling_strategy=pinned_to(node)).remote(*arguments)
        for node, arguments in calls.items()
    }
    return dict(zip(refs, ray.get(list(refs.values()), timeout=limit_s), strict=True))
