"""Classification as the job around it sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from data.files import expand_home
from models.configs import classifier
from orchestrator.config.changes import Change
from orchestrator.config.stage import TrainingConfig

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig


@dataclass
class ClassifyConfig(TrainingConfig):
    """Training of a classifier on rows of numbers, each with a label."""

    changes: ClassVar[Mapping[str, Change]] = {
        **TrainingConfig.changes,
        **dict.fromkeys(("data", "label", "features", "validation_fraction"), Change.ACCOUNTED),
    }
    measures: ClassVar[Mapping[str, str]] = {
        **TrainingConfig.measures,
        "validation/accuracy": "higher",
    }

    name: str = "classify"
    data: str | None = None
    """Table whose rows are examples, for example FILE.csv or FILE.parquet. None: scikit-learn's
    1,797 handwritten digits of 8 x 8 pixels."""
    label: str | None = None
    """Column of the table with the label, a whole number from 0 to model.classes - 1."""
    features: list[str] | None = None
    """Columns of the table that the model sees, all numbers. None: all but the label."""
    validation_fraction: float = 0.2
    """Part of the examples that is never trained on, chosen by a hash of what is in each row."""
    steps: int = 450
    global_batch_size: int = 32
    evaluate_every: int | None = None
    checkpoint_every: int | None = 225

    def __post_init__(self) -> None:
        """Check what belongs together."""
        super().__post_init__()
        self.data = expand_home("stage.data", self.data)
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"stage.validation_fraction={self.validation_fraction} must lie between 0 and 1; "
                "try stage.validation_fraction=0.2"
            )
        for name in ("label", "features"):
            value = getattr(self, name)
            if self.data is None and value is not None:
                raise ValueError(
                    f"stage.{name}={value} is of a table, and without one the job learns "
                    f"scikit-learn's digits; add stage.data=FILE or leave stage.{name} out"
                )
        if self.features is not None and not self.features:
            raise ValueError(
                "stage.features=[] leaves the model nothing to see; "
                "null takes all columns but the label"
            )

    def check_job(self, job: JobConfig) -> None:
        """Check that the model is one that gives scores of classes, too."""
        super().check_job(job)
        classifier(job.role("model").model)
