"""Points from where they are: a table of comma-separated values, or run folders."""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from data.messages import counted, did_you_mean, listed
from orchestrator.record.lines import read
from orchestrator.record.runs import Run, runs
from orchestrator.record.sweeps import TABLE, is_sweep
from orchestrator.scaling.points import FLOPS_PER_WEIGHT, Points

NEEDED = ("parameters", "tokens", "loss")
COLUMNS = (*NEEDED, "flops", "budget", "unique_tokens", "name")
LOSS = "validation/loss"


def from_table(path: Path, count: str) -> tuple[Points, list[str]]:
    """The points of a CSV file, and notes on what of it was not read.

    Its columns are parameters, tokens (or flops, whence tokens = flops / (6 x parameters)), loss;
    and if there are any, flops, budget, unique_tokens and name.

    Args:
        path: of the file, with the names of its columns in the first line.
        count: what its parameters count, a key of COUNTS; the file can't tell.

    Raises:
        ValueError: a column is missing or a value is none; names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} can't be read as a table: {error}") from None
    header = [name.strip() for name in lines[0]] if lines else []
    _check_header(path, header)
    rows = [(number, row) for number, row in enumerate(lines[1:], 2) if any(map(str.strip, row))]
    if not rows:
        raise ValueError(f"{path} has no line below its columns; give one for each run")
    for number, row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"{path} line {number} has {counted(len(row), 'value')} for {len(header)} columns"
            )

    def column(name: str) -> np.ndarray | None:
        if name not in header:
            return None
        place = header.index(name)
        return np.array([_number(path, line, name, row[place]) for line, row in rows])

    parameters, loss, flops = column("parameters"), column("loss"), column("flops")
    assert parameters is not None
    assert loss is not None
    tokens = column("tokens")
    if tokens is None:
        assert flops is not None
        tokens, flops = flops / (FLOPS_PER_WEIGHT * parameters), None
    place = header.index("name") if "name" in header else None
    names = tuple(
        f"line {number}" if place is None else f"line {number} ({row[place].strip()})"
        for number, row in rows
    )
    unique = column("unique_tokens")
    if unique is not None:
        unique = np.minimum(unique, tokens)
    other = [name for name in header if name not in COLUMNS]
    notes = [f"columns that nothing here reads: {listed(other)}"] if other else []
    return Points(parameters, tokens, loss, flops, column("budget"), unique, names, count), notes


def _check_header(path: Path, header: Sequence[str]) -> None:
    """Raise ValueError unless the columns are there, each once."""
    known = f"{path} has the columns {listed(header)}"
    missing = [name for name in ("parameters", "loss") if name not in header]
    if "tokens" not in header and "flops" not in header:
        missing.append("tokens (or flops)")
    if missing:
        hints = "".join(did_you_mean(name.split()[0], header) for name in missing)
        apart = "; its columns are to be apart by commas" if len(header) == 1 else hints
        raise ValueError(
            f"{known}, and lacks {', '.join(missing)}; call them parameters, tokens (or flops), "
            f"loss, and if there are any {', '.join(COLUMNS[3:])}{apart}"
        )
    twice = [name for name in COLUMNS if header.count(name) > 1]
    if twice:
        raise ValueError(f"{known}, {twice[0]} twice; leave one of them out")


def _number(path: Path, line: int, name: str, text: str) -> float:
    """A value of the table, which must be more than 0."""
    try:
        value = float(text.strip().replace("_", ""))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        told = "a run that diverged is no point of a law" if name == "loss" else "counts are"
        told = f"{told}; leave its line out" if name == "loss" else f"{told} more than 0"
        raise ValueError(
            f"{path} line {line}: {name}={text.strip() or 'nothing'} must be a number above 0: "
            f"{told}"
        )
    return value


def from_runs(names: Sequence[str]) -> tuple[Points, list[str]]:
    """The points of run folders, or of all runs in folders such as outputs/ or that of a sweep.

    N is all parameters of the run's model, D are the tokens it has trained on, C the FLOPs that it
    has recorded, the loss its `validation/loss`. With them come notes on runs that are no points.

    Raises:
        ValueError: a folder has no run, or losses that can't be compared.
    """
    found = [run for name in names for run in _runs_of(Path(name).expanduser())]
    found = list({run.folder.resolve(): run for run in found}.values())
    usable, notes = [], []
    for run in found:
        lacking = _lacking(run)
        if lacking:
            notes.append(f"{run.id} is no point: {lacking}")
        else:
            usable.append(run)
    if not usable:
        said = notes[0] if notes else "there is none"
        raise ValueError(f"{listed(names)}: no run there can be a point; {said}")
    _check_comparable(usable)
    parameters = [run.parameters for run in usable]
    values = [[run.metrics[name] for run in usable] for name in ("train/tokens", LOSS)]
    flops = [run.metrics["train/flops"] for run in usable]
    points = Points(
        np.array(parameters, float),
        np.array(values[0]),
        np.array(values[1]),
        np.array(flops),
        names=tuple(run.id for run in usable),
    )
    return points, notes


def _runs_of(folder: Path) -> Iterable[Run]:
    """The runs of a folder: itself, those below it, or the trials of a sweep."""
    if (folder / "config.yaml").is_file():
        return [Run(folder)]
    if not folder.is_dir():
        raise ValueError(f"{folder} is neither a CSV file nor a folder with runs")
    if is_sweep(folder):
        rows, _ = read(folder / TABLE)
        return [Run(folder / row["folder"]) for row in rows if row["event"] == "started"]
    return list(runs(folder))


def _lacking(run: Run) -> str | None:
    """Why a run is no point of a law; None: it is one."""
    if run.status != "done":
        return f"it is {run.status}"
    if run.result.get("reason"):
        return f"it ended early: {run.result['reason']}"
    for name in (LOSS, "train/tokens", "train/flops"):
        if name not in run.metrics:
            return f"it has not measured {name}"
        if not (math.isfinite(run.metrics[name]) and run.metrics[name] > 0):
            return f"its {name} is {run.metrics[name]}"
    return None if run.parameters else "it does not say how many parameters its model has"


def _check_comparable(among: Sequence[Run]) -> None:
    """Raise ValueError for losses per token of different tokenizers or validation data."""
    for kind, name in (("tokenizer", "fingerprint"), ("dataset", "fingerprint")):
        first: dict[str, Run] = {}
        for run in among:
            own = [
                str(event.get(name))
                for event in run.events
                if event.get("event") == kind and event.get("split", "validation") == "validation"
            ]
            first.setdefault(" ".join(dict.fromkeys(own)), run)
        if len(first) > 1:
            a, b, *_ = (run.id for run in first.values())
            what = kind if kind == "tokenizer" else "validation data"
            raise ValueError(
                f"{a} and {b} differ in their {what}, so their losses can't be compared; name runs "
                "of one alone"
            )
