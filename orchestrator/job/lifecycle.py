"""The life of one job in its run folder: tracker, workers, result.json.

1. The journal opens; a mirror process starts to replay it into MLflow.
2. The stage runs in a gang of Ray workers, or in this process; their records go to the journal.
3. However it ended, result.json says so, the mirror catches up, and the screen tells what to do.

What the job knows of its stage is in its plan; how far it got is in its record.
"""

import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.gang import Files, run_inline
from cluster.host.output import output_to
from data.files import cache_root, in_use, write_text_atomic
from data.messages import counted, short
from orchestrator.job import ending, predicted, torchrun
from orchestrator.job.attempts import Attempts
from orchestrator.job.codes import REFUSED, code_of
from orchestrator.job.copies import Copies
from orchestrator.job.failures import Explanation, explain_failure
from orchestrator.job.rank import Assignment, environment, work
from orchestrator.job.screen import Screen
from orchestrator.job.signals import Stops
from orchestrator.job.startup import Startup
from orchestrator.plan import scoring
from orchestrator.plan.fitting import what_would_fit
from orchestrator.plan.planning import Plan
from orchestrator.record import runfolder
from orchestrator.record.checkpoints import FOLDER as CHECKPOINTS
from orchestrator.record.checkpoints import restore_replaced
from orchestrator.record.checkpoints.finding import newest_of, published, read_complete
from orchestrator.record.fencing import Fence
from orchestrator.record.journal import Journal
from orchestrator.record.mlflow import NoMirror, sending_left_over, start_mirror
from orchestrator.record.redaction import Redactor
from orchestrator.record.story.spending import GOODPUT, spending
from orchestrator.stages.result import SEPARATOR

if TYPE_CHECKING:
    from orchestrator.stages.result import Result


PLACE = ("rank", "host", "ip", "node", "pid", "gpus", "log")  # of a worker, for the record


