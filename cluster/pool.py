"""A pool: workers that carry out units of work and are replaced one at a time when they die.

1. One Ray actor per worker, each on its own: there is no world, and none waits for another.
2. A worker has at most two units: the one it works on, and the next.
3. A worker that died is replaced. Its units are given out again, so a unit must be idempotent.
4. A unit that raised ends the pool at once. However it ends, the workers are gone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from cluster import pulse
from cluster.answers import PoolWorker, pickled
from cluster.connection.session import Session, ray_session
from cluster.errands import pinned_to
from cluster.failure import UNKNOWN, WorkerFailed, from_death, from_silence
from cluster.files import nodes_that_see
from cluster.head import node_answers
from cluster.placement import Placement, places, refuse_what_never_fits
from cluster.polls import POLL_S
from cluster.post_mortem import memory_report
from cluster.slot import Slot, end_slots
from cluster.worker import Record

__all__ = ["FolderNotSeen", "Placement", "Pool", "PoolFailed", "pool", "ray_session", "run_pool"]

QUEUED = 2  # units a worker has at once: it begins the next one without asking the driver
ATTEMPTS = 3
PATIENCE_S = 30.0  # workers that start so late wait for a place

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class PoolFailed(Exception):
    """A unit ended its worker's process again and again, or its result could not be carried."""


class FolderNotSeen(Exception):
    """No node of the cluster sees the folder of this host in which the workers should write."""


@contextmanager
def pool(
    placement: Placement,
    *,
    log_folder: Path,
    env: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
    stop: threading.Event | None = None,
    session: Session | None = None,
    attempts: int = ATTEMPTS,
    visible: Path | None = None,
) -> Iterator[Pool]:
    """A pool whose `run` may be called several times; its workers start at the first call.

    Worker K writes to log_folder/worker-K.log.

    Args:
        placement: how many workers, with what, where; no more are started than there are units.
        log_folder: on a file system that all hosts share, if there are several hosts.
        env: more environment variables for the workers.
        say: gets a line for each worker that died.
        stop: set it, and `run` raises KeyboardInterrupt.
        session: a `ray_session` already begun; None starts one at the first call and ends it.
        attempts: workers a unit may end before the pool gives it up.
        visible: a folder of this host in which the workers write; on a cluster, nodes that do not
            see it are not used.
    """
    with ExitStack() as sessions:

        def begin() -> Session:
            return session or sessions.enter_context(ray_session(placement, log_folder=log_folder))

        running = Pool(
            begin,
            placement,
            log_folder.absolute(),
            dict(env or {}),
            say,
            stop or threading.Event(),
            attempts,
            visible,
        )
        try:
            yield running
        finally:
            running.end()  # before the session that it may have begun


def run_pool(
    function: Callable[[Argument], Result],
    arguments: Sequence[Argument],
    placement: Placement,
    *,
    on_result: Callable[[int, Result], None] = lambda index, result: None,
    **options: Any,
) -> list[Result]:
    """One `Pool.run`, with the options of `pool`."""
    with pool(placement, **options) as running:
        return running.run(function, arguments, on_result)


