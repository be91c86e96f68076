"""Group-relative policy optimization on every rank (Shao et al. 2024), step by step."""

from dataclasses import replace

from orchestrator.config import JobConfig
from orchestrator.stages.grpo.stage import GRPOConfig
from orchestrator.stages.result import Result
from orchestrator.stages.rollouts.prompts import PublishedPrompts
from orchestrator.stages.rollouts.training import RolloutTraining
from orchestrator.stages.rollouts.updating import (
    Asked,
    Experience,
    averaged,
    mini_batches,
    over_all,
    policy_objective,
    spread,
)
from orchestrator.stages.run import Run
from orchestrator.training.advantages import (
    group_relative,
    penalised_rewards,
    returns_to_go,
    whiten,
)
from orchestrator.training.kl import kl_estimate
from orchestrator.training.loop import Metrics


def optimize(config: JobConfig, inputs: PublishedPrompts, run: Run) -> Result:
    """Measure, learn, save, and tell what got better. Every rank calls it."""
    return Training(config, inputs, run).carry_out()


class Training(RolloutTraining):
    """A run of GRPO, or one of its kin."""

    def __init__(self, config: JobConfig, published: PublishedPrompts, run: Run) -> None:
        """Make the models, and go to where the run goes on."""
        self.grpo = config.section(GRPOConfig)
        self.copies = self.grpo.group_size
        super().__init__(config, published, run)

    def take(self, step: int, rate: float) -> Metrics:
        """Answers to each prompt, judged, compared within their groups, and learned from."""
        asked = self.ask(step)
        experience, equal = self.compare(asked, self.judge(step, asked))
        in_loss = 0.0 if self.grpo.advantage == "reinforce_pp" else self.grpo.kl_coefficient
        objective = policy_objective(self.grpo.loss, self.grpo, kl_coefficient=in_loss)
        updates = [
            self.update_policy(step, objective, batches, rate)
            for _ in range(self.grpo.epochs)
            for batches in mini_batches(experience, asked.ids, self.grpo, self.config.batch.micro)
        ]
        return (
            averaged(updates) | self.told(step, asked, experience) | {"train/equal_groups": equal}
        )

    def compare(self, asked: Asked, judged: Experience) -> tuple[Experience, float]:
        """The answers with their advantages, and the share of groups of one reward."""
        mask, how = judged.rollout.mask, self.grpo.advantage
        rewards, ours = over_all(asked.ids, judged.rewards)
        groups = rewards.view(-1, self.copies)
        equal = (groups == groups[:, :1]).all(1).double().mean().item()
        relative = group_relative(groups, how).flatten()[ours].float().to(mask.device)
        advantages = spread(relative, mask)
        if how == "reinforce_pp":
            kl = kl_estimate(judged.old, judged.reference, self.grpo.kl_estimator)
            penalised = penalised_rewards(relative, kl, mask, self.grpo.kl_coefficient)
            advantages = whiten(returns_to_go(penalised, mask), mask)
        return replace(judged, advantages=advantages), equal
