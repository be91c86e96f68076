"""The end of a job on the screen: samples, comparison, the three places to look at."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from data import Prepared
from orchestrator.tracking import Done, Pending

if TYPE_CHECKING:
    from orchestrator.stages.run import Result


def show(
    console: Console,
    folder: Path,
    prepared: Prepared,
    result: dict[str, Any],
    outcome: "Result | None",
    tracked: Done | Pending,
) -> None:
    """Print how the job ended and what to type next."""

    def say(text: str = "") -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    if outcome is not None and outcome.samples:
        say()
        for text in outcome.samples:
            say("| " + text.strip().replace("\n", "\n| "))
            say()
    ours = result["metrics"].get("validation/bits_per_byte")
    if result["status"] == "done" and ours is not None:
        console.print(comparison(ours, prepared.baselines))
    say(f"{result['status']}: {result['steps']} steps in {result['wall_s']:.0f} s")
    error = result.get("error")
    if error is not None and result["status"] == "failed":
        who = "" if error["rank"] is None else f"rank {error['rank']} on host {error['host']} "
        say(f"error:  {who}{error['message']}")
        say(f"remedy: {error['remedy']}")
    if result["checkpoint"]:
        say(f"write text:  orchestrate generate {short(folder)} --prompt 'The '")
    if result["status"] != "done" and result["checkpoint"]:
        say(f"go on:       orchestrate run resume={short(folder)} and the same overrides")
    say(f"run folder:  {short(folder)}")
    if isinstance(tracked, Pending):
        say(str(tracked))
    elif tracked.mlflow_run_id is not None:
        where = tracked.url or f"orchestrate ui {shlex.quote(short(folder))}"
        say(f"MLflow:      {where}")


def comparison(ours: float, baselines: dict[str, float]) -> Table:
    """Bits per byte of the validation text, best first; lower is better."""
    table = Table("validation text", "bits per byte", title=None)
    rows = [("this model", ours), *baselines.items()]
    for name, bits in sorted(rows, key=lambda row: row[1]):
        table.add_row(name, f"{bits:.3f}", style="bold" if name == "this model" else None)
    return table


def short(path: Path) -> str:
    """The path as a user would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
