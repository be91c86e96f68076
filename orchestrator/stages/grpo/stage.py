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
ROUNDS = 3  # of most steps


@dataclass
class GRPOConfig(RolloutConfig):
    """Learning from groups of answers; the reference is the frozen model of the same weights."""

    changes: ClassVar[Mapping[str, Change]] = {
        **RolloutConfig.changes,
        **dict.fromkeys(("group_size", "advantage", "loss", "sampling_rounds"), Change.MATHEMATICS),
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

    sampling_rounds: int | None = None
    """How often a step may ask as many prompts, in exchange for groups whose answers all got the
    same reward and teach nothing (DAPO's dynamic sampling). 1: they stay. None: 3, and 1 where that
    can't be, with advantage=reinforce_pp, off_policy_steps=1 or evaluate_every=null."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.sampling_rounds is None:
            can_t = self.advantage == "reinforce_pp" or self.off_policy_steps
            self.sampling_rounds = 1 if can_t or self.evaluate_every is None else ROUNDS
        check_at_least("stage.sampling_rounds", self.sampling_rounds, 1)
        if self.sampling_rounds > 1 and self.advantage == "reinforce_pp":
            raise ValueError(
                f"stage.sampling_rounds={self.sampling_rounds} exchanges groups of one reward, and "
                "stage.advantage=reinforce_pp compares no groups; try stage.sampling_rounds=1"
            )
        if self.sampling_rounds > 1 and self.off_policy_steps:
            raise ValueError(
                f"stage.sampling_rounds={self.sampling_rounds} asks until rewards differ, and "
                "stage.off_policy_steps=1 has asked the next prompts by then; try one of them alone"
            )
        if self.sampling_rounds > 1 and self.evaluate_every is None:
            raise ValueError(
                f"stage.evaluate_every=null is once an epoch, which has no fixed number of steps "
                f"with stage.sampling_rounds={self.sampling_rounds}; try stage.evaluate_every=25"
            )
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
