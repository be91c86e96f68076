"""One actor in each bundle of a placement group: reserved together, filled one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from cluster.ending import end_workers
from cluster.failure import WorkerFailed
from cluster.head import head_answers
from cluster.placement import Placement
from cluster.polls import POLL_S
from cluster.worker import Record, Worker

START_LIMIT_S = 120.0
SAY_AFTER_S, SAY_EVERY_S = 5.0, 60.0
HOLDER_WORDS = 4  # of a command line: the settings behind them may hold secrets


class Bundles:
    """The room that a gang holds in the cluster, and its actors there, by number of bundle."""

    def __init__(
        self,
        ray: ModuleType,
        placement: Placement,
        say: Callable[[str], None],
        check: Callable[[], None],
    ) -> None:
        """Reserves nothing yet; `end` must be called in every case.

        Args:
            ray: connected to the cluster.
            placement: how many bundles, and what is in each.
            say: gets a line now and then while there is no room.
            check: called often while waiting; raises if the wait is over.
        """
        self.ray, self.placement, self._say, self._check = ray, placement, say, check
        self._group: Any = None
        self.actors: dict[int, Any] = {}
        self.described: dict[int, Record] = {}

    def reserve(self) -> None:
        """Wait until the cluster has room for all bundles at once; they are then ours."""
        bundles = [self.placement.each] * self.placement.workers
        self._group = self.ray.util.placement_group(bundles, strategy="PACK")
        begun = time.monotonic()
        say_at = begun + SAY_AFTER_S
        while not self._group.wait(timeout_seconds=POLL_S):
            self._check()
            if time.monotonic() > say_at:
                waited = time.monotonic() - begun
                self._say(
                    f"waiting for room for {self.placement} since {waited:.0f} s; "
                    f"{self._free()}; {self._holders()}"
                )
                say_at += SAY_EVERY_S

    def fill(self) -> None:
        """Start an actor in every bundle that has none, and learn where it is."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        remote = self.ray.remote(Worker)
        empty = [index for index in range(self.placement.workers) if index not in self.actors]
        for index in empty:
            self.actors[index] = remote.options(
                num_cpus=self.placement.cpus_per_worker,
                num_gpus=self.placement.gpus_per_worker,
                max_restarts=0,
                max_concurrency=4,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self._group, placement_group_bundle_index=index
                ),
            ).remote()
        new = self.answers({index: self.actors[index].describe.remote() for index in empty})
        self.described |= new

    def clear(self, indices: Sequence[int]) -> None:
        """Kill the actors of some bundles with all that they started; the room stays ours."""
        actors = [self.actors.pop(index) for index in indices]
        workers = [self.described.pop(index) for index in indices if index in self.described]
        end_workers(self.ray, actors, workers)

    def answering(self, indices: Sequence[int], limit_s: float) -> set[int]:
        """Those of the bundles whose actor lives and answers within the limit."""
        asked = {
            self.actors[index].memory_kills.remote(): index
            for index in indices
            if index in self.described
        }
        if not asked:
            return set()
        ready, _ = self.ray.wait(list(asked), num_returns=len(asked), timeout=limit_s)
        answering = set()
        for ref in ready:
            try:
                self.ray.get(ref)
            except self.ray.exceptions.RayError:
                continue
            answering.add(asked[ref])
        return answering

    def answers(self, calls: dict[int, Any]) -> dict[int, Any]:
        """What start-up calls return, by number of bundle.

        Raises:
            WorkerFailed: one of the actors died, or did not answer in time. It has no rank yet.
        """
        deadline = time.monotonic() + START_LIMIT_S
        waiting = list(calls.values())
        while waiting:
            self._check()
            if time.monotonic() > deadline:
                late = [index for index, call in calls.items() if call in waiting]
                message = f"did not start within {START_LIMIT_S:.0f} s"
                raise self._failure(late[0], "TimeoutError", message)
            _, waiting = self.ray.wait(waiting, num_returns=len(waiting), timeout=POLL_S)
        results = {}
        for index, call in calls.items():
            try:
                results[index] = self.ray.get(call)
            except self.ray.exceptions.RayError as error:
                raise self._failure(index, type(error).__name__, str(error)) from None
        return results

    def end(self) -> None:
        """Kill all actors, and give the room back."""
        self.clear(list(self.actors))
        if self._group is not None:
            if head_answers(self.ray):
                self.ray.util.remove_placement_group(self._group)
            self._group = None

    def _failure(self, index: int, kind: str, message: str) -> WorkerFailed:
        host = self.described.get(index, {}).get("host", "an unknown host")
        worker = f"worker {index + 1} of {self.placement.workers} on {host}"
        return WorkerFailed(
            rank=None, host=host, cause="start", error_type=kind, message=f"{worker}: {message}"
        )

    def _free(self) -> str:
        free, all_ = self.ray.available_resources(), self.ray.cluster_resources()
        parts = [
            f"{free.get(name, 0):.0f} of {all_.get(name, 0):.0f} {name}(s) are free"
            for name in self.placement.each
        ]
        return " and ".join(parts)

    def _holders(self) -> str:
        """Whose workers are in the cluster, as `ray list` would say, which needs the dashboard."""
        from ray._private import state

        actors = [actor for actor in state.actors().values() if actor["State"] == "ALIVE"]
        holders = [
            f"{' '.join(job['Entrypoint'].split()[:HOLDER_WORDS])} (process {job['DriverPid']} on "
            f"{job['DriverIPAddress']})"
            for job in state.jobs()  # type: ignore[no-untyped-call]
            if any(actor["JobID"] == job["JobID"] for actor in actors)
        ]
        return f"the others are held by {', '.join(holders)}" if holders else "no actor holds them"
