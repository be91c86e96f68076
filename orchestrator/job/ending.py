"""The end of a job in result.json and on the screen: samples, tables, what to type next."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Column
from rich.table import Table as Grid

from data.messages import override, short
from orchestrator.job.failures import Explanation
from orchestrator.job.screen import Terminal
from orchestrator.plan.planning import Plan
from orchestrator.record import runfolder
from orchestrator.record.mlflow import Done, Pending
from orchestrator.record.standing import Standing
from orchestrator.terminal import fitted_command

if TYPE_CHECKING:
    from orchestrator.stages.result import Result, Table


@dataclass(frozen=True)
class Ending:
    """How a job ended, as far as the screen tells."""

    folder: Path
    overrides: Sequence[str]
    """What the user typed."""
    result: dict[str, Any]
    """What result.json says."""
    tracked: Done | Pending
    copies: str | None = None
    """Where copies of all checkpoints are. None: nowhere."""


def result_of(
    folder: Path,
    plan: Plan,
    standing: Standing,
    outcome: "Result | None",
    explanation: Explanation | None,
) -> dict[str, Any]:
    """What result.json says, by the record: the truth also for a job that failed.

    Its time and its run in MLflow are still to be filled in.

    Args:
        folder: of the run.
        plan: of the job.
        standing: how far the run has got.
        outcome: rank 0's result, if it came so far.
        explanation: of what ended it, if anything did.
    """
    status = "interrupted" if outcome is not None and outcome.stopped else "done"
    if explanation is not None:
        status = "interrupted" if explanation.failure == "interrupted" else "failed"
    steps = max(standing.step, standing.checkpoint_step or 0)
    start = runfolder.placed(plan.start.checkpoint.path, folder) if plan.start else None
    result: dict[str, Any] = {
        "run_id": folder.name,
        "stage": plan.config.stage.name,
        "status": status,
        "reason": outcome.reason if outcome else None,
        "attempts": standing.attempt,
        "steps": steps if plan.outline.steps else 0,
        "tokens": standing.tokens or None,
        "wall_s": None,
        "tokens_per_second": outcome.tokens_per_second if outcome else None,
        "metrics": standing.result,
        "baselines": standing.baselines,
        "best": standing.best,
        "checkpoint": standing.checkpoint or start,
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


def show(console: Terminal, ended: Ending, outcome: "Result | None") -> None:
    """Print how the job ended and what to type next."""
    say, result = console.say, ended.result
    if outcome is not None:
        _show_outcome(console, outcome, done=result["status"] == "done")
    steps = f": {result['steps']} steps" if result["steps"] else ""
    say(f"{result['status']}{steps} in {result['wall_s']:.0f} s")
    if result["reason"] is not None:
        say(f"ended early: {result['reason']}")
    if best := result["best"]:
        kept = short((ended.folder / best["checkpoint"]).resolve())
        say(f"best:        {best['metric']} {best['value']:.4g} after step {best['step']}: {kept}")
    _show_places(console, ended, outcome)


def _show_outcome(console: Terminal, outcome: "Result", *, done: bool) -> None:
    """What the stage has made, and what the user should know of it."""
    if outcome.samples:
        console.say("")
        for text in outcome.samples:
            console.say("| " + text.strip().replace("\n", "\n| "))
            console.say("")
    if done:
        for table in outcome.tables:
            console.print(grid(table))
        for notice in outcome.notices:
            console.say(f"note: {notice}")


def _show_places(console: Terminal, ended: Ending, outcome: "Result | None") -> None:
    """What to type next, and where everything is."""
    say, width = console.say, console.fitting
    folder, result, tracked = ended.folder, ended.result, ended.tracked
    newest = (folder / result["checkpoint"]).resolve() if result["checkpoint"] else None
    own = newest is not None and newest.is_relative_to(folder.resolve())
    start = "" if newest is None else short(folder if own else newest)
    for label, command in outcome.next if outcome is not None else ():
        command = command.replace("{run}", shlex.quote(start or short(folder)))
        say(fitted_command(f"{label + ':':13}", command, width))
    if start and result["status"] != "done":
        typed = () if own else ended.overrides  # its own folder has its config, too
        again = [word for word in typed if not word.startswith("resume=")]
        command = f"{shlex.join(['orchestrate', 'run', *again])} {override('resume', start)}"
        say(fitted_command("go on:       ", command, width))
    if newest is not None:
        say(f"checkpoint:  {short(newest)}")
    if ended.copies is not None:
        say(f"copied to:   {ended.copies}")
    say(f"run folder:  {short(folder)}")
    if isinstance(tracked, Pending):
        say(str(tracked))
    elif tracked.mlflow_run_id is not None:
        where = tracked.url or f"orchestrate ui {shlex.quote(short(folder))}"
        say(fitted_command("MLflow:      ", where, width))
        outputs = short(folder.parents[1])
        own = "" if outputs == "outputs" else f" --outputs {shlex.quote(outputs)}"
        say(fitted_command("all runs:    ", tracked.ranking_url or f"orchestrate ui{own}", width))


def grid(table: "Table") -> Grid:
    """A stage's table as the screen shows it; what is too long for its column goes on below."""
    shown = Grid(*(Column(name, overflow="fold") for name in table.columns), title=None)
    for number, row in enumerate(table.rows):
        shown.add_row(*row, style="bold" if number == table.bold else None)
    return shown
