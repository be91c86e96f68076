"""One replica of a service as the driver sees it: an actor that may die and have a successor."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from cluster import pulse
from cluster.answers import Answer, ReplicaWorker
from cluster.ending import end_workers
from cluster.failure import UNKNOWN, WorkerFailed, from_death, from_silence
from cluster.head import node_answers
from cluster.host.network import free_port
from cluster.placement import Placement
from cluster.polls import POLL_S
from cluster.post_mortem import memory_report
from cluster.worker import Record

PATIENCE_S = 30.0  # one that starts so late waits for a place


class ServiceFailed(Exception):
    """A replica died with a call, again and again, or Ray could not carry the call.

    `cause` is that of `WorkerFailed`: "killed", "lost" or "exception".
    """

    def __init__(self, replica: int, host: str, cause: str, message: str) -> None:
        """Facts, and the sentence about them."""
        self.replica, self.host, self.cause = replica, host, cause
        super().__init__(message)


class Gone(Exception):
    """What an object raises that is of no more use, as where a process that it needs has ended.

    Its replica is replaced, and the call made again, as if the replica's own process had died.
    """


class Died(Exception):
    """The replica's process is gone."""

    def __init__(self, failure: WorkerFailed) -> None:
        """Say how it died."""
        self.failure = failure
        super().__init__(failure.message)


class Replica:
    """Used by one thread at a time."""

    def __init__(
        self,
        ray: ModuleType,
        number: int,
        placement: Placement,
        log_folder: Path,
        env: Mapping[str, str],
        check: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """Starts nothing yet. `check` is called often during a call; raises to give it up."""
        self.ray, self.number, self.placement = ray, number, placement
        self.log, self._env = log_folder / f"replica-{number}.log", env
        self._check, self._say = check, say
        self._actor: Any = None
        self._worker: Record | None = None  # known once the actor has a place
        self._memory_kills: int | None = None
        self._pulse: pulse.Pulse | None = None  # from when it has a place and is set up

    @property
    def lives(self) -> bool:
        """Whether it has an actor that nobody has found dead."""
        return self._actor is not None

    @property
    def host(self) -> str:
        """Where it is, or was."""
        return str((self._worker or UNKNOWN)["host"])

    def build(self, work: bytes) -> None:
        """Start the process and make the object in it, a world of one for torch.

        Raises:
            Died: it did.
            Exception: what the factory raised.
        """
        each = self.placement
        remote = self.ray.remote(**pulse.OPTIONS)(ReplicaWorker).options(
            num_cpus=each.cpus_per_worker, num_gpus=each.gpus_per_worker, max_restarts=0
        )
        self._actor, self._worker, self._memory_kills = remote.remote(), None, None
        self._pulse = None
        described = self._get(self._actor.describe.remote(), patience_s=PATIENCE_S)
        self._worker = described | {"rank": self.number, "log": str(self.log), "log_begins_at": 0}
        threads = str(each.cpus_per_worker)
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        alone |= {"NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        alone["MASTER_PORT"] = str(self._get(self._actor.carry_out.remote(free_port)))
        env = {**alone, "OMP_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads, **self._env}
        size = self._get(self._actor.start.remote(self.number, self.log, env))
        self._worker["log_begins_at"] = size
        self._pulse = pulse.Pulse(self.ray, self._actor)
        self._open(self._get(self._actor.build.remote(work, self.number)))

    def call(self, method: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Call a method of the object; arguments may be references to Ray's objects.

        Raises:
            Died: it did; `lives` is false from then on.
            ServiceFailed: Ray could not carry the arguments or the result.
            Exception: what the method raised.
        """
        return self._open(self._get(self._actor.answer.remote(method, keywords, *arguments)))

    def end(self) -> None:
        """Kill it with all that it started."""
        end_replicas([self])

    def _get(self, call: Any, patience_s: float | None = None) -> Any:
        """Wait for an answer, in small steps; say so if there is still none after the patience."""
        say_at = float("inf") if patience_s is None else time.monotonic() + patience_s
        while not self.ray.wait([call], timeout=POLL_S)[0]:
            self._check()
            if self._pulse is not None and self._pulse.is_silent:
                assert self._worker is not None  # it has a pulse
                answers = node_answers(self.ray, self._worker["node"])
                silent_s = self._pulse.silent_s
                self._die(from_silence(self._worker, silent_s, node_answers=answers))
            if time.monotonic() > say_at:
                say_at = float("inf")
                self._say(f"replica {self.number} waits for free room in the cluster")
        try:
            return self.ray.get(call)
        except self.ray.exceptions.RayError as error:
            worker = UNKNOWN | {"rank": self.number, "log": str(self.log)} | (self._worker or {})
            memory = memory_report(self.ray, worker, self._memory_kills)
            failure = from_death(error, worker, memory)
            if failure.cause == "exception":
                told = f"replica {self.number} on {self.host}: {failure.error_type}: {error}"
                raise ServiceFailed(self.number, self.host, "exception", told) from error
            self._die(failure)

    def _die(self, failure: WorkerFailed) -> NoReturn:
        self.end()
        raise Died(failure)

    def _open(self, answer: Answer) -> Any:
        self._memory_kills = answer.memory_kills
        try:
            return answer.open()
        except Gone as gone:
            failure = WorkerFailed(
                rank=self.number,
                host=self.host,
                cause="killed",
                error_type="",
                message=str(gone),
                log=self.log,
            )
            self._die(failure)


def end_replicas(replicas: Sequence[Replica]) -> None:
    """Kill them at once, with all that they started."""
    living = [replica for replica in replicas if replica._actor is not None]
    if living:
        workers = [replica._worker for replica in living if replica._worker is not None]
        end_workers(living[0].ray, [replica._actor for replica in living], workers)
    for replica in living:
        replica._actor = None
