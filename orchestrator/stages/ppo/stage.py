"""Proximal policy optimization as the job around it sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from models.configs import CausalConfig
from orchestrator.config.changes import Change
from orchestrator.stages.rollouts.section import REWARD, RolloutConfig, check_above_0

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig


@dataclass
class PPOConfig(RolloutConfig):
    """Learning from single answers; critic and reference begin as the weights of the policy."""

    roles: ClassVar[tuple[str, ...]] = ("model", "critic", "reference", REWARD)
    audited: ClassVar[str] = "orchestrator.stages.ppo.auditing:audit"
    valued: ClassVar[tuple[str, ...]] = ("critic", REWARD)
    changes: ClassVar[Mapping[str, Change]] = {
        **RolloutConfig.changes,
        **dict.fromkeys(
            ("gamma", "gae_lambda", "value_clip", "kl_target", "kl_horizon"), Change.MATHEMATICS
        ),
    }

    name: str = "ppo"
    gamma: float = 1.0
    """What a reward one token later counts."""
    gae_lambda: float = 1.0
    """How far rewards are looked at instead of values: 1 to the end, 0 to the next token."""
    value_clip: float | None = 0.2
    """How far a value may move in a step and be learned from. None: any distance."""
    epochs: int = 2
    """How often a step learns from each answer."""
    mini_batches: int = 2
    """Optimizer steps in which each answer is seen once."""
    kl_coefficient: float = 0.03
    """What a nat of KL between policy and reference costs, taken from the reward at each token;
    with kl_target, at the first step."""
    kl_estimator: str = "k1"
    """How KL is estimated: k1, k2 or k3 (orchestrator/training/kl.py)."""
    kl_target: float | None = None
    """Nats of an answer that the coefficient is steered to (Ziegler et al. 2019). None: it stays
    as it is."""
    kl_horizon: float = 10_000.0
    """kl_target: answers after which an error of a fifth has changed the coefficient by a fifth."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"stage.{name}={getattr(self, name)} must be from 0 to 1; try stage.{name}=1"
                )
        if self.value_clip is not None:
            check_above_0("value_clip", self.value_clip, 0.2)
        check_above_0("kl_horizon", self.kl_horizon, 10_000.0)
        if self.kl_target is not None:
            check_above_0("kl_target", self.kl_target, 6.0)
            if not self.kl_coefficient:
                raise ValueError(
                    f"stage.kl_target={self.kl_target} steers stage.kl_coefficient, which is 0 and "
                    "stays 0 when multiplied; try stage.kl_coefficient=0.1"
                )

    def unread(self, job: JobConfig) -> dict[str, str]:
        """Settings of a coefficient that is not steered."""
        found = super().unread(job)
        if self.kl_target is None:
            found["stage.kl_horizon"] = "it is for stage.kl_target"
        return found

    def check_job(self, job: JobConfig) -> None:
        """As every stage of rollouts; the critic needs a value head."""
        super().check_job(job)
        critic = job.role("critic").model
        if not isinstance(critic, CausalConfig):
            raise ValueError(
                f"model.family={critic.family} can't have a value head, as a critic has; try "
                "model=gpt_tiny, or stage=grpo, which needs no critic"
            )
