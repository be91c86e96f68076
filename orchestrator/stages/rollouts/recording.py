"""What the record says of the answers of a step."""

from torch import Tensor

from orchestrator.stages.rollouts.updating import (
    Experience,
    kl_of_an_answer,
    mean_over_tokens,
)
from orchestrator.training import distributed
from orchestrator.training.loop import Metrics


def metrics(experience: Experience) -> Metrics:
    """Means over the answers of all ranks, or their tokens. Every rank calls it."""
    rollout, mask = experience.rollout, experience.rollout.mask
    apart = (experience.old - rollout.sampled).abs().exp()
    sums = [len(mask), *(float(x.sum()) for x in (experience.rewards, mask, rollout.ended))]
    count, rewards, tokens, ended = distributed.sum_over_ranks(sums, mask.device)
    return {
        "train/reward": rewards / count,
        "train/kl": mean_over_tokens(experience.kl, mask),
        "train/kl_of_an_answer": kl_of_an_answer(experience),
        "train/answer_tokens": tokens / count,
        "train/ended": ended / count,
        "train/sampler_mismatch": mean_over_tokens(apart, mask),
    }


def mean_over_answers(values: Tensor) -> float:
    """Mean of numbers (B,) of the answers of all ranks. Every rank calls it."""
    total, count = distributed.sum_over_ranks([float(values.sum()), len(values)], values.device)
    return total / count
