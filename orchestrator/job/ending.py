"""The end of a job on the screen: samples, comparison, the three places to look at."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from orchestrator.job.failures import Explanation
from orchestrator.record.mlflow import Done, Pending

if TYPE_CHECKING:
    from orchestrator.stages.run import Result

LABELS = {
    "unigram": "bytes, add-one unigram",
    "bigram": "bytes, add-one bigram",
    "trigram": "bytes, add-one trigram",
    "gzip": "gzip -9",
    "xz": "xz -9",
}


@dataclass(frozen=True)
class Ending:
    """How a job ended, as far as the screen tells."""

    folder: Path
    overrides: Sequence[str]
    """What the user typed."""
    result: dict[str, Any]
    """What result.json says."""
    explanation: Explanation | None
    tracked: Done | Pending


def show(
    console: Console, ending: Ending, outcome: "Result | None", baselines: dict[str, float]
) -> None:
    """Print how the job ended and what to type next."""

    def say(text: str = "") -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    folder, result, tracked = ending.folder, ending.result, ending.tracked
    if outcome is not None and outcome.samples:
        say()
        for text in outcome.samples:
            say("| " + text.strip().replace("\n", "\n| "))
            say()
    ours = result["metrics"].get("validation/bits_per_byte")
    if result["status"] == "done" and ours is not None:
        console.print(comparison(ours, baselines))
    say(f"{result['status']}: {result['steps']} steps in {result['wall_s']:.0f} s")
    if ending.explanation is not None and result["status"] == "failed":
        say(f"error: {ending.explanation.line()}")
    if result["checkpoint"]:
        newest = Path(result["checkpoint"])
        start = short(folder if newest.is_relative_to(folder) else newest)
        say(f"write text:  orchestrate generate {shlex.quote(start)} --prompt 'Return the'")
        if result["status"] != "done":
            again = [word for word in ending.overrides if not word.startswith("resume=")]
            say(f"go on:       {shlex.join(['orchestrate', 'run', *again, f'resume={start}'])}")
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
        style = "bold" if name == "this model" else None
        table.add_row(LABELS.get(name, name), f"{bits:.3f}", style=style)
    return table


def short(path: Path) -> str:
    """The path as a user would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
