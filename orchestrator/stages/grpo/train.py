"""Group-relative policy optimization on every rank (Shao et al. 2024), step by step."""

from dataclasses import replace

from torch import Tensor

from orchestrator.config import JobConfig
from orchestrator.stages.grpo.stage import GRPOConfig
from orchestrator.stages.result import Result
from orchestrator.stages.rollouts.prompts import PublishedPrompts
from orchestrator.stages.rollouts.resampling import exchanged, sources_of
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
        super().__init__(config, published, run)

    def take(self, step: int, rate: float) -> Metrics:
        """Answers to each prompt, judged, compared within their groups, and learned from."""
        asked, rounds = self.ask_until_rewards_differ(step)
        experience, equal = self.compare(self.judge(step, asked))
        in_loss = 0.0 if self.grpo.advantage == "reinforce_pp" else self.grpo.kl_coefficient
        objective = policy_objective(self.grpo.loss, self.grpo, kl_coefficient=in_loss)
        updates = [
            self.update_policy(step, objective, batches, rate)
            for _ in range(self.grpo.epochs)
            for batches in mini_batches(experience, asked.ids, self.grpo, self.config.batch.micro)
        ]
        told = averaged(updates) | self.told(step, asked, experience)
        return told | {"train/equal_groups": equal, "train/sampling_rounds": float(rounds)}

    def ask_until_rewards_differ(self, step: int) -> tuple[Asked, int]:
        """Answers to this step's prompts, and how often prompts were asked for them.

        Groups of one reward give their places to those of further prompts whose rewards differ,
        until none is left or stage.sampling_rounds are over. A prompt is asked once either way.
        """
        assert self.grpo.sampling_rounds is not None  # filled in
        asked, rounds = self.ask(step), 1
        if self.grpo.sampling_rounds == rounds:
            return asked, rounds
        uneven = self.uneven(asked)
        while rounds < self.grpo.sampling_rounds and not uneven.all():
            rounds += 1
            self.position += len(uneven)
            further = self.ask(step)
            sources = sources_of(uneven, self.uneven(further), self.copies)
            asked = exchanged(asked, further, self.places, sources, self.tokens.end_of_text)
            uneven[[place // self.copies for place in sources]] = True
        return asked, rounds

    def uneven(self, asked: Asked) -> Tensor:
        """Whether rewards differ within each group of the step, bool (N,). Every rank calls it."""
        with self.clock("scoring"):
            groups = self.groups(self.rewards(asked))
        return (groups != groups[:, :1]).any(1)

    def groups(self, rewards: Tensor) -> Tensor:
        """Those of all answers of the step, (N, G), by this rank's, (B,). Every rank calls it."""
        return over_all(self.places, rewards).view(-1, self.copies)

    def compare(self, judged: Experience) -> tuple[Experience, float]:
        """The answers with their advantages, and the share of groups of one reward."""
        mask, how = judged.rollout.mask, self.grpo.advantage
        groups = self.groups(judged.rewards)
        equal = (groups == groups[:, :1]).all(1).double().mean().item()
        relative = group_relative(groups, how).flatten()[self.places].float().to(mask.device)
        advantages = spread(relative, mask)
        if how == "reinforce_pp":
            kl = kl_estimate(judged.old, judged.reference, self.grpo.kl_estimator)
            penalised = penalised_rewards(relative, kl, mask, self.grpo.kl_coefficient)
            advantages = whiten(returns_to_go(penalised, mask), mask)
        return replace(judged, advantages=advantages), equal
