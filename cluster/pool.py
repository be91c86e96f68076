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
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from cluster.answers import PoolWorker, pickled
from cluster.ending import end_workers
from cluster.failure import UNKNOWN, from_death
from cluster.placement import Placement, refuse_what_never_fits
from cluster.polls import POLL_S
from cluster.post_mortem import memory_report
from cluster.session import Session, ray_session
from cluster.worker import Record

__all__ = ["Placement", "Pool", "PoolFailed", "pool", "ray_session", "run_pool"]

QUEUED = 2  # units a worker has at once: it begins the next one without asking the driver
ATTEMPTS = 3
PATIENCE_S = 30.0  # workers that start so late wait for a place

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class PoolFailed(Exception):
    """A unit ended its worker's process again and again, or its result could not be carried."""


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
    """
    with ExitStack() as sessions:

        def wait_for_ray() -> ModuleType:
            own = session or sessions.enter_context(ray_session(placement, log_folder=log_folder))
            ray = own.wait()
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            refuse_what_never_fits(placement, nodes, f"the Ray cluster of {len(nodes)} node(s)")
            return ray

        running = Pool(
            wait_for_ray,
            placement,
            log_folder.absolute(),
            dict(env or {}),
            say,
            stop or threading.Event(),
            attempts,
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


@dataclass
class Slot:
    """A worker as the driver sees it; a successor takes over number and log."""

    number: int
    log: Path
    actor: Any
    described: Any
    """Call that tells host, node and pid."""
    begun: Any
    """Call that tells the size the log had before."""
    works: bool = False
    """Whether it has a place and is set up."""
    units: dict[Any, int] = field(default_factory=dict)
    """Calls under way, the oldest first, and the index of the unit that each carries out."""
    memory_kills: int | None = None
    """In its memory group, by its last answer."""


class Pool:
    """The driver's side; `pool` makes and ends it."""

    def __init__(
        self,
        wait_for_ray: Callable[[], ModuleType],
        placement: Placement,
        log_folder: Path,
        env: dict[str, str],
        say: Callable[[str], None],
        stop: threading.Event,
        attempts: int,
    ) -> None:
        """Starts nothing yet; `end` must be called in every case."""
        self._wait_for_ray = wait_for_ray
        self.placement, self.log_folder, self.env = placement, log_folder, env
        self.say, self.stop, self.attempts = say, stop, attempts
        self.ray: Any = None
        self.slots: list[Slot] = []
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
            PoolFailed: a unit has used up its attempts; names the unit and the deaths.
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
            self._give_out(work, arguments)
            # Calls of an actor are carried out in order, so its oldest one is the one to wait for.
            oldest = {next(iter(slot.units)): slot for slot in self.slots if slot.units}
            starting = {slot.begun: slot for slot in self.slots if not slot.works}
            ready, _ = ray.wait([*oldest, *starting], num_returns=1, timeout=POLL_S)
            for call in ready:
                slot = oldest.get(call) or starting[call]
                try:
                    answer = ray.get(call)
                except ray.exceptions.RayError as error:
                    self._replace(slot, error, arguments)
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
        self._kill(self.slots)
        self.slots = []

    def _start(self, workers: int) -> None:
        """Ask Ray for workers that are not there yet; each begins as soon as it has a place."""
        self.ray = self.ray or self._wait_for_ray()
        for number in range(len(self.slots), workers):
            self.slots.append(self._slot(number))

    def _slot(self, number: int) -> Slot:
        log = self.log_folder / f"worker-{number}.log"
        actor = (
            self.ray.remote(PoolWorker)
            .options(
                num_cpus=self.placement.cpus_per_worker,
                num_gpus=self.placement.gpus_per_worker,
                max_restarts=0,
            )
            .remote()
        )
        threads = str(self.placement.cpus_per_worker)
        env = {"RANK": str(number), "WORLD_SIZE": str(self.placement.workers)}
        env |= {"OMP_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads, **self.env}
        return Slot(
            number, log, actor, actor.describe.remote(), actor.start.remote(number, log, env)
        )

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

    def _replace(self, slot: Slot, error: Exception, arguments: Sequence[Any]) -> None:
        """Put a new worker in the place of a dead one, or give up the unit that it was at."""
        worker = self._describe(slot)
        facts = UNKNOWN | (worker or {}) | {"rank": slot.number, "log": str(slot.log)}
        failure = from_death(error, facts, memory_report(self.ray, facts, slot.memory_kills))
        blamed = next(iter(slot.units.values()), None)  # None: it died before it had a unit
        name = "its start" if blamed is None else str(arguments[blamed])
        if failure.cause == "exception":  # Ray could not carry the argument or the result
            raise PoolFailed(f"{name}: {failure.error_type}: {failure.message}") from error
        death = f"worker {slot.number} on {failure.host} {failure.message}"
        deaths = self.deaths.setdefault(blamed, [])
        deaths.append(death)
        if len(deaths) >= self.attempts:
            raise PoolFailed(
                f"{name}: each of {len(deaths)} workers that tried it died: {'; '.join(deaths)} "
                f"(what they wrote is in {slot.log})"
            ) from error
        self.say(f"{death} at {name}; it is replaced, and its work done again")
        self.waiting.extendleft(reversed(slot.units.values()))
        self._kill([slot])
        self.slots[self.slots.index(slot)] = self._slot(slot.number)

    def _describe(self, slot: Slot) -> Record | None:
        """Who the worker is, or was; None if it did not live to tell."""
        worker = self._told(slot.described)
        return None if worker is None else worker | {"log_begins_at": self._told(slot.begun) or 0}

    def _told(self, call: Any) -> Any:
        try:
            return self.ray.get(call, timeout=0)
        except self.ray.exceptions.RayError:
            return None

    def _kill(self, slots: Sequence[Slot]) -> None:
        """End the workers of these slots with all that they started."""
        workers = [worker for slot in slots if (worker := self._describe(slot)) is not None]
        end_workers(self.ray, [slot.actor for slot in slots], workers)