class Pool:
    """The driver's side; `pool` makes and ends it."""

    def __init__(
        self,
        begin: Callable[[], Session],
        placement: Placement,
        log_folder: Path,
        env: dict[str, str],
        say: Callable[[str], None],
        stop: threading.Event,
        attempts: int,
        visible: Path | None,
    ) -> None:
        """Starts nothing yet; `end` must be called in every case."""
        self._begin = begin
        self._session: Session | None = None
        self.placement, self.log_folder, self.env = placement, log_folder, env
        self.say, self.stop, self.attempts, self.visible = say, stop, attempts, visible
        self.ray: Any = None
        self.slots: list[Slot] = []
        self._places: list[str] | None = None  # nodes of the workers; None: wherever Ray likes
        self.waiting: deque[int] = deque()  # units that no worker has
        self.deaths: dict[int | None, list[str]] = {}  # of workers, by the unit they were at
        self._begun, self._said = time.monotonic(), False

    def run(
        self,
        function: Callable[[Argument], Result],
        arguments: Sequence[Argument],
        on_result: Callable[[int, Result], None] = lambda index, result: None,
    ) -> list[Result]:
        """Call `function` with each argument in the workers; results in order of the arguments.

        Args:
            function: importable in the workers; idempotent, for a unit may be carried out twice.
            arguments: the units; each pickles, and `str` of it names it in messages.
            on_result: gets the index and the result of each as it comes, in the calling thread.

        Raises:
            GangRefused: the cluster can never hold these workers.
            FolderNotSeen: no node sees the folder in which they should write.
            PoolFailed: a unit has used up its attempts; names the unit and the deaths.
            WorkerFailed: the head process of Ray is gone.
            KeyboardInterrupt: the pool was stopped.
            Exception: whatever `function` raised, as itself, the traceback in a note. After any
                exception the pool is of no more use.
        """
        if not arguments:
            return []
        self._start(min(self.placement.workers, len(arguments)))
        ray, results = self.ray, dict[int, Result]()
        work = ray.put(pickled(function))
        self.waiting, self.deaths = deque(range(len(arguments))), {}
        while len(results) < len(arguments):
            if self.stop.is_set():
                raise KeyboardInterrupt("the pool was stopped")
            assert self._session is not None
            self._session.check()
            self._give_out(work, arguments)
            for slot in [slot for slot in self.slots if slot.works and slot.pulse.is_silent]:
                worker = self._described(slot)
                answers = node_answers(ray, worker["node"])
                failure = from_silence(worker, slot.pulse.silent_s, node_answers=answers)
                self._replace(slot, failure, arguments)
            # Calls of an actor are carried out in order, so its oldest one is the one to wait for.
            oldest = {next(iter(slot.units)): slot for slot in self.slots if slot.units}
            starting = {slot.begun: slot for slot in self.slots if not slot.works}
            ready, _ = ray.wait([*oldest, *starting], num_returns=1, timeout=POLL_S)
            for call in ready:
                slot = oldest.get(call) or starting[call]
                try:
                    answer = ray.get(call)
                except ray.exceptions.RayError as error:
                    self._replace_dead(slot, error, arguments)
                    continue
                if call in starting:
                    slot.works = True
                    continue
                index, slot.memory_kills = slot.units.pop(call), answer.memory_kills
                results[index] = answer.open()
                on_result(index, results[index])
        return [results[index] for index in range(len(arguments))]

    def end(self) -> None:
        """Kill the workers with all that they started."""
        end_slots(self.ray, self.slots)
        self.slots = []

    def _start(self, workers: int) -> None:
        """Ask Ray for workers that are not there yet; each begins as soon as it has a place."""
        if self.ray is None:
            self._session = self._begin()
            ray = self._session.wait(self.stop)
            self._find_places(ray)
            self.ray = ray
        if self._places is not None:
            workers = min(workers, len(self._places))
        for number in range(len(self.slots), workers):
            self.slots.append(self._slot(number))

    def _find_places(self, ray: ModuleType) -> None:
        """Look where workers may run."""
        nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        where = f"the Ray cluster of {len(nodes)} node(s)"
        if self.visible is None or self.placement.address is None:
            refuse_what_never_fits(self.placement, list(nodes.values()), where)
            return
        seeing = nodes_that_see(ray, list(nodes), self.visible, self.say)
        self._places = places({node: nodes[node] for node in seeing}, self.placement)
        if not self._places:
            raise FolderNotSeen(
                f"of {where}, {len(seeing)} see {self.visible} of this host, and none of them has "
                f"room for a worker with {self.placement.each}"
            )

    def _slot(self, number: int) -> Slot:
        log = self.log_folder / f"worker-{number}.log"
        options = {}
        if self._places is not None:
            options["scheduling_strategy"] = pinned_to(self._places[number % len(self._places)])
        actor = (
            self.ray.remote(**pulse.OPTIONS)(PoolWorker)
            .options(
                num_cpus=self.placement.cpus_per_worker,
                num_gpus=self.placement.gpus_per_worker,
                max_restarts=0,
                **options,
            )
            .remote()
        )
        threads = str(self.placement.cpus_per_worker)
        env = {"RANK": str(number), "WORLD_SIZE": str(self.placement.workers)}
        env |= {"OMP_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads, **self.env}
        described, begun = actor.describe.remote(), actor.start.remote(number, log, env)
        return Slot(number, log, actor, described, begun, pulse.Pulse(self.ray, actor))

    def _give_out(self, work: Any, arguments: Sequence[Any]) -> None:
        """Fill the queues, the shortest first; the last units wait for whoever is free first."""
        workers = [slot for slot in self.slots if slot.works]
        for length in range(QUEUED):
            for slot in workers:
                enough = length == 0 or len(self.waiting) >= len(self.slots)
                if self.waiting and len(slot.units) == length and enough:
                    index = self.waiting.popleft()
                    slot.units[slot.actor.answer.remote(work, arguments[index])] = index
        if not workers and not self._said and time.monotonic() - self._begun > PATIENCE_S:
            self._said = True
            self.say("the workers wait for free CPUs in the cluster")

    def _described(self, slot: Slot) -> Record:
        facts = UNKNOWN | (slot.describe(self.ray) or {})
        return facts | {"rank": slot.number, "log": str(slot.log)}

    def _replace_dead(self, slot: Slot, error: Exception, arguments: Sequence[Any]) -> None:
        worker = self._described(slot)
        failure = from_death(error, worker, memory_report(self.ray, worker, slot.memory_kills))
        if failure.cause == "exception":  # Ray could not carry the argument or the result
            name = str(arguments[next(iter(slot.units.values()))]) if slot.units else "its start"
            raise PoolFailed(f"{name}: {failure.error_type}: {failure.message}") from error
        self._replace(slot, failure, arguments)

    def _replace(self, slot: Slot, failure: WorkerFailed, arguments: Sequence[Any]) -> None:
        """Put a new worker in the place of a lost one, or give up the unit that it was at."""
        blamed = next(iter(slot.units.values()), None)  # None: it died before it had a unit
        name = "its start" if blamed is None else str(arguments[blamed])
        death = f"worker {slot.number} on {failure.host} {failure.message}"
        deaths = self.deaths.setdefault(blamed, [])
        deaths.append(death)
        if len(deaths) >= self.attempts:
            raise PoolFailed(
                f"{name}: each of {len(deaths)} workers that tried it died: {'; '.join(deaths)} "
                f"(what they wrote is in {slot.log})"
            ) from failure
        self.say(f"{death} at {name}; it is replaced, and its work done again")
        self.waiting.extendleft(reversed(slot.units.values()))
        if self._places is not None and failure.cause == "lost":
            alive = {node["NodeID"] for node in self.ray.nodes() if node["Alive"]}
            self._places = [node for node in self._places if node in alive]
            if not self._places:
                raise PoolFailed(f"{death}, the last node that sees {self.visible}")
        end_slots(self.ray, [slot])
        self.slots[self.slots.index(slot)] = self._slot(slot.number)
