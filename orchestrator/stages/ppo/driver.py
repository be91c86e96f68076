"""PPO in the process that starts the job: what all stages of rollouts do there."""

from orchestrator.stages.rollouts.driving import estimate, outline, prepare

__all__ = ["estimate", "outline", "prepare"]
