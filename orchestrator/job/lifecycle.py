"""One job from start to end: plan, run folder, tracker, workers, result.json.

1. `validate` prepares the data and refuses what cannot work; nothing has started yet.
2. The run folder is made; the journal opens; a mirror process starts to replay it into MLflow.
3. The stage runs in a gang of Ray workers, or in this process; their records go to the journal.
4. However it ended, result.json says so, the mirror catches up, and the screen tells what to do.
"""

import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cluster.gang import Placement, run_gang, run_inline
from data import Prepared
from orchestrator.config import JobConfig, TrainingConfig
from orchestrator.job import ending as report
from orchestrator.job.failures import Explanation, explain
from orchestrator.job.rank import environment, work
from orchestrator.job.screen import Progress
from orchestrator.plan.planning import Plan, validate
from orchestrator.record import runfolder
from orchestrator.record.journal import Journal
from orchestrator.record.mlflow import NoMirror, start_mirror
from orchestrator.stages.language.recording import record_data

if TYPE_CHECKING:
    from orchestrator.stages.run import Result

DONE, FAILED, INTERRUPTED = 0, 1, 130


def execute(config: JobConfig, overrides: Sequence[str], since: float) -> int:
    """Run the job; returns the exit code. Raises ValueError, with nothing started, if refused.

    `since` is the time at which the user asked for it.
    """
    if config.resources.launcher == "inline" and os.environ.get("RANK", "0") != "0":
        return _follow_torchrun(config)
    console = Console()
    with Progress(config.section(TrainingConfig).steps, console) as progress:
        progress.phase("preparing the data")
        begun = time.time()
        plan, prepared = validate(config, progress.say)
        config = plan.config
        for line in plan.lines():
            progress.say(line)
        folder = runfolder.create(config, overrides, plan.devices)
        progress.say(f"run folder {report.short(folder)}")
        job = Job(config, overrides, plan, prepared, folder, progress)
        job.timeline = [("command line and config", since), ("data", begun)]
        return job.run()


