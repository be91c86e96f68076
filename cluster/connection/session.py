"""This process's connection to Ray: a private Ray that lives as long as a job, or a cluster.

A private Ray is started by one thread, which stays until it is shut down: Linux kills Ray's
processes when the *thread* that started them ends (PR_SET_PDEATHSIG), which is also what takes
them down if this process is killed.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from cluster.connection.authentication import own_token, ray_environment, token_of_user
from cluster.connection.folder import ray_folder
from cluster.connection.starting import (
    ONE_HEAP,
    handlers_kept,
    on_loopback,
    ray_log,
    servers_alone,
)
from cluster.head import HeadWatch
from cluster.host.processes import end_processes
from cluster.nodes import local_devices
from cluster.placement import Placement, refuse_what_never_fits

OBJECT_STORE_BYTES = 100 * 2**20  # Ray's least is about 75 MB; enough for results and records
LOOK_S = 0.1
# Ray starts workers in advance, and would end them after a second in which all room is reserved and
# their actors, on a busy host, are still to come. For one that takes longer than its limit to come
# up, by default 60 s, Ray lets the driver wait without end (ray-project/ray#40131).
WAITING_WORKERS = {
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "RAY_worker_register_timeout_seconds": "600",
}


@contextmanager
def ray_session(
    placement: Placement, *, log_folder: Path, object_store_bytes: int = OBJECT_STORE_BYTES
) -> Iterator[Session]:
    """Ray for one gang, or for several in turn; starts in the background while the block runs.

    Args:
        placement: the largest that will be asked for.
        log_folder: gets ray.log.
        object_store_bytes: of a private Ray; what is broadcast to services must fit, or it goes
            to the disk.

    Raises:
        GangRefused: this machine has fewer CPUs or GPUs than the placement asks for.
    """
    workers = placement.workers
    if placement.address is None:
        here = local_devices()
        room = [{"CPU": float(here.cpus), "GPU": float(here.gpus)}]
        refuse_what_never_fits(placement, room, "this machine", here.note)
        workers = placement.most(placement.room(room)) or workers
    processes = workers + placement.beside
    session = Session(
        processes * placement.cpus_per_worker,
        processes * placement.gpus_per_worker,
        placement.address,
        log_folder / "ray.log",
        object_store_bytes,
    )
    try:
        yield session
    finally:
        session.close()


class RayNotStarted(Exception):
    """A private Ray did not come up, nor did the next one."""


class Abandoned(BaseException):
    """Ray is no longer wanted, though it has not yet started. Nobody but the session sees it."""


class Session:
    """A Ray that is being started, is up, or is down again; one per process at a time."""

    def __init__(
        self,
        cpus: int,
        gpus: int,
        address: str | None,
        log: Path | None,
        object_store_bytes: int = OBJECT_STORE_BYTES,
    ) -> None:
        """Begin to start or connect in the background; `wait` for it before using it."""
        self.address = address
        self._cpus, self._gpus, self._log = cpus, gpus, log
        self._object_store_bytes = object_store_bytes
        self._ready, self._leave = threading.Event(), threading.Event()
        self._lock, self._starting = threading.Lock(), False
        self._error: BaseException | None = None
        self._head: HeadWatch | None = None
        self._thread = threading.Thread(target=self._live, daemon=True, name="ray-session")
        self._thread.start()

    def wait(self, *interrupts: threading.Event) -> ModuleType:
        """Block until Ray is up; returns the ray module. Raises what starting it raised.

        Raises:
            KeyboardInterrupt: one of the interrupts was set first.
        """
        while not self._ready.wait(LOOK_S):
            if any(event.is_set() for event in interrupts):
                raise KeyboardInterrupt("interrupted while Ray was starting")
        if self._error is not None:
            raise self._error
        import ray

        module: ModuleType = ray
        self._head = self._head or HeadWatch(module, private=self.address is None)
        return module

    def check(self) -> None:
        """To be called often by whoever waits for something of Ray.

        Raises:
            WorkerFailed: the head process of Ray is gone, and what is waited for will not come.
        """
        if self._head is not None:
            self._head.check()

    def close(self) -> None:
        """Shut a private Ray down and remove its files, or disconnect from the cluster.

        A Ray that is still starting is abandoned at once, wherever it is.
        """
        self._leave.set()
        with self._lock:
            if self._starting:
                thread = ctypes.c_ulong(self._thread.ident or 0)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Abandoned))
        self._thread.join()

    def _live(self) -> None:
        # Inherited by Ray's processes: a lost terminal tells the driver, which ends them.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            import ray  # noqa: F401  # first, since it sets up the loggers that are redirected next

            with ray_log(self._log):
                if self.address is None:
                    self._live_private()
                else:
                    self._live_connected(self.address)
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    def _live_private(self) -> None:
        guard: subprocess.Popen[bytes] | None = None
        try:
            environment = {**own_token(), **WAITING_WORKERS, **ONE_HEAP}
            with ray_folder() as folder, ray_environment(environment):
                import ray

                try:
                    self._start_private(folder)
                    guard = _start_guard(folder, _ray_processes())
                    self._ready.set()
                    self._leave.wait()
                finally:
                    servers, grace_s = _ray_processes(), 2.0 if self._ready.is_set() else 0.0
                    ray.shutdown()
                    end_processes(servers, grace_s)
        finally:
            if guard is not None:
                guard.communicate()

    def _start_private(self, folder: Path) -> None:
        """Start Ray's processes, once more if that fails: on a busy host it waits too briefly."""
        import ray

        for attempt in (1, 2):
            try:
                with (
                    servers_alone(),
                    on_loopback(),
                    handlers_kept(),
                    self._abandonable(),
                ):
                    ray.init(
                        address="local",  # whatever RAY_ADDRESS says
                        num_cpus=self._cpus,
                        num_gpus=self._gpus,
                        object_store_memory=self._object_store_bytes,
                        # Ray lets everybody write there; nobody else gets into our folder.
                        _temp_dir=str(folder / str(attempt)),
                        **_job_settings(),
                    )
            except Exception as error:
                if attempt == 2:
                    raise RayNotStarted(f"Ray did not start, twice: {error}") from error
                logging.getLogger("ray").warning("Ray did not start, it is tried again: %s", error)
                servers = _ray_processes()
                ray.shutdown()
                end_processes(servers, grace_s=0)
            else:
                return

    def _live_connected(self, address: str) -> None:
        with ray_environment(token_of_user()):
            import ray

            try:
                with handlers_kept(), self._abandonable():
                    ray.init(address=address, **_job_settings())
                self._ready.set()
                self._leave.wait()
            finally:
                ray.shutdown()

    @contextmanager
    def _abandonable(self) -> Iterator[None]:
        """While the block runs, `close` makes it raise Abandoned; it ends with Ray connected.

        The last part, in which this process becomes a driver, is waited for: one that is given up
        half-made can be neither used nor ended, and Ray allows no second.
        """
        from ray._private import worker as driver

        def connect_wholly(*arguments: Any, **options: Any) -> None:
            with self._lock:
                self._starting = False
            if self._leave.is_set():
                raise Abandoned
            connect(*arguments, **options)

        connect = driver.connect
        with self._lock:
            if self._leave.is_set():
                raise Abandoned
            self._starting = True
        driver.connect = connect_wholly
        try:
            yield
        finally:
            driver.connect = connect
            with self._lock:
                self._starting = False
        if self._leave.is_set():
            raise Abandoned  # if Ray has caught the one that was thrown in


