"""The harm that is done to a job, all of it from outside of its code."""

import ctypes
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import psutil

from cluster.host.memory import kills_now, memory_group
from orchestrator.record.checkpoints.finding import published
from orchestrator.record.checkpoints.manifest import FOLDER
from orchestrator.verbs.drill.rehearsal import Child, DrillError, NotPossible
from orchestrator.verbs.ui import answers, choose_port, serve

PAGE = 4096
BUSY = "while True: pass"
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207  # linux/ptrace.h
LOOK_S = 0.5
RUNS_S, STANDS_S = 0.01, 0.04  # turns of a throttled process
ROOM = 16 << 20  # bytes


def to_worker(number: signal.Signals) -> Callable[[Child], None]:
    """A signal to the last rank: the others learn of it from the death of a peer."""
    return lambda child: os.kill(child.last_worker()[1], number)


def to_driver(number: signal.Signals) -> Callable[[Child], None]:
    """A signal to the process that the user started, and to no other."""

    def inject(child: Child) -> None:
        os.kill(child.pid, number)
        if number == signal.SIGKILL:
            child.process.wait()

    return inject


def hang(child: Child) -> None:
    """The thread of the last rank that works most is stopped; its process is alive and answers.

    As long as this process lives and the thread does: the kernel lets a tracer stop one thread.
    Raises DrillError where it does not.
    """
    libc, thread = ctypes.CDLL(None, use_errno=True), _busiest(child.last_worker()[1])
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, thread, None, None):
            reason = os.strerror(ctypes.get_errno())
            raise DrillError(f"thread {thread} can't be stopped: {reason}; only root may")


def _busiest(pid: int) -> int:
    """The thread of a process that computes most just now."""
    process = psutil.Process(pid)
    before = {thread.id: thread.user_time for thread in process.threads()}
    time.sleep(LOOK_S)
    spent = {t.id: t.user_time - before.get(t.id, t.user_time) for t in process.threads()}
    busiest, _ = max(spent.items(), key=lambda thread: thread[1])
    return int(busiest)


def no_more_addresses(child: Child) -> None:
    """The last rank gets no more address space than it has: what it asks for, it is refused."""
    _, pid = child.last_worker()
    hard = resource.prlimit(pid, resource.RLIMIT_AS)[1]
    resource.prlimit(pid, resource.RLIMIT_AS, (psutil.Process(pid).memory_info().vms, hard))


class MemoryBox:
    """A memory control group, as a container has one, for a job and for who eats its memory."""

    def __init__(self) -> None:
        """Make it, without a limit yet. Raises OSError where this user can't."""
        own = memory_group()
        group = Path(own.counter).parent if own is not None else Path("/proc")
        old = (group / "memory.limit_in_bytes").exists()  # version 1 of control groups
        self._limit, self._used, self._none = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "-1")
            if old
            else ("memory.max", "memory.current", "max")
        )
        self._folder = _sub_group(group, self._limit)
        self.entering = ("sh", "-c", 'echo $$ > "$0" && exec "$@"', f"{self._folder}/cgroup.procs")
        """What a command is started through to run in it."""
        self._eater: subprocess.Popen[bytes] | None = None

    def fill(self, pid: int) -> None:
        """Another process takes what memory there is, until the kernel has killed for it.

        It then takes half of what the process `pid`, or one like it, has had.
        """
        more = psutil.Process(pid).memory_full_info().uss // 2
        used = int((self._folder / self._used).read_text())
        (self._folder / self._limit).write_text(str(used + ROOM))
        code = f"from {__name__} import eat; eat({more})"
        self._eater = subprocess.Popen([*self.entering, sys.executable, "-c", code])

    def empty(self) -> None:
        """That process ends, and the limit with it. Raises DrillError if it has failed before."""
        eater, self._eater = self._eater, None
        (self._folder / self._limit).write_text(self._none)
        if eater is None:
            return
        early = eater.poll()
        eater.kill()
        eater.wait()
        if early not in (None, -signal.SIGKILL):  # the kernel may kill it, too, after a rank
            raise DrillError(f"what was to take all memory ended by itself, with code {early}")

    def close(self) -> None:
        """Remove it; all that was in it has ended. Raises what `empty` raises."""
        try:
            self.empty()
        finally:
            self._folder.rmdir()


def _sub_group(group: Path, limit: str) -> Path:
    """A new group with a limit of its own, below ours or beside it. Raises OSError."""
    for parent in (group, group.parent):  # in version 2 a group with processes has no such below
        new = parent / f"drill-{os.getpid()}"
        with suppress(OSError):
            new.mkdir()
            if (new / limit).exists():
                return new
            new.rmdir()
    raise PermissionError(f"no memory control group can be made below {group}")


def eat(more: int) -> None:
    """Of a process in a `MemoryBox`: hold its memory, so that a job there can't go on.

    Ray has its workers killed before any other process. `more` bytes than were left, or what is
    started in their place would find as much as before; fewer than were freed, or who asks for
    them is the next to be killed.
    """
    group, held = memory_group(), list[bytearray]()
    assert group is not None
    while kills_now(group) == group.kills:
        held.append(bytearray(ROOM))
    held.append(bytearray(more))
    signal.pause()


def flip(file: Path, at: int | None = None) -> None:
    """Change one bit of a file, in its middle."""
    size = file.stat().st_size
    place = size // 2 if at is None else at
    with file.open("r+b") as opened:
        opened.seek(place)
        (old,) = opened.read(1)
        opened.seek(place)
        opened.write(bytes([old ^ 1]))


def newest_checkpoint(run: Path) -> Path:
    """Raises DrillError unless there is one to fall back on, too."""
    found = published(run / FOLDER)
    if len(found) < 2:
        raise DrillError(f"{run} has {len(found)} checkpoints; it needs two for this drill")
    return found[-1]


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A disk of its own under `folder`. Raises NotPossible where this user can't mount one."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotPossible(f"no disk could be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def no_room(filler: Path, seconds: float) -> None:
    """Keep the disk of a file full for a while."""
    try:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(PAGE))
        time.sleep(seconds)
    finally:
        filler.unlink()


class TrackingServer:
    """A real `mlflow server` on this machine, which may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        """Choose its store and its port."""
        folder.mkdir(parents=True, exist_ok=True)
        self.database, self._log = folder / "server.db", folder / "server.log"
        self.port = choose_port("127.0.0.1", None)
        self.uri = f"http://127.0.0.1:{self.port}"
        self._running = ExitStack()

    def start(self) -> None:
        """Start it, and return when it answers. Raises DrillError if it does not."""
        output = self._running.enter_context(self._log.open("ab"))
        store = f"sqlite:///{self.database}"
        served = serve(store, "127.0.0.1", self.port, output)
        self.process = self._running.enter_context(served)
        if not answers(self.uri, self.process):
            raise DrillError(f"mlflow server did not start; see {self._log}")

    def kill(self) -> None:
        """SIGKILL to it and all its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self._running.close()


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Nobody else reads or writes a SQLite store while the block runs."""
    with closing(sqlite3.connect(database, timeout=60)) as store:
        store.execute("BEGIN EXCLUSIVE")
        yield


@contextmanager
def busy_cores() -> Iterator[None]:
    """Each core of this machine has another process that wants all of it."""
    count = os.cpu_count() or 1
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@contextmanager
def throttled(pid: int) -> Iterator[None]:
    """A process runs for a part of the time only, in short turns, as under a quota of its host."""
    over = threading.Event()

    def take_turns() -> None:
        while not over.wait(RUNS_S):
            os.kill(pid, signal.SIGSTOP)
            over.wait(STANDS_S)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=take_turns)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
