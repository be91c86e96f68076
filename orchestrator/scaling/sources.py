"""Points from where they are: a table of comma-separated values, run folders, or MLflow."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.messages import counted, did_you_mean, listed, nearest
from orchestrator.config import TrackingConfig
from orchestrator.record.lines import read
from orchestrator.record.mlflow import new_state
from orchestrator.record.mlflow.measured import Measured, measured
from orchestrator.record.mlflow.view import PARAMETERS, RESULT
from orchestrator.record.runs import Run, runs
from orchestrator.record.sweeps import TABLE, is_sweep
from orchestrator.scaling.points import FLOPS_PER_WEIGHT, Points

NEEDED = ("parameters", "tokens", "loss")
COLUMNS = (*NEEDED, "flops", "budget", "unique_tokens", "name")
LOSS, TOKENS, FLOPS = "validation/loss", "train/tokens", "train/flops"
OF_OTHERS = ("sweep", "prediction")  # stages that MLflow has of what is no run


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
        wanted = [name.split()[0] for name in missing]
        near = {own: nearest(own, header, least=0.6) for own in wanted}
        hints = "".join(f"; {like} looks like {own}" for own, like in near.items() if like)
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
    return _gathered([Ran.of(run) for run in found], listed(names))


def setting_of(names: Sequence[str], setting: str) -> dict[str, float]:
    """A setting of each run in folders, by the run's id, where it is a number above 0."""
    found = {run.id: run.settings for name in names for run in _runs_of(Path(name).expanduser())}
    known = sorted({key for settings in found.values() for key in settings})
    if setting not in known:
        raise ValueError(
            f"--of={setting} is no setting of these runs{did_you_mean(setting, known)}; try "
            "--of optim.learning_rate"
        )
    numbers = {own: settings.get(setting) for own, settings in found.items()}
    return {
        own: float(value)
        for own, value in numbers.items()
        if isinstance(value, int | float) and value > 0
    }


def from_mlflow(address: str) -> tuple[Points, list[str]]:
    """The points of runs in MLflow, and notes on those that are none.

    Args:
        address: EXPERIMENT, or EXPERIMENT?FILTER with a filter in MLflow's own words; in the store
            of MLFLOW_TRACKING_URI, else in that of outputs/.

    Raises:
        ValueError: there is no such store, experiment or point, or losses can't be compared.
    """
    experiment, _, where = address.partition("?")
    state = new_state(TrackingConfig(experiment=experiment), Path("outputs"))
    runs = (run for run in measured(state, where or None) if run.tags.get("stage") not in OF_OTHERS)
    found = [Ran.tracked(run) for run in runs]
    return _gathered(found, f"mlflow:{address}")


@dataclass(frozen=True)
class Ran:
    """A run that may be a point, from wherever it is known."""

    id: str
    unfinished: str | None
    """Why it is none, as far as its end tells. None: it was done."""
    parameters: float | None
    metrics: Mapping[str, float]
    data: tuple[str, str]
    """Fingerprints of its tokenizer and validation data: losses are compared among the same."""

    @classmethod
    def of(cls, run: Run) -> "Ran":
        """That of a run folder."""
        unfinished = None if run.status == "done" else f"it is {run.status}"
        if reason := run.result.get("reason"):
            unfinished = f"it ended early: {reason}"
        data = []
        for kind in ("tokenizer", "dataset"):
            own = [
                str(event.get("fingerprint"))
                for event in run.events
                if event.get("event") == kind and event.get("split", "validation") == "validation"
            ]
            data.append(" ".join(dict.fromkeys(own)))
        return cls(run.id, unfinished, run.parameters, run.metrics, (data[0], data[1]))

    @classmethod
    def tracked(cls, run: Measured) -> "Ran":
        """A run in MLflow; of its losses that of the weights that it gives."""
        unfinished = None if run.status == "FINISHED" else f"MLflow has it as {run.status.lower()}"
        metrics, best = dict(run.metrics), f"{RESULT}{LOSS}"
        if best in metrics:
            metrics[LOSS] = metrics[best]
        kinds = ("tokenizer", "dataset.validation")
        tokenizer, dataset = (run.tags.get(f"{kind}.fingerprint", "") for kind in kinds)
        return cls(run.id, unfinished, metrics.get(PARAMETERS), metrics, (tokenizer, dataset))

    @property
    def lacks(self) -> str | None:
        """Why it is no point of a law; None: it is one."""
        if self.unfinished:
            return self.unfinished
        for name in (LOSS, TOKENS, FLOPS):
            if name not in self.metrics:
                return f"it has not measured {name}"
            if not (math.isfinite(self.metrics[name]) and self.metrics[name] > 0):
                return f"its {name} is {self.metrics[name]}"
        return None if self.parameters else "it does not say how many parameters its model has"


def _gathered(among: Sequence[Ran], where: str) -> tuple[Points, list[str]]:
    """The points of runs, and notes on those that are none."""
    notes = [f"{run.id} is no point: {run.lacks}" for run in among if run.lacks]
    usable = [run for run in among if not run.lacks]
    if not usable:
        said = notes[0] if notes else "there is none"
        raise ValueError(f"{where}: no run there can be a point; {said}")
    columns = ([run.metrics[name] for run in usable] for name in (TOKENS, LOSS, FLOPS))
    tokens, loss, flops = (np.array(column, float) for column in columns)
    points = Points(
        np.array([run.parameters for run in usable], float),
        tokens,
        loss,
        flops,
        names=tuple(run.id for run in usable),
        data=_read_alike(usable),
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


def _read_alike(among: Sequence[Ran]) -> tuple[str, str]:
    """What all have read. Raises ValueError if that differs, as losses are per token."""
    first: dict[tuple[str, str], Ran] = {}
    for run in among:
        first.setdefault(run.data, run)
    if len(first) > 1:
        a, b, *_ = first.values()
        what = "tokenizer" if a.data[0] != b.data[0] else "validation data"
        raise ValueError(
            f"{a.id} and {b.id} differ in their {what}, so their losses can't be compared; name "
            "runs of one alone"
        )
    return next(iter(first))
