"""One job from start to end: plan, run folder, tracker, workers, result.json.

1. `make_plan` makes the inputs ready and refuses what cannot work; nothing has started yet.
2. The run folder is made; the journal opens; a mirror process starts to replay it into MLflow.
3. The stage runs in a gang of Ray workers, or in this process; their records go to the journal.
4. However it ended, result.json says so, the mirror catches up, and the screen tells what to do.

What the job knows of its stage is in its plan; how far it got is in its record.
"""

import os
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.gang import Files, Placement, run_gang, run_inline
from data.files import cache_root, write_text_atomic
from orchestrator.config import JobConfig
from orchestrator.job import ending, torchrun
from orchestrator.job.failures import Explanation, explain_failure
from orchestrator.job.rank import Assignment, environment, work
from orchestrator.job.screen import Screen, Terminal
from orchestrator.job.signals import Stops, heeded
from orchestrator.job.startup import Startup
from orchestrator.plan.planning import LABEL, Plan, make_plan
from orchestrator.record import runfolder
from orchestrator.record.journal import Journal
from orchestrator.record.mlflow import NoMirror, start_mirror
from orchestrator.stages import STAGES

if TYPE_CHECKING:
    from orchestrator.stages.result import Result

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
SILENT_AFTER_S = 60.0  # a rank that answers nothing for so long is frozen, or its host is gone
PLACE = ("rank", "host", "ip", "node", "pid", "gpus", "log")  # of a worker, for the record


def execute(config: JobConfig, overrides: Sequence[str], asked: float) -> int:
    """Run the job; returns the exit code. Raises ValueError, with nothing started, if refused.

    `asked` is when the user asked for it, by `time.monotonic`.
    """
    torchrun.check_launcher(config)
    if torchrun.is_follower(config):
        return _follow(config)
    outline = STAGES[config.stage.name].driver.outline(config)
    startup = Startup(asked)
    with Screen(outline, Terminal()) as screen, torchrun.leading(config) as hand_out:
        startup.enter("data")
        screen.phase("preparing the data")
        plan = make_plan(config, screen.say)
        for line in plan.lines():
            screen.say(line, hang=LABEL)
        folder = runfolder.create(plan.config, overrides, plan.devices)
        screen.say(f"run folder {ending.short(folder)}")
        assert plan.ready is not None  # make_plan makes it
        assignment = Assignment(plan.config, folder, plan.ready.inputs)
        hand_out(assignment)
        try:
            return Job(plan, overrides, assignment, screen, startup).run()
        except ValueError as error:  # from now on nothing is refused, as a ValueError would be
            raise RuntimeError("a job has ended without saying how") from error


