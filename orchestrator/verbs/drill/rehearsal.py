"""A job as a user starts it, seen from outside: its process, its journal, what becomes of it."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.record.checkpoints.finding import published
from orchestrator.record.checkpoints.manifest import FOLDER
from orchestrator.record.lines import EVENTS, METRICS, read
from orchestrator.record.runs import RESULT, mapping
from orchestrator.record.story.spending import STEP_SECONDS
from orchestrator.verbs.drill.invariants import (
    broken,
    left_behind,
    orphaned,
    shared_memory,
    unsent,
)

LOOK_S = 0.02
OVER_S = 900.0  # no wait is longer
GONE_S = 45.0  # what a job started must be gone so soon after its end
TELLING = ("failed", "hung", "preempted", "restarting", "finished")  # kinds of events
MARKER = "ORCHESTRATE_DRILL"
CACHE = "torchinductor_*"  # torch keeps it for all processes of a user, in the place for such files
UNWANTED = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID")


class DrillError(Exception):
    """A drill that could not be carried out as it is meant: it is failed, in these words."""


class NotPossible(DrillError):
    """A drill that can't be carried out here, or with this job: it is left out."""


class Child:
    """`orchestrate run OVERRIDES` in a process group of its own; its record goes to `outputs`."""

    def __init__(
        self,
        overrides: Sequence[str],
        outputs: Path,
        through: Sequence[str] = (),
        **environment: str,
    ) -> None:
        """Start it, `through` a command that becomes it."""
        outputs.mkdir(parents=True, exist_ok=True)
        self.outputs, self.known = outputs, set(outputs.glob("*/*/config.yaml"))
        self.screen = outputs / "screen.txt"
        self.marker = f"{os.getpid()}-{time.monotonic_ns()}"
        self._shared_before = shared_memory()
        self._temporary = Path(tempfile.mkdtemp(prefix="drill-"))  # short: sockets are made in it
        own = {k: v for k, v in os.environ.items() if k not in UNWANTED}
        command = [sys.executable, "-m", "orchestrator", "run", *overrides, f"outputs={outputs}"]
        with self.screen.open("ab") as screen:
            screen.write(f"$ {shlex.join(command)}\n".encode())
            screen.flush()
            self.process = subprocess.Popen(
                [*through, *command],
                env={**own, **environment, MARKER: self.marker, "TMPDIR": str(self._temporary)},
                stdin=subprocess.DEVNULL,
                stdout=screen,
                stderr=screen,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the driver."""
        return self.process.pid

    @property
    def folder(self) -> Path | None:
        """Its run folder; those of later runs have later names. None: there is none yet."""
        new = set(self.outputs.glob("*/*/config.yaml")) - self.known
        return min((path.parent for path in new), default=None)

    @property
    def run(self) -> Path:
        """Its run folder. Raises DrillError if it never made one."""
        if self.folder is None:
            raise DrillError(f"it made no run folder; it said: {self.last_words()}")
        return self.folder

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """Events of these kinds so far; all, if none is named."""
        lines = read(self.folder / EVENTS)[0] if self.folder else []
        return [line for line in lines if not kinds or line["event"] in kinds]

    def steps(self) -> list[dict[str, Any]]:
        """The lines of optimizer steps so far."""
        lines = read(self.folder / METRICS)[0] if self.folder else []
        return [line for line in lines if STEP_SECONDS in line["metrics"]]

    def last_worker(self) -> tuple[int, int]:
        """The last rank in the newest attempt, not that which keeps the record; its process id."""
        workers = self.events("admitted")[-1]["workers"]
        return max((int(worker["rank"]), int(worker["pid"])) for worker in workers)

    def trains(self) -> bool:
        """Whether its newest workers have done a step."""
        steps, admitted = self.steps(), self.events("admitted")
        return bool(steps) and steps[-1]["attempt"] == admitted[-1]["attempt"]

    def until(self, found: Callable[[], Any], what: str, seconds: float = OVER_S) -> Any:
        """Wait for something of the living job; returns it. Raises DrillError if it won't come."""
        deadline = time.monotonic() + seconds
        while not (answer := found()):
            if self.process.poll() is not None:
                raise DrillError(f"it ended before {what}; it said: {self.last_words()}")
            if time.monotonic() > deadline:
                raise DrillError(f"{what} did not come within {seconds:.0f} s")
            time.sleep(LOOK_S)
        return answer

    def until_step(self, step: int) -> None:
        """Wait until a step is on record."""
        self.until(lambda: any(line["step"] >= step for line in self.steps()), f"step {step}")

    def wait(self, seconds: float = OVER_S) -> int:
        """The exit code. Raises DrillError if it does not end."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            raise DrillError(f"it did not end within {seconds:.0f} s") from None

    def end(self) -> None:
        """End it now, with all that it started."""
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
        for line in left_behind(self.pid, self.marker):
            if line.startswith("process "):
                with suppress(ProcessLookupError):
                    os.kill(int(line.split()[1].rstrip(":")), signal.SIGKILL)
        shutil.rmtree(self._temporary, ignore_errors=True)

    @property
    def result(self) -> dict[str, Any]:
        """What its result.json says."""
        return mapping(self.run / RESULT)

    def last_words(self) -> str:
        """The end of what it said."""
        lines = self.screen.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or ["nothing"])[-1]

    def leaks(self) -> list[str]:
        """What is left of it some seconds after its end, and is then ended and removed."""
        deadline = time.monotonic() + GONE_S
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.end()
        return [f"left behind: {what}" for what in left]

    def _left(self) -> list[str]:
        files = [str(file) for file in self._temporary.glob("*") if not file.match(CACHE)]
        return left_behind(self.pid, self.marker) + files + orphaned(self._shared_before)


@dataclass
class Trial:
    """A job that a fault was done to, and what became of it."""

    child: Child
    """That ended it: the first, or the one that resumed it."""
    itself: bool
    """Whether it went on by itself; else it was resumed as a user would."""
    code: int
    lost_steps: int
    """Steps that were done before the fault and had to be done again."""
    detect_s: float | None
    """From the fault until the record told of it. None: it never had to."""
    resume_s: float | None
    """From the fault to the end of the next step. None: there was none."""
    troubles: list[str] = field(default_factory=list)
    """What must hold and does not."""


@dataclass
class Job:
    """A user's job, to be carried out as often as a drill needs."""

    overrides: Sequence[str]
    outputs: Path
    at: int
    """The step after which harm is done."""
    through: Sequence[str] = ()
    """A command that becomes the job's, once it has seen to where that runs."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of its own: the address of a cluster."""
    to_resume: Sequence[str] = ()
    """What its user adds where it is resumed."""

    def __post_init__(self) -> None:
        """No run has saved anything yet."""
        self._saved: Path | None = None

    def start(self, *more: str, **environment: str) -> Child:
        """Start it."""
        self._saved = None
        variables = {**self.environment, **environment}
        return Child([*self.overrides, *more], self.outputs, self.through, **variables)

    def resume(self, child: Child) -> Child:
        """Go on from a run that ended, as its user would: from the newest that has a checkpoint."""
        if published(child.run / FOLDER):
            self._saved = child.run
        if self._saved is None:
            return self.start()
        words = [f"resume={self._saved}", *self.to_resume]
        return Child(words, self.outputs, self.through, **self.environment)

    def disturb(
        self,
        child: Child,
        inject: Callable[[Child], None],
        repair: Callable[[], None] = lambda: None,
    ) -> Trial:
        """Wait for step `at`, do the harm, and have the job go on to its end.

        Args:
            child: the job, just started.
            inject: does the harm.
            repair: takes it away, before a user would resume.
        """
        last = child
        try:
            child.until_step(self.at)
            done, attempts = child.steps()[-1]["step"], len(child.events("admitted"))
            fault = time.time_ns() // 1_000_000
            inject(child)
            code, troubles = child.wait(), child.leaks()
            told = [e["time_ms"] for e in child.events(*TELLING) if e["time_ms"] >= fault]
            itself = code == 0
            unharmed = itself and len(child.events("admitted")) == attempts
            if not itself:
                repair()
                last = self.resume(child)
                code, troubles = last.wait(), troubles + last.leaks()
        finally:
            child.end()
            last.end()
        return Trial(
            child=last,
            itself=itself,
            code=code,
            lost_steps=0 if unharmed else max(0, done - _begin(last)),
            detect_s=None if unharmed or not told else (told[0] - fault) / 1000,
            resume_s=None if unharmed else _resumed_s(last, fault),
            troubles=troubles + broken(last.run) + unsent(last.run),
        )


def _begin(child: Child) -> int:
    """The step after which the newest attempt went on."""
    resumed = child.events("resumed")
    return int(resumed[-1]["step"]) if resumed else 0


def _resumed_s(child: Child, fault: int) -> float | None:
    """Seconds from the fault to the first step of the newest attempt. None: there is none."""
    resumed = child.events("resumed")
    begun = max(fault, resumed[-1]["time_ms"] if resumed else fault)
    later = [line["time_ms"] for line in child.steps() if line["time_ms"] > begun]
    return (later[0] - fault) / 1000 if later else None
