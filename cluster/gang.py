"""A gang: N workers that start and fail together, in one Ray placement group.

1. `GangRefused` before anything is reserved, if the cluster can never hold the gang.
2. One placement group, all or nothing; one actor per bundle; ranks by host; then all start.
3. The driver polls: records arrive in order, the first cause of a failure is told from its echoes.
4. However it ends, the workers are gone and the placement group is removed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from cluster.failure import GangRefused, WorkerFailed, first_cause, from_death, from_outcome
from cluster.inline import run_inline
from cluster.nodes import kernel_memory_kills, local_devices
from cluster.polls import POLL_S, OnRecords, Polls
from cluster.session import Session, end_processes, process_tree
from cluster.worker import Channel, Outcome, Record, Target, Worker
from cluster.world import by_host, refuse_what_never_fits, worlds_of

__all__ = [
    "Channel",
    "GangRefused",
    "Placement",
    "WorkerFailed",
    "ray_session",
    "run_gang",
    "run_inline",
]


ECHO_GRACE_S = 2.0  # how long to wait for the cause behind a "connection reset by peer"
START_LIMIT_S = 120.0


@dataclass(frozen=True)
class Placement:
    """How many workers, what each gets, and where."""

    workers: int
    cpus_per_worker: int
    gpus_per_worker: int = 0
    address: str | None = None
    """Ray cluster to run on. None: a private Ray, started for this job and ended with it."""


@contextmanager
def ray_session(placement: Placement, *, log_folder: Path) -> Iterator[Session]:
    """Ray for one gang, or for several in turn; starts in the background while the block runs.

    Raises:
        GangRefused: this machine has fewer CPUs or GPUs than the placement asks for.
    """
    if placement.address is None:
        here = local_devices()
        room = [{"CPU": float(here.cpus), "GPU": float(here.gpus)}]
        refuse_what_never_fits(placement, room, "this machine", here.note)
    session = Session(
        placement.workers * placement.cpus_per_worker,
        placement.workers * placement.gpus_per_worker,
        placement.address,
        log_folder / "ray.log",
    )
    try:
        yield session
    finally:
        session.close()


def run_gang(
    target: Target,
    payload: Any,
    placement: Placement,
    *,
    log_folder: Path,
    env: Mapping[str, str] | None = None,
    on_records: OnRecords,
    stop: threading.Event,
    kill: threading.Event | None = None,
    on_started: Callable[[list[Record]], None] | None = None,
    session: Session | None = None,
) -> list[Any]:
    """Run `target(payload, channel)` in every worker; returns their results in order of rank.

    The workers see RANK, LOCAL_RANK, WORLD_SIZE and so on as under torchrun, and all GPUs of
    their host that belong to the gang, so `cuda:LOCAL_RANK` is a worker's own (first) GPU.
    Rank K writes to log_folder/rank-K.log.

    Args:
        target: importable in the workers (a function of a module, not of the command line).
        payload: anything that pickles.
        placement: how many workers, with what, where.
        log_folder: on a file system that all hosts share, if there are several hosts.
        env: more environment variables for the workers.
        on_records: gets each rank's records, in order, in the calling thread.
        stop: set it, and `channel.should_stop()` becomes true in every worker.
        kill: set it, and the workers are killed at once.
        on_started: gets a description of each worker (host, pid, log, ...) before work begins.
        session: a `ray_session` already begun; None starts one and ends it.

    Raises:
        GangRefused: the cluster can never hold this gang.
        WorkerFailed: a worker raised or died; the others were killed.
        KeyboardInterrupt: `kill` was set, or `stop` was set before the workers had started.
    """
    with ExitStack() as stack:
        session = session or stack.enter_context(ray_session(placement, log_folder=log_folder))
        ray = session.wait()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        refuse_what_never_fits(placement, nodes, f"the Ray cluster of {len(nodes)} node(s)", None)
        gang = Gang(ray, placement, log_folder.absolute(), stop, kill or threading.Event())
        stack.callback(gang.end)
        workers = gang.start(dict(env or {}))
        if on_started is not None:
            on_started(workers)
        return gang.run(_pickled(target, payload), on_records)


def _pickled(target: Target, payload: Any) -> bytes:
    """Pickled once, here, by Ray's cloudpickle, so that functions of notebooks travel, too."""
    from ray import cloudpickle

    work: bytes = cloudpickle.dumps((target, payload))  # type: ignore[no-untyped-call]
    return work


