"""The driver of loader.py: runs measurements in processes of their own, keeps the sets."""

import multiprocessing
import os
import shutil
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders import FILE_BYTES, NoMechanism, T
from tests.benchmarks.loader_libraries import CONTENDERS

BATCH = 64
OFFLINE = {
    "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1", "LITDATA_DISABLE_VERSION_CHECK": "1", "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
}  # fmt: skip


@dataclass
class Settings:
    """Of the whole run."""

    rounds: int
    hot_mib: int
    cold_mib: int
    resume_mib: int
    hot_s: float
    cold_s: float
    tokenize_mb: int


@dataclass
class Running:
    """A measurement that was started."""

    what: str
    process: BaseProcess
    result: Connection


class Bench:
    """Runs measurements, keeps the sets, and collects what failed.

    Each measurement is forked from a process that has imported all contenders and done nothing
    else, so that none inherits another's mappings or threads and none waits for imports.
    """

    def __init__(self, folder: Path, names: list[str], settings: Settings) -> None:
        """`folder` is for sets, caches and homes; changes the environment of this process."""
        self.folder, self.names, self.settings = folder, names, settings
        os.environ |= OFFLINE | {
            "HOME": str(folder), "HF_HOME": str(folder / "hf"), "TMPDIR": str(folder),
            "ORCHESTRATE_CACHE": str(folder / "orchestrate"),
            "DATA_OPTIMIZER_CACHE_FOLDER": str(folder / "litdata"),
        }  # fmt: skip
        self.failures: dict[str, str] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.benchmarks.loader_preload"])

    def start(
        self, call: Callable[..., Any], environment: dict[str, str] | None = None, **settings: Any
    ) -> Running:
        """A process that measures: `call` with the settings."""
        receive, send = self._context.Pipe(duplex=False)
        arguments = (send, environment or {}, call, settings)
        process = self._context.Process(target=_work, args=arguments)
        process.start()
        send.close()
        return Running(call.__name__, process, receive)

    def finish(self, running: Running, seconds: float = 300) -> Any:
        """Its result, None if it killed itself; RuntimeError with its last words if it failed."""
        try:
            if not running.result.poll(seconds):
                raise RuntimeError(f"no result after {seconds:.0f} s")
            good, result = running.result.recv()
        except EOFError:
            running.process.join(seconds)
            if running.process.exitcode == -signal.SIGKILL:
                return None
            raise RuntimeError(f"{running.what}: exit {running.process.exitcode}") from None
        finally:
            running.process.join(20)
            running.process.kill()
            running.process.join()
        if not good:
            raise RuntimeError(result)
        return result

    def measure(self, call: Callable[..., Any], **settings: Any) -> Any:
        """Start and finish."""
        return self.finish(self.start(call, **settings))

    def attempt(self, what: str, call: Callable[..., Any], **settings: Any) -> Any:
        """As `measure`, or None with the failure noted; what failed once is not tried again."""
        if what in self.failures:
            return None
        try:
            return self.measure(call, **settings)
        except (RuntimeError, OSError) as error:
            self.failures[what] = str(error)[:300]
            return None

    def tidy(self, name: str) -> None:
        """Remove what a killed contender left."""
        self.measure(tidy, name=name)

    def sets(self, mebibytes: float, file_bytes: int = FILE_BYTES) -> dict[str, Path]:
        """The set of each contender that could write one, of so many MiB."""
        made, count = {}, windows_of(mebibytes)
        for name in self.names:
            folder = self.folder / f"{CONTENDERS[name].stored}-{count}"
            if not folder.exists():
                folder.mkdir()
                settings = {"name": name, "folder": folder, "count": count}
                if not self.attempt(f"{name}, writing", write, **settings, file_bytes=file_bytes):
                    shutil.rmtree(folder)
                    continue
            made[name] = folder
        return made


def windows_of(mebibytes: float) -> int:
    """How many windows make so many MiB of uint16; whole batches."""
    return int(mebibytes * 2**20) // (2 * T * BATCH) * BATCH


def write(name: str, folder: Path, count: int, file_bytes: int) -> bool:
    """Write a contender's set to the disk."""
    CONTENDERS[name].write(folder, count, file_bytes)
    os.sync()
    return True


def tidy(name: str) -> None:
    """Let a contender remove what its killed readers left."""
    CONTENDERS[name].tidy()


def _work(
    send: Connection, environment: dict[str, str], call: Callable[..., Any], settings: Any
) -> None:
    os.environ |= environment
    multiprocessing.set_start_method("fork", force=True)  # of workers, as a user gets it
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - what libraries say while they work
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    try:
        send.send((True, call(**settings)))
    except NoMechanism as error:
        send.send((False, f"none, {error}"))
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(at.filename).name}:{at.lineno}"
        send.send((False, f"FAILED {type(error).__name__} at {where}: {error}"))
