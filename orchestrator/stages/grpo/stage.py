"""Group-relative policy optimization as the job around it sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from orchestrator.config.changes import Change
from orchestrator.config.checks import check_at_least, check_choice, nearest_multiples
from orchestrator.stages.rollouts.section import RolloutConfig

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig

ADVANTAGES = ("grpo", "dr_grpo", "rloo", "reinforce_pp")  # those of training/advantages.py
LOSSES = ("clip", "gspo", "cispo")  # those of training/policy_loss.py


@dataclass
class GRPOConfig(RolloutConfig):
    """Learning from groups of answers; the reference is the frozen model of the same weights."""

    changes: ClassVar[Mapping[str, Change]] = {
        **RolloutConfig.changes,
        **dict.fromkeys(("group_size", "advantage", "loss"), Change.MATHEMATICS),
    }

    name: str = "grpo"
    group_size: int = 8
    """Answers to each prompt."""
    advantage: str = "grpo"
    """What an answer is worth: grpo, reward less mean of its group, by the standard deviation;
    dr_grpo, not divided; rloo, less the mean of the others; reinforce_pp, reward less KL from each
    token on, whitened over the step (orchestrator/training/advantages.py)."""
    loss: str = "clip"
    """clip (PPO's), gspo (one ratio for an answer, aggregation=sequence), or cispo
    (orchestrator/training/policy_loss.py)."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_choice("stage.advantage", self.advantage, ADVANTAGES)
        check_choice("stage.loss", self.loss, LOSSES)
        check_at_least("stage.group_size", self.group_size, 1)
        if self.group_size == 1 and self.advantage != "reinforce_pp":
            raise ValueError(
                f"stage.group_size=1 leaves stage.advantage={self.advantage} nothing to compare an "
                "answer with; try stage.group_size=8 or stage.advantage=reinforce_pp"
            )
        if self.global_batch_size % self.group_size:
            near = nearest_multiples(self.global_batch_size, self.group_size)
            raise ValueError(
                f"stage.global_batch_size={self.global_batch_size} must be a multiple of "
                f"stage.group_size={self.group_size}; nearest: {near}"
            )
        if self.loss == "gspo" and self.aggregation != "sequence":
            raise ValueError(
                f"stage.loss=gspo has one ratio for each answer, and stage.aggregation="
                f"{self.aggregation} would count it by the answer's length; set "
                "stage.aggregation=sequence"
            )

    @property
    def copies(self) -> int:
        """Answers to each prompt."""
        return self.group_size

    def check_job(self, job: JobConfig) -> None:
        """As every stage of rollouts; k1 has no gradient where it is a term of the loss."""
        super().check_job(job)
        if self.kl_estimator == "k1" and self.kl_coefficient and self.advantage != "reinforce_pp":
            raise ValueError(
                "stage.kl_estimator=k1 has a gradient of 0 on average where it is a term of the "
                "loss; try stage.kl_estimator=k2 or k3, or stage.advantage=reinforce_pp, which "
                "takes it from the reward"
            )
