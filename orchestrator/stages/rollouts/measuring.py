"""The true reward of a policy on held-out prompts."""

import math
from collections.abc import Callable

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


def measure(
    split: Split,
    rule: Rule,
    tokenizer: Tokenizer,
    *,
    write: Callable[[Questions], Rollout],
    kl: Callable[[Rollout], Tensor],
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
        micro: prompts at a time.
        heart: told of each of them.
    """
    rows: list[tuple[int, float, float, int, bool, str]] = []
    for part in evaluation(split, micro, distributed.rank(), distributed.world_size()):
        heart.beat(EVALUATION)
        found = write(part)
        nats = kl(found).sum(1).tolist()
        texts = [tokenizer.decode(row) for row in found.answers(tokenizer.end_of_text)]
        lengths, ended = found.mask.sum(1).tolist(), found.ended.tolist()
        for row in np.flatnonzero(part.counted):
            prompt, reference = part.texts[row]
            reward = rule(prompt, texts[row], reference)
            place = int(part.sample_ids[row])
            rows.append((place, reward, nats[row], lengths[row], ended[row], texts[row]))
    every = sorted(row for own in distributed.gather_objects(rows) for row in own)
    tokens = sum(row[3] for row in every)
    return Measured(
        [row[1] for row in every],
        math.fsum(row[2] for row in every) / tokens,
        tokens / len(every),
        sum(row[4] for row in every) / len(every),
        [row[5] for row in every[:SHOWN]],
    )
