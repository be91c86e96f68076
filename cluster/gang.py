"""A gang: N workers that start and fail together, in one Ray placement group.

1. `GangRefused` before anything is reserved, if the cluster can never hold the gang.
2. One placement group, all or nothing; one actor per bundle; ranks by host; then all start.
3. The driver polls: records arrive in order, the first cause of a failure is told from its echoes.
4. After a failure the driver may start the gang again, in the room that it holds: only processes
   that have died or that do not come back from the work are replaced.
5. However it ends, the workers are gone and the placement group is removed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from cluster.answers import pickled
from cluster.bundles import Bundles
from cluster.connection.session import Session, ray_session
from cluster.failure import WorkerFailed
from cluster.files import Files, bring
from cluster.gang_run import GangRun, Watch
from cluster.host.network import free_port, takes_connections
from cluster.inline import run_inline
from cluster.membership import leaving
from cluster.placement import GangRefused, Placement, refuse_what_never_fits
from cluster.polls import OnRecords, Silence
from cluster.waiting import ClusterAway, wait_until
from cluster.worker import Channel, Record, Target
from cluster.world import by_host, worlds_of

__all__ = [
    "Channel",
    "Files",
    "Gang",
    "GangRefused",
    "GangRun",
    "OnRecords",
    "Placement",
    "Silence",
    "WorkerFailed",
    "ray_session",
    "run_gang",
    "run_inline",
]

RESTART_GRACE_S = 3.0  # a new process takes about as long to import what it needs
ANSWER_LIMIT_S = 2.0


def run_gang(
    target: Target,
    payload: Any,
    placement: Placement,
    *,
    log_folder: Path,
    on_records: OnRecords,
    stop: threading.Event,
    on_started: Callable[[list[Record]], None] | None = None,
    silent_after_s: float | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> list[Any]:
    """Run `target(payload, channel)` in every worker once; returns their results by rank.

    A `Gang` that starts, runs and ends; the arguments are those of its methods.

    Args:
        target, payload, on_records, silent_after_s, watch: as for `Gang.run`.
        placement, log_folder, stop: as for `Gang`; so are the `options`.
        on_started: gets a description of each worker (host, pid, log, ...) before work begins.
    """
    with Gang(placement, log_folder=log_folder, stop=stop, **options) as gang:
        workers = gang.start()
        if on_started is not None:
            on_started(workers)
        return gang.run(target, payload, on_records, silent_after_s=silent_after_s, watch=watch)


class Gang:
    """The driver's side of one gang; a context manager, which ends it.

    The workers see RANK, LOCAL_RANK, WORLD_SIZE and so on as under torchrun, and all GPUs of
    their host that belong to the gang, so `cuda:LOCAL_RANK` is a worker's own (first) GPU.
    Rank K writes to log_folder/rank-K.log.
    """

    def __init__(
        self,
        placement: Placement,
        *,
        log_folder: Path,
        stop: threading.Event,
        kill: threading.Event | None = None,
        env: Mapping[str, str] | None = None,
        files: Files | None = None,
        session: Session | None = None,
        say: Callable[[str], None] = lambda line: None,
        wait_s: float | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            placement: how many workers, with what, where.
            log_folder: on a file system that all hosts share, if there are several hosts.
            stop: set it, and `channel.should_stop()` becomes true in every worker.
            kill: set it, and the workers are killed at once.
            env: more environment variables for the workers.
            files: what every host must have before the work begins.
            session: a `ray_session` already begun; None starts one and ends it.
            say: gets a line for what a person may wonder about: a long wait, a copy of files.
            wait_s: seconds to wait for room, at the start and after a node is lost. None: for ever.
        """
        self.placement, self.log_folder = placement, log_folder.absolute()
        self.workers: list[Record] = []
        """Descriptions of the workers, in order of rank, once started."""
        self._stop, self._kill = stop, kill or threading.Event()
        self._env, self._files, self._say = dict(env or {}), files, say
        self._wait_s = wait_s
        self._stack = ExitStack()
        self._session = session
        self._bundles: Bundles | None = None
        self._order: list[int] = []  # the bundle of each rank
        self._run: GangRun | None = None

    def __enter__(self) -> Gang:
        """Nothing happens before `start`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the gang, and the session if it is its own."""
        self._stack.close()

    def start(self) -> list[Record]:
        """Reserve, place, give ranks, set up; returns the workers' descriptions.

        Raises:
            GangRefused: the cluster can never hold this gang.
            NoRoom: it had no room for so long; ClusterAway: it took no connections.
            WorkerFailed: a worker did not start.
            FilesNotBrought: a host cannot have the files.
            KeyboardInterrupt: `kill` or `stop` was set before the workers had started.
        """
        session = self._session
        if session is None:
            self._wait_for_head()
            own = ray_session(self.placement, log_folder=self.log_folder)
            session = self._stack.enter_context(own)
        self._session = session
        ray = session.wait(self._stop, self._kill)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        refuse_what_never_fits(self.placement, nodes, f"the Ray cluster of {len(nodes)} node(s)")
        self._bundles = Bundles(
            ray, self.placement, self._say, self._check_interrupted, self._wait_s
        )
        self._stack.callback(self._bundles.end)
        self._bundles.reserve()
        return self._form_world(kept=set())

    def run(
        self,
        target: Target,
        payload: Any,
        on_records: OnRecords,
        *,
        silent_after_s: float | None = None,
        watch: Watch | None = None,
    ) -> list[Any]:
        """Run `target(payload, channel)` in every worker; returns their results by rank.

        Args:
            target: importable in the workers (a function of a module, not of the command line).
            payload: anything that pickles.
            on_records: gets each rank's records, in order, in the calling thread.
            silent_after_s: a rank that has not answered for so long has failed. None: wait for
                ever. A rank that holds the GIL in native code is silent, too: be generous.
            watch: gets the silence of each working rank, several times a second, in the calling
                thread; may raise to end the run.

        Raises:
            WorkerFailed: a worker raised, died or fell silent. The others go on with what they do
                until `restart` or `end`.
            KeyboardInterrupt: `kill` was set.
        """
        assert self._bundles is not None
        assert self._session is not None
        actors = [self._bundles.actors[index] for index in self._order]
        work = pickled((target, payload))
        self._run = GangRun(self._bundles.ray, actors, self.workers, work, on_records)
        check = self._session.check
        try:
            return self._run.finish(self._stop, self._kill, silent_after_s, watch, check)
        finally:
            self._bundles.lost_nodes |= self._run.lost_nodes

    def restart(self, grace_s: float = RESTART_GRACE_S, *, keep: bool = True) -> list[Record]:
        """After `run`: a new world in the same room, ready for the next `run`.

        It is as large as it may be and as there is room: smaller if a node was lost, larger if one
        came back. All are asked to stop. A worker's process is *kept* if it lives, answers, and its
        target has ended (returned or raised) within the grace; a peer of a killed rank usually
        leaves a gloo collective by an exception at once. Any other is killed and replaced.
        All get their rank, a fresh MASTER_PORT, a log position and a cleared stop flag.

        What is kept is the process with all that it has imported, allocated and set: a target
        that may run again in it must leave no trace. It calls `destroy_process_group()` in a
        `finally`, drops its engine and its tensors on the GPU, and ends its threads and children.
        CUDA_VISIBLE_DEVICES is read once per process, so a kept worker keeps its devices; a
        process whose NCCL communicator was aborted is better replaced: end it in the target.

        Args:
            grace_s: seconds that the survivors' targets have to end.
            keep: False: no process is kept, as is better where there are GPUs.

        Raises:
            NoRoom: a node is gone, and nothing took its place for so long.
            WorkerFailed: a worker did not start; this may be called again.
            FilesNotBrought: a host that is new in the gang cannot have the files.
            KeyboardInterrupt: `kill` or `stop` was set.
        """
        assert self._bundles is not None
        bundles, kept = self._bundles, set(self._bundles.actors)
        if self._run is not None:
            survivors = self._run.survivors(grace_s if keep else 0.0, self._kill)
            kept = {self._order[rank] for rank in survivors}
            self._run = None
        if not keep:
            kept = set()
        kept &= bundles.answering(sorted(kept & bundles.actors.keys()), ANSWER_LIMIT_S)
        bundles.clear(sorted(bundles.actors.keys() - kept))
        return self._form_world(kept)

    def room(self) -> int:
        """Workers that there would be room for if the gang were placed anew, now."""
        assert self._bundles is not None
        return self._bundles.room()

    def needs_other_room(self) -> bool:
        """Whether another gang could have more workers than this one in the room that it holds.

        So it is, too, where this one could go on only when its nodes come back.
        """
        return (self.placement.most(self.room()) or 0) > (self._held() or 0)

    def _held(self) -> int | None:
        """The most workers in the room that the gang holds, on nodes that live and are to stay."""
        assert self._bundles is not None
        return self.placement.most(len(self._bundles.placed()))

    def must_leave(self) -> dict[int, str]:
        """Ranks whose host is wanted for something else, and how that was told."""
        assert self._bundles is not None
        nodes = leaving(self._bundles.ray)
        told = {w["rank"]: "its node is drained" for w in self.workers if w["node"] in nodes}
        signalled = self._run.polls.terminated if self._run is not None else ()
        return told | dict.fromkeys(signalled, "it got SIGTERM")

    def leave_soon(self) -> None:
        """Ask all ranks to end their work by themselves; `run` then returns their results."""
        if self._run is not None:
            self._run.tell_to_stop()

    def _wait_for_head(self) -> None:
        """Wait until the cluster takes connections, as one does not that is being started again.

        Ray itself would end this process after a minute.
        """
        place = re.fullmatch(r"(?:ray://)?(.+):(\d+)", self.placement.address or "")
        if place is None:
            return
        host, port = place[1].strip("[]"), int(place[2])
        wait_until(
            lambda: takes_connections(host, port),
            f"Ray cluster at {self.placement.address}",
            lambda: "its head process takes no connections",
            limit_s=self._wait_s,
            say=self._say,
            check=self._check_interrupted,
            error=ClusterAway,
        )

    def _form_world(self, kept: set[int]) -> list[Record]:
        """Fill the bundles; give every actor its rank, its log and its view of the world."""
        assert self._bundles is not None
        bundles = self._bundles
        chosen = bundles.wait_for(kept)
        bundles.clear([index for index in bundles.actors if index not in chosen])
        bundles.fill(chosen)
        hosts = by_host([bundles.described[index] for index in chosen])
        self._order = [chosen[place] for place in sorted(range(len(chosen)), key=hosts)]
        placed = bundles.described
        first = self._order[0]
        port = bundles.answers({first: bundles.actors[first].carry_out.remote(free_port)})[first]
        self.workers = [
            placed[index] | {"rank": rank, "log": str(self.log_folder / f"rank-{rank}.log")}
            for rank, index in enumerate(self._order)
        ]
        roots = self._bring_files()
        calls = {}
        worlds = worlds_of(self.workers, port, self.placement.cpus_per_worker)
        for index, worker, world, root in zip(
            self._order, self.workers, worlds, roots, strict=True
        ):
            environment = {**world, **self._env, **root}
            start = bundles.actors[index].start
            calls[index] = start.remote(worker["rank"], Path(worker["log"]), environment)
        log_sizes = bundles.answers(calls)
        for index, worker in zip(self._order, self.workers, strict=True):
            worker["log_begins_at"] = log_sizes[index]
        return self.workers

    def _bring_files(self) -> list[dict[str, str]]:
        """See to the files on every host; what each rank's environment says about where."""
        if self._files is None:
            return [{}] * len(self.workers)
        assert self._bundles is not None
        hosts = {worker["node"]: worker["host"] for worker in self.workers}
        actors = {
            worker["node"]: self._bundles.actors[index]
            for index, worker in zip(self._order, self.workers, strict=True)
        }
        roots = bring(
            self._bundles.ray, actors, hosts, self._files, self._say, self._check_interrupted
        )
        return [{self._files.variable: str(roots[worker["node"]])} for worker in self.workers]

    def _check_interrupted(self) -> None:
        if self._stop.is_set() or self._kill.is_set():
            raise KeyboardInterrupt("the job was stopped before its workers had started")
        if self._session is not None:
            self._session.check()
