"""This process's connection to Ray: a private Ray that lives as long as a job, or a cluster.

A private Ray is started by one thread, which stays until it is shut down: Linux kills Ray's
processes when the *thread* that started them ends (PR_SET_PDEATHSIG), which is also what takes
them down if this process is killed.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from cluster.environment import environment

OBJECT_STORE_BYTES = 100 * 2**20  # Ray's least is about 75 MB; only results and records pass here
TEMPORARY = Path("/tmp")  # not TMPDIR: a unix socket's path has at most 107 bytes
PREFIX = "orch-"
AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")


class Session:
    """A Ray that is being started, is up, or is down again; one per process at a time."""

    def __init__(self, cpus: int, gpus: int, address: str | None, log: Path | None) -> None:
        """Begin to start or connect in the background; `wait` for it before using it."""
        self.address = address
        self._cpus, self._gpus, self._log = cpus, gpus, log
        self._ready, self._leave = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._live, daemon=True, name="ray-session")
        self._thread.start()

    def wait(self) -> ModuleType:
        """Block until Ray is up; returns the ray module. Raises what starting it raised."""
        self._ready.wait()
        if self._error is not None:
            raise self._error
        import ray

        module: ModuleType = ray
        return module

    def close(self) -> None:
        """Shut a private Ray down and remove its files, or disconnect from the cluster."""
        self._leave.set()
        self._thread.join()

    def _live(self) -> None:
        try:
            import ray  # noqa: F401  # first, since it sets up the loggers that are redirected next

            with _ray_log(self._log):
                if self.address is None:
                    self._live_private()
                else:
                    self._live_connected(self.address)
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    def _live_private(self) -> None:
        remove_stale_folders()
        folder = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=TEMPORARY)
        servers: list[psutil.Process] = []
        guard: subprocess.Popen[bytes] | None = None
        try:
            token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            with _environment(token):
                import ray

                with _without_dashboard_dependencies():
                    ray.init(
                        address="local",  # whatever RAY_ADDRESS says
                        num_cpus=self._cpus,
                        num_gpus=self._gpus,
                        object_store_memory=OBJECT_STORE_BYTES,
                        _temp_dir=folder,
                        **_job_settings(),
                    )
                servers = _ray_processes()
                guard = _start_guard(folder, servers)
                self._ready.set()
                self._leave.wait()
                servers = _ray_processes()
                ray.shutdown()
        finally:
            end_processes(servers)
            shutil.rmtree(folder, ignore_errors=True)
            if guard is not None:
                guard.communicate()

    def _live_connected(self, address: str) -> None:
        with _environment(_auth_of_cluster()):
            import ray

            ray.init(address=address, **_job_settings())
            self._ready.set()
            self._leave.wait()
            ray.shutdown()


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


def remove_stale_folders() -> None:
    """Remove temporary folders of private Rays whose owner was killed."""
    for folder in TEMPORARY.glob(f"{PREFIX}*-*"):
        owner = folder.name.removeprefix(PREFIX).split("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def end_processes(processes: list[psutil.Process], grace_s: float = 2.0) -> None:
    """SIGKILL those of the processes that are still here after `grace_s` seconds."""
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=grace_s)


def process_tree(pid: int) -> list[psutil.Process]:
    """A process of this host and all that it started; empty if it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _start_guard(folder: str, servers: list[psutil.Process]) -> subprocess.Popen[bytes]:
    """See to the servers' end also if this process is killed; in a session of its own."""
    script = str(Path(__file__).with_name("guard.py"))
    return subprocess.Popen(
        [sys.executable, "-P", script, folder, *(str(server.pid) for server in servers)],
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


def _auth_of_cluster() -> dict[str, str]:
    """RAY_AUTH_MODE for connecting: the user's, else token if there is one, else disabled.

    Ray decides by itself only for clusters it starts; a client that leaves the mode open fails
    with AuthenticationError on a mixed set-up.
    """
    if os.environ.get("RAY_AUTH_MODE"):
        return {}
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    has_token = bool(named) or (Path.home() / ".ray" / "auth_token").exists()
    return {"RAY_AUTH_MODE": "token" if has_token else "disabled"}


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables that Ray reads while starting, and put the old ones back at the end."""
    values = {"RAY_USAGE_STATS_ENABLED": "0", **values}
    try:
        with environment(values, keep=AUTH):
            _forget_cached_auth()
            yield
    finally:
        _forget_cached_auth()


def _forget_cached_auth() -> None:
    """Make Ray's C++ side read the auth variables again; it caches them for the whole process."""
    from ray._raylet import (  # type: ignore[attr-defined]  # a compiled module
        AuthenticationTokenLoader,
        Config,
    )

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _without_dashboard_dependencies() -> Iterator[None]:
    """Start Ray as if its web dashboard were not installed.

    Even with include_dashboard=False, ray[default] starts an agent with an HTTP server and
    metrics, which nobody here asks. Whether this also starts faster is unclear: 3.0 and 4.4 s
    against 4.8 to 6.9 s on an idle machine, no difference in five pairs on a busy one.
    """
    name = "ray.dashboard.optional_deps"
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before


@contextmanager
def _ray_log(path: Path | None) -> Iterator[None]:
    """Send what Ray's Python logs in this process to a file, not to the screen."""
    logger = logging.getLogger("ray")
    handler: logging.Handler = logging.NullHandler()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, delay=True)
    before = (list(logger.handlers), logger.propagate, logger.level)
    # The raylet's messages ("A worker died ...") are printed whatever log_to_driver says.
    from ray._private import worker as driver

    show = driver.print_to_stdstream
    driver.print_to_stdstream = lambda data, ignore_prefix: logger.info("\n".join(data["lines"]))
    logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[1]
        logger.setLevel(before[2])
        driver.print_to_stdstream = show
        handler.close()