@dataclass
class Job:
    """One run of a job, seen from the driver: the only writer of the run folder's record."""

    plan: Plan
    overrides: Sequence[str]
    assignment: Assignment
    screen: Screen
    startup: Startup

    def __post_init__(self) -> None:
        """Nothing is open yet."""
        self.config, self.folder = self.assignment.config, self.assignment.folder
        inline = self.config.resources.launcher == "inline"
        self.stops = Stops(self.screen.say, inline)
        self._stepped = False

    def run(self) -> int:
        """Run to the end and leave a truthful result.json in every case."""
        begun = time.monotonic()
        mirror: NoMirror = NoMirror()
        outcome: Result | None = None
        error: BaseException | None = None
        with self.stops.heard():
            with Journal(self.folder) as journal:
                self._journal = journal
                try:
                    self._record_start()
                    outputs = Path(self.config.outputs).absolute()
                    mirror = start_mirror(self.folder, self.config.tracking, outputs)
                    outcome = self._work()
                    self._record_outcome(outcome)
                except (Exception, KeyboardInterrupt) as caught:
                    error = caught
                self.stops.over = True
                result, explanation = self._close(outcome, error, begun, mirror.run_id)
            if self.config.tracking.enabled:
                self.screen.phase("sending the rest of the record to MLflow")
            tracked = mirror.finish()
            if result["mlflow_run_id"] != tracked.mlflow_run_id:
                result["mlflow_run_id"] = tracked.mlflow_run_id
                with suppress(OSError):  # on a full disk the first one stays
                    runfolder.write_result(self.folder, result)
        self.screen.close()
        ended = ending.Ending(self.folder, self.overrides, result, explanation, tracked)
        ending.show(self.screen.console, ended, outcome)
        if explanation is not None and explanation.failure == "not_shared":
            return REFUSED
        return {"done": DONE, "interrupted": INTERRUPTED}.get(result["status"], FAILED)

    def _work(self) -> "Result":
        """Carry out the stage in its workers; returns rank 0's result."""
        self.startup.enter("Ray and workers")
        if self.config.resources.launcher == "inline":
            os.environ.update(environment(self.config))
            self.screen.phase("importing torch and building the model")
            try:
                result: Result = run_inline(
                    work, self.assignment, on_records=self._take, stop=self.stops.stop
                )
            except Exception:
                log = self.folder / "logs" / "rank-0.log"  # where a worker of a gang has it, too
                with suppress(OSError):  # a full disk, which is what is being told
                    log.write_text(traceback.format_exc(), encoding="utf-8")
                raise
            return result
        resources = self.config.resources
        self.screen.phase(f"starting {resources.workers} workers")
        placement = Placement(
            resources.workers,
            resources.cpus_per_worker,
            resources.gpus_per_worker,
            resources.address,
        )
        results: list[Result] = run_gang(
            work,
            self.assignment,
            placement,
            log_folder=self.folder / "logs",
            env=environment(self.config),
            files=self._files(),
            on_records=self._take,
            on_started=self._admitted,
            silent_after_s=SILENT_AFTER_S,
            say=self.screen.say,
            stop=self.stops.stop,
            kill=self.stops.kill,
        )
        return results[0]

    def _files(self) -> Files:
        """What the ranks open, for hosts of a cluster that do not see this one's cache."""
        root = cache_root()
        assert self.plan.ready is not None  # make_plan makes it
        paths = tuple(path.relative_to(root) for path in self.plan.ready.files)
        return Files(root, paths, "ORCHESTRATE_CACHE", "~/.cache/orchestrate")

    def _admitted(self, workers: list[dict[str, Any]]) -> None:
        self.startup.enter("import of torch")
        facts = [{name: worker[name] for name in PLACE} for worker in workers]
        self._journal.event("admitted", workers=facts)
        self.screen.phase("workers import torch and build the model")

    def _take(self, rank: int, records: list[dict[str, Any]]) -> None:
        """Write what a worker sent to the journal, and show it."""
        for record in records:
            if "metrics" in record and "event" not in record:
                self._journal.metrics(record["step"], record["metrics"], record["time_ms"])
                self.screen.metrics(self._journal.standing, record["metrics"])
                if not self._stepped and self.plan.outline.steps:
                    self._first_step()
            else:
                self._event(record)

    def _event(self, record: dict[str, Any]) -> None:
        kind = record["event"]
        facts = {key: value for key, value in record.items() if key not in ("event", "time_ms")}
        if kind == "imported":
            self.startup.enter("engine and model")
        elif kind == "training":
            self.startup.enter("first step")
        self._journal.event(kind, **facts)
        self.screen.event(kind, facts)
        if kind == "checkpoint":
            self._journal.sync()

    def _first_step(self) -> None:
        """Say how long it took from Enter to the first optimizer step, and where that went."""
        self._stepped = True
        total, parts = self.startup.parts()
        self._journal.event("first_step", seconds=round(total, 1), parts=parts)
        shown = ", ".join(f"{name} {seconds}" for name, seconds in parts.items())
        self.screen.say(f"first step after {total:.1f} s: {shown}")

    def _record_start(self) -> None:
        """Put the start, and what the job reads, on record."""
        self._journal.event(
            "started", stage=self.config.stage.name, host=os.uname().nodename, pid=os.getpid()
        )
        for role, weights in self.plan.weights.items():
            self._journal.event(
                "weights",
                role=role,
                path=str(weights.path),
                step=weights.step,
                manifest_sha256=weights.manifest_sha256,
            )
        assert self.plan.ready is not None
        self.plan.ready.record(self._journal, self.folder)

    def _record_outcome(self, outcome: "Result") -> None:
        """Put what the stage has made on record."""
        if outcome.samples:
            text = "\n\n---\n\n".join(outcome.samples)
            write_text_atomic(self.folder / "samples.txt", text)
            self._journal.event("artifact", path="samples.txt")
        for table in outcome.tables:
            path = self.folder / f"{table.name}.json"
            runfolder.write_table(path, table.columns, table.rows)
            self._journal.event("artifact", path=path.name, table=True)

    def _close(
        self,
        outcome: "Result | None",
        error: BaseException | None,
        begun: float,
        mlflow_run_id: str | None,
    ) -> tuple[dict[str, Any], Explanation | None]:
        """Write result.json first, then say in the journal that the job has ended.

        What can't be written any more, on a full disk, makes the job a failed one.
        """

        def end() -> tuple[dict[str, Any], Explanation | None]:
            explanation = (
                explain_failure(error, self._journal.standing.step or None) if error else None
            )
            result = self._result(outcome, explanation, time.monotonic() - begun)
            result["mlflow_run_id"] = mlflow_run_id
            runfolder.write_result(self.folder, result)
            return result, explanation

        ended = end()
        try:
            self._journal.event("finished", status=ended[0]["status"])
            self._journal.sync()
        except OSError as full:
            error = error or full
            ended = end()
        return ended

    def _result(
        self, outcome: "Result | None", explanation: Explanation | None, seconds: float
    ) -> dict[str, Any]:
        """What result.json says, by the record: the truth also for a job that failed."""
        standing, status = self._journal.standing, "done"
        if explanation is not None:
            status = "interrupted" if explanation.failure == "interrupted" else "failed"
        elif outcome is not None and outcome.stopped:
            status = "interrupted"
        result: dict[str, Any] = {
            "run_id": self.folder.name,
            "stage": self.config.stage.name,
            "status": status,
            "attempts": 1,
            "steps": standing.step if self.plan.outline.steps else 0,
            "tokens": standing.tokens or None,
            "wall_s": round(seconds, 3),
            "tokens_per_second": outcome.tokens_per_second if outcome else None,
            "metrics": standing.metrics,
            "checkpoint": standing.checkpoint or self.config.resume,
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


def _follow(config: JobConfig) -> int:
    """Be one rank of a torchrun job; rank 0 alone writes the record."""
    stop = threading.Event()
    for number in heeded():
        signal.signal(number, lambda *_: stop.set())
    stopped = torchrun.follow(config, stop)
    return REFUSED if stopped is None else INTERRUPTED if stopped else DONE
