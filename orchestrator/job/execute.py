"""A job carried out: what it needs is made or refused, then it runs to its end.

1. `make_plan` makes the inputs ready and refuses what cannot work; nothing has started yet.
2. The run folder is made, and the right to write to it taken.
3. The job lives in it (lifecycle.py), and its exit code is what its result.json says.
"""

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from data.files import read_json
from data.messages import short
from orchestrator.config import JobConfig, to_dict
from orchestrator.job import torchrun
from orchestrator.job.codes import FAILED, code_of
from orchestrator.job.failures import explain_failure
from orchestrator.job.lifecycle import Job
from orchestrator.job.rank import Assignment
from orchestrator.job.screen import Screen, Terminal
from orchestrator.job.startup import Startup
from orchestrator.plan.planning import LABEL, make_plan
from orchestrator.record import outbox, runfolder
from orchestrator.record.fencing import Fenced, take
from orchestrator.record.redaction import Redactor
from orchestrator.stages import STAGES


@dataclass(frozen=True)
class Place:
    """What a sweep decides of a trial: where its record is."""

    folder: Path
    """Of the run, not made yet."""
    sweep: str
    """Key of the sweep, whose process sends the record."""
    judge: Callable[[int, Mapping[str, float]], bool] = lambda step, metrics: False
    """Told of the metrics of a step; whether the job is to save and end. One that runs in this
    process waits for the answer."""


def execute(
    config: JobConfig,
    overrides: Sequence[str],
    asked: float,
    made: Callable[[Path], None] = lambda folder: None,
    place: Place | None = None,
) -> int:
    """Run the job; returns the exit code. Raises ValueError, with nothing started, if refused.

    `asked` is when the user asked for it, by `time.monotonic`; `made` is told the run folder.
    `place` is that of a trial; without it the job finds its own, and sends its record itself.
    """
    torchrun.check_launcher(config)
    if torchrun.is_follower(config):
        return torchrun.follow(config)
    outline = STAGES[config.stage.name].driver.outline(config)
    startup = Startup(asked)
    redactor = Redactor(to_dict(config))
    with Screen(outline, Terminal(redactor)) as screen, torchrun.leading(config) as hand_out:
        startup.enter("data")
        for run in runfolder.remove_leftovers(Path(config.outputs)):
            screen.say(f"removed a checkpoint that {short(run)} had left half-written")
        screen.phase("preparing the data")
        plan = make_plan(config, screen.say)
        for line in plan.lines():
            screen.say(line, hang=LABEL)
        if plan.start is not None:  # what its driver did not live to hear belongs to the curve
            with suppress(OSError, ValueError):  # somebody else's folder, which stays as it is
                outbox.complete(plan.start.checkpoint.path.parents[1])
        folder, sweep = (None, None) if place is None else (place.folder, place.sweep)
        folder = runfolder.create(plan.config, overrides, plan.devices, folder)
        made(folder)
        screen.say(f"run folder {short(folder)}")
        assert plan.ready is not None  # make_plan makes it
        try:
            fence = take(folder, 1)
            assignment = Assignment(plan.config, folder, plan.ready.inputs, fence, sweep)
            hand_out(assignment)
            judge = Place.judge if place is None else place.judge
            return Job(plan, overrides, assignment, screen, startup, redactor, judge).run()
        except Fenced as error:  # the record is another attempt's
            print(f"error: {error}", file=sys.stderr)
            return FAILED
        except Exception as error:  # whatever it is, the job was started: nothing was refused
            return _end_badly(plan.config.stage.name, folder, redactor, error)


def _end_badly(stage: str, folder: Path, redactor: Redactor, error: Exception) -> int:
    """Say in a sentence what happened to the record of a job; returns its exit code.

    A job that has ended is what its result.json says, also if that could not be shown.
    """
    log = folder / "logs" / "driver.log"
    with suppress(OSError):
        log.write_text(redactor.text(traceback.format_exc()), encoding="utf-8")
    explained = explain_failure(error, log=log)
    print(f"error: {redactor.text(explained.line())}", file=sys.stderr)
    if (folder / runfolder.RESULT).exists():
        return code_of(read_json(folder / runfolder.RESULT))
    told = {"class": explained.failure, "rank": None, "host": None}
    told |= {"message": redactor.text(explained.message), "remedy": explained.remedy}
    facts = {"run_id": folder.name, "stage": stage, "status": "failed"}
    with suppress(OSError):
        runfolder.write_result(folder, {**facts, "error": told})
    return FAILED