@dataclass
class Job:
    """One run of a job, seen from the driver: the only writer of the run folder's record."""

    config: JobConfig
    overrides: Sequence[str]
    plan: Plan
    prepared: Prepared
    folder: Path
    progress: Progress

    def __post_init__(self) -> None:
        """Nothing is open yet."""
        self.timeline: list[tuple[str, float]] = []
        self._stop, self._kill = threading.Event(), threading.Event()
        self._stepped = False
        self._over = False

    def run(self) -> int:
        """Run to the end and leave a truthful result.json in every case."""
        started = time.time()
        outcome: Result | None = None
        error: BaseException | None = None
        mirror = NoMirror()
        with self._signals():
            with Journal(self.folder) as journal:
                self._journal = journal
                try:
                    self._record_inputs()
                    outputs = Path(self.config.outputs).absolute()
                    mirror = start_mirror(self.folder, self.config.tracking, outputs)
                    outcome = self._work()
                except (Exception, KeyboardInterrupt) as caught:
                    error = caught
                self._over = True
                explanation = explain(error, self.progress.step or None) if error else None
                result = self._result(outcome, explanation, time.time() - started)
                if outcome is not None and outcome.samples:
                    text = "\n\n---\n\n".join(outcome.samples)
                    (self.folder / "samples.txt").write_text(text, encoding="utf-8")
                    journal.event("artifact", path="samples.txt")
                journal.event("finished", status=result["status"])
                journal.sync()
                result["mlflow_run_id"] = mirror.run_id
                runfolder.write_result(self.folder, result)
            if self.config.tracking.enabled:
                self.progress.phase("sending the rest of the record to MLflow")
            tracked = mirror.finish()
            if result["mlflow_run_id"] != tracked.mlflow_run_id:
                result["mlflow_run_id"] = tracked.mlflow_run_id
                runfolder.write_result(self.folder, result)
        self.progress.close()
        ending = report.Ending(self.folder, self.overrides, result, explanation, tracked)
        report.show(self.progress.console, ending, outcome, self.prepared.baselines)
        return {"done": DONE, "interrupted": INTERRUPTED}.get(result["status"], FAILED)

    def _work(self) -> "Result":
        """Carry out the stage in its workers; returns rank 0's result."""
        job = (self.config, self.folder)
        self.timeline.append(("Ray and workers", time.time()))
        if self.config.resources.launcher == "inline":
            os.environ.update(environment(self.config))
            try:
                result: Result = run_inline(work, job, on_records=self._take, stop=self._stop)
            except Exception:
                log = self.folder / "logs" / "rank-0.log"  # where a worker of a gang has it, too
                log.write_text(traceback.format_exc(), encoding="utf-8")
                raise
            return result
        resources = self.config.resources
        self.progress.phase(f"starting {resources.workers} workers")
        placement = Placement(
            resources.workers,
            resources.cpus_per_worker,
            resources.gpus_per_worker,
            resources.address,
        )
        results: list[Result] = run_gang(
            work,
            job,
            placement,
            log_folder=self.folder / "logs",
            env=environment(self.config),
            on_records=self._take,
            on_started=self._admitted,
            stop=self._stop,
            kill=self._kill,
        )
        return results[0]

    def _admitted(self, workers: list[dict[str, Any]]) -> None:
        self.timeline.append(("import of torch", time.time()))
        self._journal.event("admitted", workers=workers)
        self.progress.phase("workers import torch and build the model")

    def _take(self, rank: int, records: list[dict[str, Any]]) -> None:
        """Write what a worker sent to the journal, and show it."""
        for record in records:
            if "metrics" in record and "event" not in record:
                self._journal.metrics(record["step"], record["metrics"], record["time_ms"])
                self.progress.metrics(record["step"], record["metrics"])
                if not self._stepped:
                    self._first_step(record)
            else:
                self._event(record)

    def _event(self, record: dict[str, Any]) -> None:
        kind = record["event"]
        facts = {key: value for key, value in record.items() if key not in ("event", "time_ms")}
        if kind == "imported":
            self.timeline.append(("engine and model", record["time_ms"] / 1000))
        elif kind == "training":
            self.timeline.append(("first step", record["time_ms"] / 1000))
        self._journal.event(kind, **facts)
        self.progress.event(kind, facts)
        if kind == "checkpoint":
            self._journal.sync()

    def _first_step(self, record: dict[str, Any]) -> None:
        """Say how long it took from Enter to the first optimizer step, and where that went."""
        self._stepped = True
        ends = [begin for _, begin in self.timeline[1:]] + [record["time_ms"] / 1000]
        parts = {
            name: round(end - begin, 1)
            for (name, begin), end in zip(self.timeline, ends, strict=True)
        }
        total = record["time_ms"] / 1000 - self.timeline[0][1]
        self._journal.event("first_step", seconds=round(total, 1), parts=parts)
        shown = ", ".join(f"{name} {seconds}" for name, seconds in parts.items())
        self.progress.say(f"first step after {total:.1f} s: {shown}")

    def _record_inputs(self) -> None:
        """Put the start, and what the job reads, on record."""
        prepared, journal = self.prepared, self._journal
        journal.event(
            "started", stage=self.config.stage.name, host=os.uname().nodename, pid=os.getpid()
        )
        drift = self.plan.drift or {}
        record_data(journal, self.folder, self.config, prepared, drift)

    def _result(
        self, outcome: "Result | None", explanation: Explanation | None, seconds: float
    ) -> dict[str, Any]:
        """What result.json says; the truth also for a job that failed."""
        status = "done"
        if outcome is None:
            interrupted = explanation is not None and explanation.failure == "interrupted"
            status = "interrupted" if interrupted else "failed"
        elif outcome.stopped:
            status = "interrupted"
        result: dict[str, Any] = {
            "run_id": self.folder.name,
            "stage": self.config.stage.name,
            "status": status,
            "attempts": 1,
            "steps": outcome.steps if outcome else self.progress.step,
            "tokens": outcome.tokens if outcome else None,
            "wall_s": round(seconds, 3),
            "tokens_per_second": outcome.tokens_per_second if outcome else None,
            "metrics": outcome.metrics if outcome else self.progress.seen,
            "checkpoint": outcome.checkpoint if outcome else self._last_checkpoint(),
            "mlflow_run_id": None,
        }
        if explanation is not None:
            result["error"] = {
                "class": explanation.failure,
                "rank": explanation.rank,
                "host": explanation.host,
                "message": explanation.message,
                "remedy": explanation.remedy,
            }
        return result

    def _last_checkpoint(self) -> str | None:
        """The newest checkpoint that is known to be whole: of this run, else the resumed one."""
        step = self.progress.checkpoint
        if step is None:
            return self.config.resume
        return str(self.folder / "checkpoints" / f"step_{step:08d}")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C or SIGTERM once: checkpoint and leave. Ctrl-C twice: stop now."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._over:
                self.progress.say("the job is over; its record is still being sent to MLflow")
            elif self._stop.is_set() and number == signal.SIGINT:
                self._kill.set()
                if self.config.resources.launcher == "inline":
                    raise KeyboardInterrupt
            elif not self._stop.is_set():
                self._stop.set()
                self.progress.say("stopping after this step with a checkpoint; Ctrl-C stops now")

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, on_signal) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _follow_torchrun(config: JobConfig) -> int:
    """Be one rank of a torchrun job; rank 0 alone writes the record."""
    stop = threading.Event()
    for number in SIGNALS:
        signal.signal(number, lambda *_: stop.set())
    os.environ.update(environment(config))
    result = run_inline(work, (config, Path()), on_records=lambda rank, records: None, stop=stop)
    return INTERRUPTED if result.stopped else DONE
