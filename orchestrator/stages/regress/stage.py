"""Regression as the job around it sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from models.configs import ByHandConfig
from orchestrator.stages.features.section import FeaturesConfig

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig


@dataclass
class RegressConfig(FeaturesConfig):
    """Training of a model that tells a number from a row of numbers.

    Sets with a name: diabetes (scikit-learn's 442 patients, ten features) and maximum, the larger
    of two numbers.
    """

    measures: ClassVar[Mapping[str, str]] = {**FeaturesConfig.measures, "validation/rmse": "lower"}
    known: ClassVar[tuple[str, ...]] = ("diabetes", "maximum")

    name: str = "regress"
    data: str = "diabetes"

    def check_job(self, job: JobConfig) -> None:
        """Check that the outputs are free to be any number, too."""
        super().check_job(job)
        if isinstance(job.role("model").model, ByHandConfig):
            raise ValueError(
                "model.family=mlp_by_hand gives numbers between 0 and 1, as a classifier does; try "
                "model=mlp"
            )
