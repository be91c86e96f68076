"""Proximal policy optimization on every rank (Schulman et al. 2017; Ziegler et al. 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from orchestrator.config import JobConfig, RoleConfig
from orchestrator.stages.examples.resuming import FACTS
from orchestrator.stages.ppo.stage import PPOConfig
from orchestrator.stages.result import Result
from orchestrator.stages.rollouts.driving import rollout_role
from orchestrator.stages.rollouts.prompts import PublishedPrompts
from orchestrator.stages.rollouts.training import RolloutTraining
from orchestrator.stages.rollouts.updating import (
    Asked,
    Experience,
    MicroBatch,
    averaged,
    mini_batches,
    policy_objective,
)
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.advantages import gae, penalised_rewards, whiten
from orchestrator.training.engine import Engine
from orchestrator.training.kl import KLController, kl_estimate
from orchestrator.training.loop import Metrics
from orchestrator.training.objectives import Objective, Summed
from orchestrator.training.optim import learning_rate
from orchestrator.training.policy_loss import token_weights, value_loss
from orchestrator.training.roles import Role
from orchestrator.training.rollout import Rollout, by_parts

COEFFICIENT = "kl_coefficient"  # what a checkpoint says of the KL penalty


@dataclass(frozen=True)
class Valued(Experience):
    """Answers with what the critic expects of them."""

    values: Tensor
    """fp32 (B, T): of what is still to come, before each token is chosen."""
    returns: Tensor
    """fp32 (B, T): what the critic should have said."""


def optimize(config: JobConfig, inputs: PublishedPrompts, run: Run) -> Result:
    """Measure, learn, save, and tell what got better. Every rank calls it."""
    return Training(config, inputs, run).carry_out()


class Training(RolloutTraining):
    """A run of PPO."""

    critic: Role

    def __init__(self, config: JobConfig, published: PublishedPrompts, run: Run) -> None:
        """Make the models, and go to where the run goes on."""
        self.ppo = config.section(PPOConfig)
        super().__init__(config, published, run)
        self.update_critic = self.updates_of(self.critic)
        start = self.checkpoints.start
        at = self.ppo.kl_coefficient if start is None else start.facts[FACTS][COEFFICIENT]
        self.penalty = KLController(at, self.ppo.kl_target, self.ppo.kl_horizon)

    def make(self, role: RoleConfig) -> None:
        """Make policy and critic, as they are where the run goes on, and the reference."""
        super().make(role)
        size = self.published.vocab_size
        self.critic = self.trained_role("critic", rollout_role(self.config, size, "critic"))

    @property
    def trained_roles(self) -> tuple[Role, ...]:
        """Those that a checkpoint keeps."""
        return self.model, self.critic

    @property
    def state(self) -> Mapping[str, Any]:
        """The coefficient that the run goes on with."""
        return {COEFFICIENT: self.penalty.coefficient}

    def take(self, step: int, rate: float) -> Metrics:
        """Answers, judged token by token, from which policy and critic learn."""
        asked = self.ask(step)
        experience = self.expect(self.judge(step, asked))
        learned = self.learn(step, rate, asked, experience)
        told = self.told(step, asked, experience)
        return learned | told | self.steer(told["train/kl_of_an_answer"])

    def expect(self, judged: Experience) -> Valued:
        """The answers with values, returns and whitened advantages."""
        rollout, mask = judged.rollout, judged.rollout.mask
        with self.clock("scoring"):
            values = self.values(rollout)
        kl = kl_estimate(judged.old, judged.reference, self.ppo.kl_estimator)
        rewards = penalised_rewards(judged.rewards, kl, mask, self.penalty.coefficient)
        advantages, returns = gae(rewards, values, mask, self.ppo.gamma, self.ppo.gae_lambda)
        known = replace(judged, advantages=whiten(advantages, mask))
        return Valued(**known.shallow, values=values, returns=returns)

    def learn(self, step: int, rate: float, asked: Asked, experience: Valued) -> Metrics:
        """Optimizer steps of policy and critic in turn, for each mini-batch of each epoch."""
        of_policy = policy_objective("clip", self.ppo, kl_coefficient=0.0)
        of_critic = critic_objective(self.ppo)
        assert self.critic.config.optim is not None  # it is trained
        critic_rate = learning_rate(self.critic.config.optim, step, self.ppo.steps)
        policy: list[Metrics] = []
        critic: list[Metrics] = []
        for _ in range(self.ppo.epochs):
            for batches in mini_batches(experience, asked.ids, self.ppo, self.config.batch.micro):
                policy.append(self.update_policy(step, of_policy, batches, rate))
                critic.append(self.update_critic(step, of_critic, batches, critic_rate, "critic"))
        explained = {"critic/explained_variance": explained_variance(experience)}
        return averaged(policy) | averaged(critic) | explained

    def steer(self, kl: float) -> Metrics:
        """Set the price of KL for the next step by that of an answer of this one."""
        paid = self.penalty.coefficient
        self.penalty.update(kl, self.config.batch.step)
        return {"train/kl_coefficient": paid}

    def values(self, rollout: Rollout) -> Tensor:
        """What the critic expects at each token, (B, T), 0 outside the mask."""
        critic = self.critic.engine
        return by_parts(critic, partial(expected, critic), rollout, self.config.batch.micro)


def expected(critic: Engine, rollout: Rollout) -> Tensor:
    """What a critic says of each token, fp32 (B, T), 0 outside the mask."""
    values: Tensor = critic.forward(rollout.tokens[:, :-1], loss_mask=rollout.mask)
    return values.float()


def critic_objective(stage: PPOConfig) -> Objective[MicroBatch]:
    """The loss of a critic on answers."""

    def objective(engine: Engine, batch: MicroBatch) -> Summed:
        own = batch.of
        assert isinstance(own, Valued)
        mask = own.rollout.mask
        values = expected(engine, own.rollout)
        losses = value_loss(values, own.values, own.returns, mask, stage.value_clip)
        weights = token_weights(mask, stage.aggregation, stage.answer_tokens)
        return Summed((losses * weights).sum())

    return objective


def explained_variance(experience: Valued) -> float:
    """1 - Var(returns - values) / Var(returns) over the tokens of all ranks. Every rank calls it.

    1 for a critic that knows all, 0 for one that knows the mean, and where there is no variance.
    """
    mask, device = experience.rollout.mask, experience.returns.device
    returns = experience.returns[mask].double()
    errors = returns - experience.values[mask].double()
    sums = [float(mask.sum())]
    for own in (returns, errors):
        sums += [float(own.sum()), float(own.square().sum())]
    count, total, squares, error, error_squares = distributed.sum_over_ranks(sums, device)
    variance = squares - total**2 / count
    return 1 - (error_squares - error**2 / count) / variance if variance > 0 else 0.0
