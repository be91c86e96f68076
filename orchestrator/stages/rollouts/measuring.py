"""The true reward of a policy on held-out prompts."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor

from cluster.heart import Heart
from data import Tokenizer
from orchestrator.stages.examples.feeding import evaluation
from orchestrator.stages.rewards import Rule
from orchestrator.stages.rollouts.outcome import SHOWN, Measured
from orchestrator.stages.rollouts.prompts import Questions, Split
from orchestrator.training import distributed
from orchestrator.training.patience import EVALUATION
from orchestrator.training.rollout import Rollout


class Answer(NamedTuple):
    """To a held-out prompt; in order by its place in the split."""

    place: int
    reward: float
    learned: float
    """By the reward model; 0 where there is none."""
    nats: float
    """Between policy and reference."""
    tokens: int
    ended: bool
    text: str


def measure(
    split: Split,
    rule: Rule,
    tokenizer: Tokenizer,
    *,
    write: Callable[[Questions], Rollout],
    kl: Callable[[Rollout], Tensor],
    learned: Callable[[Rollout], Tensor] | None,
    micro: int,
    heart: Heart,
) -> Measured:
    """The reward of an answer to each prompt of a split. Every rank calls it.

    Args:
        split: what is asked.
        rule: gives the reward.
        tokenizer: of the policy.
        write: lets the policy answer some of the prompts.
        kl: nats between policy and reference at each token, (B, T), 0 outside the mask.
        learned: gives the reward of each answer by a model, (B,). None: there is none.
        micro: prompts at a time.
        heart: told of each of them.
    """
    answers: list[Answer] = []
    for part in evaluation(split, micro, distributed.rank(), distributed.world_size()):
        heart.beat(EVALUATION)
        found = write(part)
        nats = kl(found).sum(1).tolist()
        texts = [tokenizer.decode(row) for row in found.answers(tokenizer.end_of_text)]
        told = [0.0] * len(texts) if learned is None else learned(found).tolist()
        lengths, ended = found.mask.sum(1).tolist(), found.ended.tolist()
        for row in np.flatnonzero(part.counted):
            prompt, reference = part.texts[row]
            reward, place = rule(prompt, texts[row], reference), int(part.sample_ids[row])
            own = reward, told[row], nats[row], lengths[row], ended[row], texts[row]
            answers.append(Answer(place, *own))
    every = sorted(one for own in distributed.gather_objects(answers) for one in own)
    tokens = sum(one.tokens for one in every)
    return Measured(
        [one.reward for one in every],
        math.fsum(one.nats for one in every) / tokens,
        tokens / len(every),
        sum(one.ended for one in every) / len(every),
        [one.text for one in every[:SHOWN]],
        None if learned is None else [one.learned for one in every],
    )
