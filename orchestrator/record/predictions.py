"""A prediction of a run's loss: a folder in the outputs that scaling/ writes and the record reads.

It is made before the run, and gets the truth when that is there; what it said does not change.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.files import DataError, read_json, write_text_atomic
from orchestrator.record.reading import CONFIG, newest_first

FILE = "prediction.json"
"""In its own folder; and in that of the run that came of it, a copy."""
PICTURE = "prediction.png"
TABLE = "points.json"
"""The runs that it goes by, as MLflow's page shows a table."""
SAME = 0.01  # by which parameters and tokens of a run may differ from those it was predicted for


@dataclass(frozen=True)
class Truth:
    """What came out."""

    folder: str
    """Of the run: DATE/NAME in its outputs."""
    parameters: float
    tokens: float
    flops: float
    loss: float
    began_ms: int
    """When the run did, milliseconds since 1970."""


@dataclass(frozen=True)
class Prediction:
    """The loss of a run, by runs that it is not one of."""

    parameters: float
    tokens: float
    flops: float
    """As the points' FLOPs are of 6 N D."""
    loss: float
    low: float
    high: float
    """The loss of a new run lies between the two 9 times in 10."""
    made_ms: int
    """When it was made, milliseconds since 1970."""
    law: str
    constants: dict[str, float]
    convention: dict[str, str]
    """What `parameters` and `flops` count."""
    points: list[dict[str, Any]]
    """The runs it goes by: name, parameters, tokens, flops, loss."""
    curve: dict[str, list[float]]
    """Of this size: flops, and loss, low and high there."""
    data: list[str]
    """Fingerprints of tokenizer and validation data; empty where a table does not tell."""
    extrapolates: str | None = None
    """A warning. None: it is near the points."""
    folder: str | None = None
    """That it is kept in: DATE/NAME in its outputs. None: it is not kept."""
    truth: Truth | None = None
    """None: it has not run."""

    @property
    def said(self) -> str:
        """What was predicted, and what came out, in a line."""
        told = (
            f"loss {self.loss:#.4g} predicted ({self.low:#.4g} to {self.high:#.4g}, 9 times in 10)"
        )
        return told if self.truth is None else f"{told}; measured {self.verdict}"

    @property
    def error(self) -> float | None:
        """Predicted / measured - 1."""
        return None if self.truth is None else self.loss / self.truth.loss - 1

    @property
    def inside(self) -> bool | None:
        """Whether what came out lies in the interval."""
        return None if self.truth is None else self.low <= self.truth.loss <= self.high

    @property
    def beforehand(self) -> bool | None:
        """Whether it was made before the run began."""
        return None if self.truth is None else self.made_ms < self.truth.began_ms

    @property
    def verdict(self) -> str | None:
        """How good it was, in words. None: it has not run."""
        if self.truth is None:
            return None
        where = "inside" if self.inside else "OUTSIDE"
        when = "" if self.beforehand else "; it was made after the run began"
        return (
            f"{self.truth.loss:#.4g}, so it was {self.error:+.2%} off, {where} the interval{when}"
        )

    def is_of(self, parameters: float, tokens: float) -> bool:
        """Whether a run of this size on so many tokens is the one that was meant."""
        pairs = ((parameters, self.parameters), (tokens, self.tokens))
        return all(abs(own / meant - 1) <= SAME for own, meant in pairs)

    def save(self, folder: Path) -> None:
        """Write prediction.json."""
        write_text_atomic(folder / FILE, json.dumps(asdict(self), indent=1))

    def save_table(self, folder: Path) -> None:
        """Write the points as a table of MLflow's."""
        columns = [*self.points[0]]
        rows = [[point[name] for name in columns] for point in self.points]
        write_text_atomic(folder / TABLE, json.dumps({"columns": columns, "data": rows}))

    @classmethod
    def load(cls, folder: Path) -> "Prediction":
        """Read it. Raises ValueError if there is none."""
        try:
            said: dict[str, Any] = read_json(folder / FILE)
            truth = said.pop("truth")
            return cls(**said, truth=None if truth is None else Truth(**truth))
        except (DataError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{folder} holds no {FILE} that can be read: {error}") from None


def is_prediction(folder: Path) -> bool:
    """Whether it is the folder of a prediction, and not of a run that was predicted."""
    return (folder / FILE).is_file() and not (folder / CONFIG).exists()


def predictions(outputs: Path) -> Iterator[Path]:
    """The folders of all predictions in an outputs folder, newest first."""
    yield from (f.parent for f in newest_first(outputs.glob(f"*/*-prediction-*/{FILE}")))
