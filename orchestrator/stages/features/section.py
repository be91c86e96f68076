"""The settings that all stages on examples have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from data.files import expand_home
from models.configs import of_features
from orchestrator.config.changes import Change
from orchestrator.config.checks import check_at_least, check_choice
from orchestrator.config.stage import TrainingConfig

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig

MISSING = ("refuse", "drop", "mean")
SCALINGS = ("standard", "unit", "none")
OWN = (
    *("data", "label", "features", "missing", "scaling", "validation_fraction"),
    *("examples", "noise"),
)
TABLES = ("penguins",)
"""Sets with a name that are tables: their columns can be chosen."""
PLANE = ("gauss", "circle", "xor", "spiral", "maximum")
"""Problems in the plane, whose examples are drawn."""
GIVEN_SPLIT = ("mnist", "logic_and", "logic_or", "logic_xor")
"""Sets that come with their own validation split."""


@dataclass
class FeaturesConfig(TrainingConfig):
    """Training on rows of numbers, each with what is to be told."""

    changes: ClassVar[Mapping[str, Change]] = {
        **TrainingConfig.changes,
        **dict.fromkeys(OWN, Change.ACCOUNTED),
    }
    known: ClassVar[tuple[str, ...]] = ()
    """The sets of examples with a name that the stage can learn."""

    data: str = ""
    """A set with a name, a table whose rows are examples (FILE.csv, FILE.parquet ...), or for
    pictures a folder of MNIST's IDX files or its old FILE.pkl.gz."""
    label: str | None = None
    """Column of the table with what is to be told: a number, or for classes a whole number from 0
    or a text. None: that of a set with a name."""
    features: list[str] | None = None
    """What the model sees, by name: columns of the table, of which texts are categories; of a
    problem in the plane some of x, y, xx, yy, xy, sin_x, sin_y. None: all but the label; x and
    y."""
    missing: str = "refuse"
    """Of a table, what becomes of rows that lack a feature: refuse them; drop them; or mean, which
    fills in the mean of the training split and adds a feature that says so."""
    scaling: str = "standard"
    """What the model sees of a feature: standard, (x - mean) / std of the training split; unit, all
    features divided by the largest number among them, as for pixels; none, the number itself."""
    validation_fraction: float = 0.2
    """Part of the examples that is never trained on, chosen by a hash of what is in each row."""
    examples: int = 500
    """Training examples of a problem in the plane. They are drawn when they are due: a stream of
    10^12 of them takes no more memory than 500, and 500 others are for validation."""
    noise: float = 0.0
    """Std of what is added to the coordinates of a problem in the plane, which reach from -6 to
    6."""
    steps: int = 450
    global_batch_size: int = 32
    evaluate_every: int | None = None
    checkpoint_every: int | None = 225

    def __post_init__(self) -> None:
        """Check what belongs together."""
        super().__post_init__()
        self.data = str(expand_home("stage.data", self.data))
        check_choice("stage.missing", self.missing, MISSING)
        check_choice("stage.scaling", self.scaling, SCALINGS)
        check_at_least("stage.examples", self.examples, 1)
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"stage.noise={self.noise} must be at least 0 and finite")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"stage.validation_fraction={self.validation_fraction} must lie between 0 and 1; "
                "try stage.validation_fraction=0.2"
            )
        if self.features is not None and not self.features:
            raise ValueError(
                "stage.features=[] leaves the model nothing to see; "
                "null takes all columns but the label"
            )
        if self.label is not None and self.is_named and self.data not in TABLES:
            raise ValueError(
                f"stage.label={self.label} is of a table, and stage.data={self.data} is none; add "
                "stage.data=FILE or leave stage.label out"
            )

    @property
    def is_named(self) -> bool:
        """Whether the examples are a set with a name, and no file."""
        return self.data in self.known

    def check_job(self, job: JobConfig) -> None:
        """Check that the model is one that reads features, too."""
        super().check_job(job)
        of_features(job.role("model").model)

    def unread(self, job: JobConfig) -> dict[str, str]:
        """Settings that change nothing with these examples, and why."""
        found = super().unread(job)
        if self.is_named and self.data not in TABLES:
            found["stage.missing"] = f"stage.data={self.data} has no missing values"
        if self.data in PLANE or self.data in GIVEN_SPLIT:
            why = f"stage.data={self.data} comes with its own validation examples"
            found["stage.validation_fraction"] = why
        if self.data not in PLANE:
            why = f"stage.data={self.data} is not drawn; that is for {', '.join(PLANE)}"
            found |= dict.fromkeys(("stage.examples", "stage.noise"), why)
        return found
