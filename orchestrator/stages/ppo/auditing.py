"""Checks of PPO before a long run: those of its policy, and those of its critic."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from orchestrator.config import JobConfig
from orchestrator.stages.ppo.train import Training, Valued, critic_objective
from orchestrator.stages.rollouts.auditing import CLOSE, Finding, of_policy, of_update, wider
from orchestrator.stages.rollouts.prompts import PublishedPrompts
from orchestrator.stages.rollouts.updating import Asked
from orchestrator.stages.run import Run
from orchestrator.training.advantages import gae, penalised_rewards

FAR = 100.0  # what may stand where no token of an answer is


def audit(config: JobConfig, inputs: PublishedPrompts, run: Run) -> Iterator[Finding]:
    """As that of all stages of rollouts, with the critic."""
    training = Training(config, inputs, run)
    asked = training.ask(1)
    judged = training.judge(1, asked)
    yield from of_policy(training, asked, judged)
    with _drawn_head(training.critic.engine.model, config.seed):
        yield from _of_critic(training, asked, training.expect(judged))


def _of_critic(training: Training, asked: Asked, found: Valued) -> Iterator[Finding]:
    """Where values stand, and what advantages take of them."""
    rollout, mask, values = found.rollout, found.rollout.mask, found.values
    close = CLOSE[training.critic.config.engine.precision] * float(values.abs().max())
    last = mask.shape[1] - mask.flip(1).int().argmax(1)  # places of the last tokens in `tokens`
    other = rollout.tokens.clone()
    rows = torch.arange(len(mask), device=mask.device)
    other[rows, last] = (other[rows, last] + 1) % training.published.vocab_size
    moved = float((training.values(replace(rollout, tokens=other)) - values).abs().max())
    yield Finding(
        "critic: a value is that before its token is chosen",
        moved <= close,
        f"another last token moves a value by {moved:.2g}, at most {close:.2g}",
    )
    padded = float((training.values(wider(rollout))[:, : mask.shape[1]] - values).abs().max())
    yield Finding(
        "critic: more padding gives the same values",
        padded <= close,
        f"largest difference {padded:.2g}, at most {close:.2g}",
    )
    rewards = penalised_rewards(found.rewards, found.kl, mask, training.penalty.coefficient)
    how = training.ppo.gamma, training.ppo.gae_lambda
    plain, _ = gae(rewards, values, mask, *how)
    with_far, _ = gae(rewards, torch.where(mask, values, FAR), mask, *how)
    apart = float((plain - with_far).abs().max())
    yield Finding(
        "critic: advantages take nothing from padding",
        apart == 0,
        f"values of {FAR:g} there change them by {apart:.2g}",
    )
    objective = critic_objective(training.ppo)
    yield from of_update(training, training.critic, objective, found, asked)


@contextmanager
def _drawn_head(model: nn.Module, seed: int) -> Iterator[None]:
    """A value head that says something, for the time of the block: a new one says 0 of all."""
    head = model.get_submodule("value")
    kept = [parameter.detach().clone() for parameter in head.parameters()]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, own in zip(head.parameters(), kept, strict=True):
                parameter.copy_(own)
