"""What answers are worth, and whether a run may go on by that."""

from collections.abc import Collection, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.stages.rewards import Rule
from orchestrator.stages.rollouts.section import RolloutConfig
from orchestrator.stages.rollouts.updating import Asked
from orchestrator.training import distributed
from orchestrator.training.loop import evaluating
from orchestrator.training.rankings import last_values
from orchestrator.training.roles import Role
from orchestrator.training.rollout import Rollout, slices

MOST_APART = 1.2
"""Mean of exp |difference| of log-probabilities at which an engine computes something else than the
policy; rounding alone stays below 1.05."""
KL_STEPS = 5
"""Steps by whose mean KL a policy is too far away: that of one step, of a few answers, jumps."""


class RanAway(RuntimeError):
    """A policy is too far from its reference or from who writes for it, or a reward is no number;
    raised on every rank."""


def by_rule(rule: Rule, asked: Asked, device: torch.device) -> Tensor:
    """The reward of each answer, fp32 (B,)."""
    pairs = zip(asked.prompts, asked.texts, strict=True)
    found = [rule(prompt, text, reference) for (prompt, reference), text in pairs]
    return torch.tensor(found, device=device)


def by_model(role: Role, rollout: Rollout, micro: int) -> Tensor:
    """The reward of each answer by a reward model, fp32 (B,). Every rank calls it.

    It is the value at the last token of the answer: the one that ends it, if it was not cut off.

    Args:
        role: the model, which has a value head.
        rollout: the answers.
        micro: answers in one forward pass.
    """
    places = torch.arange(1, rollout.tokens.shape[1], device=rollout.mask.device)
    lengths = (rollout.mask * places).amax(1) + 1  # (B,), tokens of a prompt with its answer
    with evaluating(role.engine):
        found = [
            last_values(role.engine.forward(rollout.tokens[rows]).float(), lengths[rows])
            for rows in slices(len(rollout), micro)
        ]
    return torch.cat(found)


def check_rewards(step: int, ids: NDArray[np.int64], rewards: Tensor) -> None:
    """Raise RanAway unless all rewards are numbers. Every rank calls it.

    Args:
        step: for the message.
        ids: (B,), numbers of this rank's answers.
        rewards: (B,), theirs.
    """
    own = [int(number) for number in ids[~rewards.isfinite().cpu().numpy()]]
    if bad := sorted(_flat(distributed.gather_objects(own))):
        raise RanAway(
            f"the reward of {len(bad)} answers of step {step} is no number, the first is that "
            f"of answer {bad[0]}; look at what gives it"
        )


def check_sampler(step: int, apart: float) -> None:
    """Raise RanAway if an engine with a policy's own weights says something else of its answers.

    Args:
        step: for the message.
        apart: mean of exp |difference| of their log-probabilities, over the tokens of all ranks.
    """
    if not apart <= MOST_APART:
        raise RanAway(
            f"the engine and the policy of step {step} have the same weights and differ by "
            f"{apart:.4g} in what they say of a token (mean exp |difference|, at most "
            f"{MOST_APART:g}), so that one computes something else; try engine.precision=fp32, or "
            "leave stage.engine_kind out"
        )


def check_distance(step: int, kls: Collection[float], stage: RolloutConfig) -> None:
    """Raise RanAway if a policy is too far from its reference.

    Args:
        step: for the message.
        kls: of the last steps up to this one, nats per token, over the answers of all ranks.
        stage: the settings.
    """
    kl = sum(kls) / len(kls)
    if stage.kl_limit is not None and not kl <= stage.kl_limit:
        mean = "" if len(kls) == 1 else f" (mean of {len(kls)} steps)"
        raise RanAway(
            f"the policy of step {step} is {kl:.4g} nats a token away from its reference{mean}, "
            f"beyond stage.kl_limit={stage.kl_limit:g}; lower optim.learning_rate, or raise "
            f"stage.kl_coefficient={stage.kl_coefficient:g}"
        )


def _flat(lists: Iterable[Iterable[int]]) -> list[int]:
    return [number for own in lists for number in own]