class Gang:
    """The driver's side of one gang, from placement to the end."""

    def __init__(
        self,
        ray: ModuleType,
        placement: Placement,
        log_folder: Path,
        stop: threading.Event,
        kill: threading.Event,
    ) -> None:
        """Reserves nothing yet; `end` must be called in every case."""
        self.ray, self.placement, self.log_folder = ray, placement, log_folder
        self.stop, self.kill = stop, kill
        self.group: Any = None
        self.actors: list[Any] = []  # in order of rank, once started
        self.workers: list[Record] = []  # their descriptions, in the same order

    def start(self, env: dict[str, str]) -> list[Record]:
        """Reserve, place, give ranks, set up; returns the workers' descriptions."""
        ray, placement = self.ray, self.placement
        bundle = {"CPU": placement.cpus_per_worker, "GPU": placement.gpus_per_worker}
        bundle = {name: amount for name, amount in bundle.items() if amount}
        self.group = ray.util.placement_group([bundle] * placement.workers, strategy="PACK")
        while not self.group.wait(timeout_seconds=POLL_S):
            self._check_interrupted()
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        remote = ray.remote(Worker)
        self.actors = [
            remote.options(
                num_cpus=placement.cpus_per_worker,
                num_gpus=placement.gpus_per_worker,
                max_restarts=0,
                max_concurrency=4,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self.group, placement_group_bundle_index=index
                ),
            ).remote()
            for index in range(placement.workers)
        ]
        self.workers = self._all([actor.describe.remote() for actor in self.actors])
        order = sorted(range(placement.workers), key=by_host(self.workers))
        self.actors = [self.actors[index] for index in order]
        self.workers = [self.workers[index] for index in order]
        port = self._all([self.actors[0].free_port.remote()])[0]
        worlds = worlds_of(self.workers, port, placement.cpus_per_worker)
        for rank, worker in enumerate(self.workers):
            worker |= {"rank": rank, "log": str(self.log_folder / f"rank-{rank}.log")}
        log_sizes = self._all(
            [
                actor.start.remote(worker["rank"], Path(worker["log"]), {**world, **env})
                for actor, worker, world in zip(self.actors, self.workers, worlds, strict=True)
            ]
        )
        for worker, size in zip(self.workers, log_sizes, strict=True):
            worker["log_begins_at"] = size
        return self.workers

    def run(self, work: bytes, on_records: OnRecords) -> list[Any]:
        """Carry out the work; returns the results by rank, or raises the first cause."""
        ray = self.ray
        blob = ray.put(work)
        polls = Polls(ray, self.actors, on_records)
        running = {actor.run.remote(blob): rank for rank, actor in enumerate(self.actors)}
        results: dict[int, Any] = {}
        failures: list[WorkerFailed] = []
        give_up_at, told_to_stop = float("inf"), False
        while running and time.monotonic() < give_up_at:
            memory_kills = kernel_memory_kills()
            ready, _ = ray.wait(list(running), num_returns=1, timeout=POLL_S)
            if self.kill.is_set():
                raise KeyboardInterrupt("the job was killed")
            polls.collect()
            if not told_to_stop and (self.stop.is_set() or polls.asked_to_stop):
                told_to_stop = True
                for actor in self.actors:
                    actor.stop.remote()
            for ref in ready:
                rank = running.pop(ref)
                try:
                    outcome: Outcome = ray.get(ref)
                except ray.exceptions.RayError as error:
                    kills = kernel_memory_kills() - memory_kills
                    failures.append(from_death(error, self.workers[rank], kills))
                else:
                    polls.finish(rank, outcome.records)
                    if outcome.error_type is None:
                        results[rank] = outcome.result
                        continue
                    failures.append(from_outcome(outcome, self.workers[rank]))
                # An echo waits for its cause to show; a cause waits for nothing.
                grace = ECHO_GRACE_S if first_cause(failures).is_echo else 0.0
                give_up_at = min(give_up_at, time.monotonic() + grace)
        if failures:
            polls.last()
            raise first_cause(failures)
        return [results[rank] for rank in range(len(self.actors))]

    def end(self) -> None:
        """Kill the workers with all that they started, and remove the placement group."""
        here = os.uname().nodename
        processes = [
            process
            for worker in self.workers
            if worker["host"] == here
            for process in process_tree(worker["pid"])
        ]
        for actor in self.actors:
            self.ray.kill(actor, no_restart=True)
        if self.group is not None:
            self.ray.util.remove_placement_group(self.group)
        end_processes(processes)

    def _all(self, refs: list[Any]) -> list[Any]:
        """Results of the start-up calls; raises WorkerFailed if one fails or none comes."""
        ray, deadline = self.ray, time.monotonic() + START_LIMIT_S
        waiting = refs
        while waiting:
            self._check_interrupted()
            if time.monotonic() > deadline:
                rank = refs.index(waiting[0])
                raise WorkerFailed(
                    rank=rank,
                    host="unknown",
                    cause="start",
                    error_type="TimeoutError",
                    message=f"worker {rank} did not start within {START_LIMIT_S:.0f} s",
                )
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=POLL_S)
        try:
            results: list[Any] = ray.get(refs)
        except ray.exceptions.RayError as error:
            raise WorkerFailed(
                rank=None,
                host="unknown",
                cause="start",
                error_type=type(error).__name__,
                message=str(error),
            ) from None
        return results

    def _check_interrupted(self) -> None:
        if self.stop.is_set() or self.kill.is_set():
            raise KeyboardInterrupt("the job was stopped before its workers had started")
