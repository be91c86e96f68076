"""`orchestrate show [RUN]`: all about one run on one screen, from its folder alone."""

import argparse
import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.messages import clock, counted, override, size
from orchestrator.record.redaction import Redactor, flatten
from orchestrator.record.runs import RUNNING, Run, find, mapping
from orchestrator.record.story.sentences import sentence
from orchestrator.record.story.spending import GOODPUT
from orchestrator.terminal import columns, printable, say

LATEST = "outputs/latest"
MOST = 12  # lines of each part
NOT_ASKED = ("outputs", "resources.", "tracking.", "resume", "checkpoint")  # of where, not of what

Defaults = Callable[[str], dict[str, Any]]


def main(argv: Sequence[str], defaults: Defaults) -> int:
    """Print what the folder says; returns the exit code. Raises ValueError for no such run."""
    options = parser().parse_args(argv)
    run = find(options.run, Path(options.outputs))
    hide = Redactor(run.config).text
    for heading, lines in parts(run, defaults):
        shown = [*lines]
        if not shown:
            continue
        if heading:
            say(f"\n{heading}")
        for line in shown[:MOST]:
            say("  " * bool(heading) + printable(hide(line)), hang=6)
        if len(shown) > MOST:
            say(f"  and {len(shown) - MOST} more")
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate show", description=__doc__)
    new.add_argument(
        "run", nargs="?", default=LATEST, help="run folder, or the beginning of an id [%(default)s]"
    )
    new.add_argument(
        "--outputs", default="outputs", help="folder in which ids are looked up [%(default)s]"
    )
    return new


def parts(run: Run, defaults: Defaults) -> Iterator[tuple[str, Iterator[str]]]:
    """What the screen shows: a heading, and its lines."""
    yield "", _head(run)
    yield "result", _result(run)
    yield "differs from the defaults", _differences(run, defaults)
    yield "events", _events(run)
    yield "checkpoints", _checkpoints(run)
    yield "files", _files(run)
    yield "go on", _next(run)


def _head(run: Run) -> Iterator[str]:
    said, result = run.settings, run.result
    yield f"{run.folder}"
    seconds = result.get("wall_s")
    took = f" after {clock(seconds)}" if isinstance(seconds, int | float) else ""
    workers = said.get("resources.workers", "?")
    yield f"{run.stage}, {run.model}: {run.status}{took}, {run.steps} steps, workers: {workers}"
    data = {e.get("source"): e for e in run.events if e.get("event") == "dataset"}
    if data:
        yield f"data: {', '.join(map(str, data))}"
    if typed := mapping(run.folder / "code.json").get("command"):
        yield f"typed: {typed}"
    if GOODPUT in run.metrics:
        yield f"goodput: {run.metrics[GOODPUT]:.0%}; orchestrate why {shlex.quote(str(run.folder))}"
    if isinstance(error := result.get("error"), Mapping):
        yield f"error: {error.get('message')}"
        yield f"remedy: {error.get('remedy')}"


def _result(run: Run) -> Iterator[str]:
    """The tables that the run has made, the baselines among them; else its metrics."""
    tables = [e["path"] for e in run.events if e.get("table") and "/" not in str(e.get("path"))]
    made = [table for path in tables if (table := _table(run.folder / str(path)))]
    small = [table for table in made if len(table[0]) <= 4]
    for names, rows in small[:1]:
        yield from columns([names, *rows])
    if not small:
        for name, value in run.metrics.items():
            if not name.startswith("train/"):
                yield f"{name}  {value:.5g}"


def _table(path: Path) -> tuple[list[str], list[list[str]]] | None:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        names = [str(name) for name in plain["columns"]]
        rows = [[str(cell) for cell in row] for row in plain["data"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return (names, rows) if all(len(row) == len(names) for row in rows) else None


def _differences(run: Run, defaults: Defaults) -> Iterator[str]:
    """Settings whose value is not that of a job that says no more than its stage."""
    usual = flatten(defaults(run.stage))
    shown = Redactor.of_run(run.folder, run.settings)
    for name, value in run.settings.items():
        if name.startswith(NOT_ASKED) or str(usual.get(name, "")).startswith("${"):
            continue
        if name in usual and usual[name] != value:
            said = _short(shown.settings(value, name))
            yield f"{name}={said}  (default {_short(usual[name])})"


def _events(run: Run) -> Iterator[str]:
    told = [(event, said) for event in run.events if (said := sentence(event)) is not None]
    for event, said in told[-MOST:]:
        at = time.strftime("%H:%M:%S", time.localtime(event.get("time_ms", 0) / 1000))
        yield f"{at}  {said}"


def _checkpoints(run: Run) -> Iterator[str]:
    for manifest in sorted(run.folder.glob("checkpoints/step_*/manifest.json"), reverse=True):
        files = [file.stat().st_size for file in manifest.parent.rglob("*") if file.is_file()]
        yield f"{manifest.parent.name}  {size(sum(files))}"


def _files(run: Run) -> Iterator[str]:
    for path in sorted(run.folder.iterdir()):
        inside = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
        if path.is_dir():
            yield f"{path.name}/  {counted(len(inside), 'file')}, {size(sum(inside))}"
        elif not path.name.startswith("."):
            yield f"{path.name}  {size(path.stat().st_size)}"


def _next(run: Run) -> Iterator[str]:
    folder = shlex.quote(str(run.folder))
    saved = any(run.folder.glob("checkpoints/step_*/manifest.json"))
    if any(run.folder.glob("checkpoints/step_*/tokenizer.json")):
        yield f"orchestrate generate {folder}"
        yield f"orchestrate run stage=evaluate checkpoint={folder}"
    if saved and run.status not in ("done", RUNNING):
        yield f"orchestrate run {override('resume', str(run.folder))}"
    if run.status != RUNNING and saved:
        yield f"orchestrate export {folder} FOLDER"
    if run.result.get("mlflow_run_id"):
        yield f"orchestrate ui {folder}"


def _short(value: Any) -> str:
    text = (
        str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
    )
    return text if len(text) <= 60 else f"{text[:57]}..."
