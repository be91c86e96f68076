"""One actor in each bundle of a placement group: reserved together, filled one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from cluster.ending import end_workers
from cluster.failure import WorkerFailed
from cluster.head import head_answers, node_answers
from cluster.membership import living
from cluster.placement import Placement, chosen_nodes
from cluster.polls import POLL_S
from cluster.waiting import NoRoom, wait_until
from cluster.worker import Record, Worker

START_LIMIT_S = 120.0
TRY_S = 5.0  # for a size that there may be room for, where smaller ones would do
WHOLE_S = 1  # Ray cuts fractions of a second off: asked for less, it does not wait at all
NODE_ID = "ray.io/node-id"  # a label that Ray gives to every node
HOLDER_WORDS = 4  # of a command line: the settings behind them may hold secrets


class Bundles:
    """The room that a gang holds in the cluster, and its actors there, by number of bundle."""

    def __init__(
        self,
        ray: ModuleType,
        placement: Placement,
        say: Callable[[str], None],
        check: Callable[[], None],
        wait_s: float | None = None,
    ) -> None:
        """Reserves nothing yet; `end` must be called in every case.

        Args:
            ray: connected to the cluster.
            placement: how many bundles, and what is in each.
            say: gets a line now and then while there is no room.
            check: called often while waiting; raises if the wait is over.
            wait_s: seconds to wait for room. None: for ever.
        """
        self.ray, self.placement, self._say, self._check = ray, placement, say, check
        self._wait_s = wait_s
        self._group: Any = None
        self._bound = False
        """Whether the group is bound to the nodes that were chosen for it."""
        self.lost_nodes: set[str] = set()
        """Where workers were lost with their node; Ray learns of it later than we do."""
        self.actors: dict[int, Any] = {}
        self.described: dict[int, Record] = {}

    def reserve(self) -> None:
        """Wait until the cluster has room for all bundles of a size at once; they are then ours.

        Where the nodes were chosen for this job, as by a queue that has counted what is free, it is
        had on these, as long as they are there: elsewhere it would be in the way of other jobs.

        Raises:
            NoRoom: there was none for as long as may be waited.
        """
        nodes = chosen_nodes()
        chosen = nodes[: len(nodes) - self.placement.beside]
        if len(chosen) in self.placement.sizes and self._usable_nodes().issuperset(chosen):
            if self._reserve(len(chosen), TRY_S, chosen):
                return
            self._say("there is no room on the nodes that were chosen for this job: any will do")
        least = self.placement.sizes[-1]
        # What others have just given back is not yet known to be free: all that there is comes
        # first, then what seems to be free.
        for room in (self._whole_room, self._free_room):
            size = self.placement.most(room()) or least
            if size > least and self._reserve(size, TRY_S):
                return
        self._reserve(least, self._wait_s)

    def placed(self) -> set[int]:
        """Bundles on nodes that live, as far as is known, and may be used."""
        from ray.util import placement_group_table

        if not head_answers(self.ray):
            return set()
        nodes = self._usable_nodes()
        where = placement_group_table(self._group)["bundles_to_node_id"]
        return {index for index, node in where.items() if node in nodes}

    def wait_for(self, kept: set[int]) -> list[int]:
        """Bundles for the largest gang that there is room for now; waits if there is for none.

        Args:
            kept: bundles with actors that live on; they come first.

        Raises:
            NoRoom: there was none for as long as may be waited.
        """
        if self._bound and self.placement.most(len(self.placed())) is None:
            self._unbind()
        while (size := self.placement.most(len(placed := self.placed()))) is None:
            self._until(lambda: self.placement.most(len(self.placed())) is not None, self._wait_s)
        return sorted(sorted(placed, key=lambda index: (index not in kept, index))[:size])

    def _unbind(self) -> None:
        """Give up a place on nodes that may never come back, for one on any that there are."""
        self.end()
        self._reserve(self.placement.sizes[-1], self._wait_s)

    def room(self) -> int:
        """Workers that the gang could have now, if it were placed anew."""
        if not head_answers(self.ray):
            return 0
        return len(self.placed()) + self._free_room()

    def fill(self, indices: Sequence[int]) -> None:
        """Start an actor in each of the bundles that has none, and learn where it is."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        remote = self.ray.remote(Worker)
        empty = [index for index in indices if index not in self.actors]
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

    def _reserve(self, size: int, limit_s: float | None, on: Sequence[str] = ()) -> bool:
        """Ask for so many bundles; False if there was no room for them in the time.

        Without room for the smallest size, anywhere, it raises instead. `on`: the nodes, by Ray's
        ids, one for each bundle.
        """
        group = self.ray.util.placement_group(
            [self.placement.each] * size,
            strategy="PACK",
            bundle_label_selector=[{NODE_ID: node} for node in on] or None,
        )
        self._bound = bool(on)
        try:
            self._until(lambda: group.wait(timeout_seconds=WHOLE_S), limit_s)
        except NoRoom:
            self.ray.util.remove_placement_group(group)
            if size == self.placement.sizes[-1] and not on:
                raise
            return False
        except BaseException:
            self._group = group  # for `end`
            raise
        self._group = group
        return True

    def _until(self, there_is: Callable[[], bool], limit_s: float | None) -> None:
        """Wait for room, and say now and then who has it; NoRoom after the limit."""
        what = f"room for {self.placement}"
        wait_until(there_is, what, self._taken, limit_s=limit_s, say=self._say, check=self._check)

    def _usable_nodes(self) -> set[str]:
        """Ray ids of nodes that live; one that was cut off counts again once it answers."""
        self.lost_nodes = {node for node in self.lost_nodes if not node_answers(self.ray, node)}
        return {node["NodeID"] for node in living(self.ray)} - self.lost_nodes

    def _whole_room(self) -> int:
        """Workers for which there would be room if nobody else were there."""
        return self.placement.room(node["Resources"] for node in living(self.ray))

    def _free_room(self) -> int:
        """Workers for which nobody has reserved the room."""
        from ray._private import state

        free = state.available_resources_per_node()  # type: ignore[no-untyped-call]
        return self.placement.room(free[node] for node in self._usable_nodes() & free.keys())

    def _failure(self, index: int, kind: str, message: str) -> WorkerFailed:
        host = self.described.get(index, {}).get("host", "an unknown host")
        worker = f"worker {index + 1} on {host}"
        return WorkerFailed(
            rank=None, host=host, cause="start", error_type=kind, message=f"{worker}: {message}"
        )

    def _taken(self) -> str:
        """How much is free, and who has the rest."""
        if not head_answers(self.ray):  # a question would wait until Ray ends this process
            return "the head process of Ray does not answer"
        return f"{self._free()}; {self._holders()}"

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