@dataclass
class Job:
    """One run of a job, seen from the driver: the only writer of the run folder's record."""

    plan: Plan
    overrides: Sequence[str]
    assignment: Assignment
    screen: Screen
    startup: Startup
    redactor: Redactor
    judge: Callable[[int, Mapping[str, float]], bool]

    def __post_init__(self) -> None:
        """Nothing is open yet."""
        self.config, self.folder = self.assignment.config, self.assignment.folder
        inline = self.config.resources.launcher == "inline"
        self.stops = Stops(self.screen.say, inline, saves=self.plan.outline.steps > 0)

    def run(self) -> int:
        """Run to the end and leave a truthful result.json in every case."""
        begun = time.monotonic()
        self._mirror, self._told = NoMirror(), False
        self._memory: float | None = None  # most bytes that rank 0 has had
        outcome: Result | None = None
        error: BaseException | None = None
        fence = self.assignment.fence
        with self.stops.heard(), in_use(self.plan.opened), self._left_over():
            with Journal(self.folder, redactor=self.redactor, fence=fence) as journal:
                self._journal = journal
                self._copies = Copies(self.config, self.folder, self._fence, self.redactor)
                try:
                    self._record_start()
                    outputs = Path(self.config.outputs).absolute()
                    self._mirror = start_mirror(
                        self.folder, self.config.tracking, outputs, self.assignment.sweep
                    )
                    outcome = self._work()
                    self._record_outcome(outcome)
                except (Exception, KeyboardInterrupt) as caught:
                    error = caught
                self.stops.over = True
                if error is not None:  # and the ranks are gone
                    self._fence().clear()
                    self._look_at_checkpoints()
                    self._tell(error)
                for event in self._copies.finish(self.stops, self.screen.phase):
                    self._event(event)
                result, explanation = self._close(outcome, error, begun, self._mirror.run_id)
            self._copies.seal()
            sends = self.config.tracking.enabled and self.assignment.sweep is None
            if sends:
                self.screen.phase("sending the rest of the record to MLflow")
            with predicted.scored(self.folder, self.screen.say, sends=sends):
                try:
                    with self.stops.sending():
                        tracked = self._mirror.finish()
                except KeyboardInterrupt:
                    tracked = self._mirror.finish(0)
            if result["mlflow_run_id"] != tracked.mlflow_run_id:
                result["mlflow_run_id"] = tracked.mlflow_run_id
                with suppress(OSError):  # on a full disk the first one stays
                    runfolder.write_result(self.folder, result)
            self.screen.close()
            ended = ending.Ending(self.folder, self.overrides, result, tracked, self._copies.where)
            ending.show(self.screen.console, ended, outcome)
        if explanation is not None and explanation.failure == "not_shared":
            return REFUSED
        return code_of(result)

    def _left_over(self) -> AbstractContextManager[object]:
        """Meanwhile, what earlier runs of these outputs could not send to MLflow is sent."""
        if not self.config.tracking.enabled or self.assignment.sweep is not None:
            return nullcontext()
        outputs = Path(self.config.outputs).absolute()
        return sending_left_over(outputs, self.folder / "logs" / "left-over.log")

    def _work(self) -> "Result":
        """Carry out the stage in its workers; returns rank 0's result."""
        if self.config.resources.launcher == "inline":
            self.startup.enter("import of torch")
            self.screen.phase("importing torch and building the model")
            return self._work_here()
        self.startup.enter("Ray and workers")
        self.screen.phase(f"starting {counted(self.config.workers, 'worker')}")
        start = self.plan.start
        return Attempts(
            self.assignment,
            self._journal,
            start_step=0 if start is None else start.checkpoint.step,
            checkpoint_bytes=self.plan.checkpoint_bytes,
            files=self._files(),
            take=self._take,
            admitted=self._admitted,
            look_at_checkpoints=self._look_at_checkpoints,
            ends_with=self._tell,
            say=self.screen.say,
            stops=self.stops,
        ).run()

    def _work_here(self) -> "Result":
        """Carry out the stage in this process, alone or as rank 0 of torchrun's."""
        os.environ.update(environment(self.config))
        log = self.folder / "logs" / "rank-0.log"  # where a worker of a gang has it, too
        # Alone, what libraries say stays on the screen: somebody may be debugging.
        quiet = output_to(log, 2) if torchrun.has_followers(self.config) else nullcontext()
        try:
            with quiet:
                result: Result = run_inline(
                    work, self.assignment, on_records=self._take, stop=self.stops.stop
                )
        except Exception as error:
            with suppress(OSError), log.open("a", encoding="utf-8") as file:  # the disk may be full
                file.write(self.redactor.text(traceback.format_exc()))
            if torchrun.has_followers(self.config):
                raise torchrun.failure_of_another(error) or error from None
            raise
        return result

    def _files(self) -> Files:
        """What the ranks open, for hosts of a cluster that do not see this one's cache."""
        root = cache_root()
        paths = tuple(path.relative_to(root) for path in self.plan.opened)
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
                first = not self.stops.stepped and self.plan.outline.steps > 0
                self.stops.stepped = self.stops.stepped or first
                self._journal.metrics(record["step"], record["metrics"], record["time_ms"])
                self.screen.metrics(self._journal.standing, record["metrics"])
                if first:
                    self._first_step()
                if self.judge(record["step"], record["metrics"]):
                    self.stops.stop.set()
            else:
                self._event(record)
        for event in self._copies.news():
            self._event(event)
        if trouble := self._mirror.news():
            self.screen.say(trouble)

    def _event(self, record: dict[str, Any]) -> None:
        kind = record["event"]
        facts = {key: value for key, value in record.items() if key not in ("event", "time_ms")}
        if kind == "memory":
            self._memory = facts["bytes"]
        elif kind == "imported":
            self.startup.enter("engine and model")
        elif kind == "training":
            self.startup.enter("first step")
        self._journal.event(kind, **facts)
        if kind == "resumed":
            facts["path"] = short((self.folder / facts["path"]).resolve())
        self.screen.event(kind, facts)
        if kind == "checkpoint":
            self._journal.sync()
            self._copies.wake()

    def _fence(self) -> Fence:
        """Of the attempt that is under way."""
        assert self._journal.fence is not None  # it was opened with one
        return self._journal.fence

    def _first_step(self) -> None:
        """Say how long it took from Enter to the first optimizer step, and where that went."""
        total, parts = self.startup.parts()
        self._journal.event("first_step", seconds=round(total, 1), parts=parts)
        shown = ", ".join(f"{name} {seconds}" for name, seconds in parts.items())
        self.screen.say(f"first step after {total:.1f} s: {shown}")

    def _look_at_checkpoints(self) -> None:
        """Record what a rank has published and did not live to say."""
        root, known = self.folder / CHECKPOINTS, self._journal.standing.checkpoint_step
        self._journal.check()
        restore_replaced(root)
        newest, _ = newest_of(published(root), read_complete)
        if newest is not None and (known is None or known < newest.step):
            path = runfolder.placed(newest.path, self.folder)
            with suppress(OSError):  # the disk may be full
                self._event({"event": "checkpoint", "path": path, **newest.record})

    def _record_start(self) -> None:
        """Put the start, and what the job reads, on record."""
        outline = self.plan.outline
        self._journal.event(
            "started",
            stage=self.config.stage.name,
            host=os.uname().nodename,
            pid=os.getpid(),
            score=outline.score and asdict(outline.score),
            roles={
                name: {"family": role.config.model.family, "parameters": role.parameters}
                for name, role in outline.roles.items()
            },
        )
        for reason in self.plan.passed_over:
            self._journal.event("checkpoint_rejected", reason=reason)
        for role, weights in self.plan.weights.items():
            self._journal.event(
                "weights",
                role=role,
                path=runfolder.placed(weights.path, self.folder),
                step=weights.step,
                manifest_sha256=weights.manifest_sha256,
            )
        assert self.plan.ready is not None
        self.plan.ready.record(self._journal, self.folder)

    def _record_outcome(self, outcome: "Result") -> None:
        """Put what the stage has made on record."""
        self._journal.check()
        if outcome.reason is not None:
            self._journal.event("ended_early", reason=outcome.reason)
        if outcome.samples:
            write_text_atomic(self.folder / "samples.txt", SEPARATOR.join(outcome.samples))
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

        What can't be written any more, on a full disk, makes the job a failed one. Raises Fenced,
        with nothing written, if another attempt has taken the run.
        """

        def end() -> tuple[dict[str, Any], Explanation | None]:
            self._journal.check()
            explanation = None if error is None else self._explain(error)
            standing = self._journal.standing
            result = ending.result_of(self.folder, self.plan, standing, outcome, explanation)
            result["wall_s"] = round(time.monotonic() - begun, 3)
            result["mlflow_run_id"] = mlflow_run_id
            runfolder.write_result(self.folder, result)
            return result, explanation

        with suppress(OSError):  # a full disk, which ends the job in what follows
            self._measure(undisturbed=error is None and outcome is not None)
        ended = end()
        try:
            error_facts = {name: ended[0][name] for name in ("error",) if name in ended[0]}
            self._journal.event("finished", status=ended[0]["status"], **error_facts)
            self._journal.sync()
        except OSError as full:
            error = error or full
            ended = end()
            self._tell(error)
        return ended

    def _explain(self, error: BaseException) -> Explanation:
        """What ended the job, as far as it had come."""
        standing = self._journal.standing
        resumable = bool(standing.checkpoint or self.plan.start)
        explanation = explain_failure(error, standing.step or None, resumable=resumable)
        message, remedy = self.redactor.text(explanation.message), explanation.remedy
        if explanation.failure == "out_of_memory":
            remedy = what_would_fit(self.plan, message)
        return replace(explanation, message=message, remedy=remedy)

    def _tell(self, error: BaseException) -> None:
        """Say what ends the job as soon as that is known, once; its record is closed after it."""
        explanation = self._explain(error)
        if explanation.failure != "interrupted" and not self._told:
            self._told = True
            self.screen.say(f"error: {explanation.line()}")

    def _measure(self, *, undisturbed: bool) -> None:
        """Put goodput, and how good the plan was, on record, now that the last step is done."""
        standing = self._journal.standing
        spent = spending(self.folder, standing, now_ms=self._journal.now_ms())
        if spent.goodput is not None:
            self._journal.metrics(standing.step, {GOODPUT: spent.goodput})
        # A trial of a sweep teaches nothing: it shares its machine with others.
        learns = undisturbed and standing.attempt == 1 and self.assignment.sweep is None
        measured = scoring.Measured(spent.step_seconds, spent.part_seconds, self._memory)
        for line in scoring.record(self.plan, measured, self._journal, self.folder, learns):
            self.screen.say(line)