class _Sealed(list[str]):
    """Search path of the workers, to which Ray can't add the current folder.

    It would come first, and a user's own `data/` or `models/` there would hide ours.
    """

    def extend(self, more: object) -> None:
        """Add nothing."""


def _job_settings() -> dict[str, Any]:
    """What both kinds of Ray are told: keep quiet, and import from where this process does."""
    from ray.job_config import JobConfig

    # Workers put each of these in front of the others, so the last comes first.
    imports = _Sealed(str(Path(part).absolute()) for part in reversed(sys.path))
    return {
        "include_dashboard": False,
        "log_to_driver": False,
        "job_config": JobConfig(_py_driver_sys_path=imports),
    }


@contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """The ray module, connected to the cluster at `address` while the block runs."""
    session = Session(0, 0, address, log=None)
    try:
        yield session.wait()
    finally:
        session.close()


def _start_guard(folder: Path, servers: list[psutil.Process]) -> subprocess.Popen[bytes]:
    """See to the servers' end also if this process is killed; in a session of its own."""
    script = str(Path(__file__).with_name("guard.py"))
    return subprocess.Popen(
        [sys.executable, "-P", script, str(folder), *(str(server.pid) for server in servers)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _ray_processes() -> list[psutil.Process]:
    """Ray's own processes below this one, and everything that they started."""
    found = []
    for child in psutil.Process().children():
        try:
            if any("/ray/" in part for part in child.cmdline()):
                found += [child, *child.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found
