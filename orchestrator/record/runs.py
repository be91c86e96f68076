"""All runs of an outputs folder, by what their folders say; quick, without MLflow and Hydra.

A run folder may come from somebody else: its files are read as data, and what can't be read is
left open rather than raised.
"""

import math
import os
import re
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from data.files import DataError, read_json
from data.messages import did_you_mean
from orchestrator.record.journal import goes_on
from orchestrator.record.lines import EVENTS, read
from orchestrator.record.reading import CONFIG, newest_first, read_yaml
from orchestrator.record.redaction import flatten

RESULT = "result.json"
HEADLINES = ("bits_per_byte", "accuracy", "rmse", "loss")  # of a run, the first that it measured
HIGHER_IS_BETTER = ("accuracy", "ranked_first", "per_second", "mfu")
RUNNING, LOST = "running", "lost"
LEAST_OF_ID = 3  # characters
LOOKED_AT = 50  # newest runs among which one's own is looked for; others may start runs, too


@dataclass(frozen=True)
class Run:
    """A run folder, read when asked."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """What was asked for, as plain data: nothing in it is filled in."""
        return mapping(self.folder / CONFIG)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The config with dotted names."""
        return flatten(self.config)

    @cached_property
    def result(self) -> dict[str, Any]:
        """result.json; empty while the run goes on."""
        return mapping(self.folder / RESULT)

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """Those of the journal that can be read."""
        try:
            return read(self.folder / EVENTS)[0]
        except (OSError, ValueError):
            return []

    @property
    def id(self) -> str:
        """The last part of the folder's name."""
        return self.folder.name.rpartition("-")[2]

    @property
    def started(self) -> str:
        """Date and time, from the folder's name."""
        return f"{self.folder.parent.name} {self.folder.name[:5].replace('-', ':')}"

    @property
    def stage(self) -> str:
        """Its name."""
        return str(self.settings.get("stage.name", "?"))

    @property
    def model(self) -> str:
        """Architecture and size, in a few characters."""
        said = self.settings
        family = str(said.get("model.family", "-"))
        if "model.layers" in said:
            return f"{family} {said['model.layers']}x{said.get('model.width')}"
        hidden = said.get("model.hidden")
        return f"{family} {'x'.join(map(str, hidden))}" if isinstance(hidden, list) else family

    @property
    def status(self) -> str:
        """As result.json has it; before that `running`, or `lost` if its driver is gone."""
        if self.result:
            return str(self.result.get("status", "?"))
        if self.driver[0] not in (None, socket.gethostname()):
            return RUNNING  # for all that can be seen from here
        return RUNNING if goes_on(self.folder, unknown=True) else LOST

    @property
    def driver(self) -> tuple[Any, Any]:
        """Host and process id of the newest attempt's driver."""
        starts = [event for event in self.events if event.get("event") == "started"]
        return (starts[-1].get("host"), starts[-1].get("pid")) if starts else (None, None)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Of the weights that it gives: the best that are kept, else the last ones."""
        found = self.result.get("metrics")
        if not isinstance(found, dict):
            return {}
        return {str(k): v for k, v in found.items() if isinstance(v, int | float)}

    @property
    def headline(self) -> tuple[str, float] | None:
        """The metric that says most of the run, and its value."""
        for word in HEADLINES:
            for name, value in self.metrics.items():
                if name.endswith(f"/{word}") and not name.startswith("train/"):
                    return name, value
        return None

    @property
    def sees_target(self) -> bool:
        """Whether its model attends to what it is to predict, so that its loss means nothing."""
        mask = self.settings.get("model.mask", "causal")
        if mask == "causal":
            return False
        from models.configs.gpt import SEES_TARGET  # not for every list of runs

        return mask in SEES_TARGET

    def told(self, metric: str) -> str:
        """The value of a metric, with what a reader must know of it."""
        caution = " (sees what it predicts)" if self.sees_target else ""
        return f"{self.metrics[metric]:.4g}{caution}"

    @property
    def parameters(self) -> int | None:
        """Of all its models together. None: it does not say."""
        for event in self.events:
            if event.get("event") == "started" and isinstance(event.get("roles"), dict):
                return sum(int(role["parameters"]) for role in event["roles"].values())
        return None

    @property
    def steps(self) -> str:
        """Done and asked for."""
        done, asked = self.result.get("steps"), self.settings.get("stage.steps")
        return "-" if asked is None else f"{'?' if done is None else done}/{asked}"


def runs(outputs: Path) -> Iterator[Run]:
    """Every run under an outputs folder, newest first."""
    yield from (Run(config.parent) for config in newest_first(outputs.glob(f"*/*/{CONFIG}")))


def ranked(among: Iterable[Run], metric: str) -> list[Run]:
    """The runs that have measured it, best first; last those that see what they predict.

    Of each of the two kinds, what is no number is last.
    """
    higher = any(word in metric for word in HIGHER_IS_BETTER)

    def place(run: Run) -> tuple[bool, bool, float]:
        value = run.metrics[metric]
        return run.sees_target, not math.isfinite(value), -value if higher else value

    return sorted((run for run in among if metric in run.metrics), key=place)


def common_headline(among: Iterable[Run]) -> str | None:
    """The metric that says most of all that have any. None: it is not the same one."""
    names = {own[0] for run in among if (own := run.headline) is not None}
    return names.pop() if len(names) == 1 else None


def best_first(among: Sequence[Run | None]) -> list[int]:
    """Places of runs by their results; those that can't be compared stay where they are, last."""
    places = {run.folder: place for place, run in enumerate(among) if run is not None}
    metric = common_headline(run for run in among if run is not None)
    first = [places[run.folder] for run in ranked(filter(None, among), metric)] if metric else []
    return first + [place for place in range(len(among)) if place not in first]


def words_of(metric: str) -> str:
    """A metric for a reader: `validation/bits_per_byte` is validation bits per byte."""
    return metric.replace("/", " ").replace("_", " ")


def made_here(outputs: Path, but: Collection[Path]) -> Run | None:
    """The run that this process has made last, none of `but`; None: it has made none."""
    for run in islice(runs(outputs), LOOKED_AT):
        if run.driver == (socket.gethostname(), os.getpid()) and run.folder not in but:
            return run
    return None


def find(name: str, outputs: Path) -> Run:
    """The run that a user means: a folder, or the beginning of an id.

    Raises:
        ValueError: there is none, or several.
    """
    folder = Path(name).expanduser()
    if (folder / CONFIG).is_file():
        folder = folder.resolve() if folder.is_symlink() else folder
        here = Path.cwd()
        return Run(folder.relative_to(here) if folder.is_relative_to(here) else folder)
    every = list(runs(outputs))
    if len(name) >= LEAST_OF_ID and re.fullmatch(r"[\w.:-]+", name):
        meant = [run for run in every if run.id.startswith(name) or run.folder.name == name]
        if len(meant) == 1:
            return meant[0]
        if meant:
            raise ValueError(f"{name} may be {' or '.join(str(run.folder) for run in meant[:4])}")
    hint = did_you_mean(name, [str(run.folder) for run in every])
    raise ValueError(
        f"{name} is no run folder and no id of a run in {outputs}{hint}; `orchestrate runs "
        f"--outputs {outputs}` lists them"
    )


def mapping(path: Path) -> dict[str, Any]:
    """A JSON or YAML file that holds a mapping; empty if it does not, or can't be read."""
    try:
        found = read_json(path) if path.suffix == ".json" else read_yaml(path)
    except DataError:
        return {}
    return dict(found) if isinstance(found, Mapping) else {}
