"""Small functions carried out on a given node of the cluster, beside the workers there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
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
) -> Result | None:
    """Call an importable function on one node; None if that gives no answer, see `on_nodes`."""
    return on_nodes(ray, {node: arguments}, function, limit_s=limit_s).get(node)


def on_nodes(
    ray: ModuleType,
    calls: Mapping[str, Iterable[Any]],
    function: Callable[..., Result],
    *,
    limit_s: float = ERRAND_LIMIT_S,
) -> dict[str, Result]:
    """Call a function on several nodes at once; it takes none of their CPUs.

    A node that is gone, that does not answer in time, or on which the function raises is not in
    the result.

    Args:
        ray: connected to the cluster.
        calls: the arguments for each node, by the node's Ray id.
        function: importable there.
        limit_s: seconds that all of them have.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {
        task.options(scheduling_strategy=pinned_to(node)).remote(*arguments): node
        for node, arguments in calls.items()
    }
    answers = {}
    for ref in ray.wait(list(asked), num_returns=len(asked), timeout=limit_s)[0] if asked else []:
        with suppress(ray.exceptions.RayError):
            answers[asked[ref]] = ray.get(ref)
    return answers
