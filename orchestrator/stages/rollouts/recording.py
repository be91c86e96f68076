"""What the record says of the answers of a step."""

from typing import Any

from torch import Tensor

from data import Tokenizer
from orchestrator.stages.rollouts.updating import (
    Asked,
    Experience,
    kl_of_an_answer,
    mean_over_tokens,
)
from orchestrator.training import distributed
from orchestrator.training.loop import Metrics

DECIMALS = 5


def rows(asked: Asked, experience: Experience, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """A rank's answers as they are kept."""
    rollout = asked.rollout
    return [
        {
            "answer_id": int(number),
            "prompt": prompt,
            "answer": text,
            "reference": reference,
            "reward": round(float(experience.rewards[row]), DECIMALS),
            "ended": bool(rollout.ended[row]),
            "tokens": [
                tokenizer.decode([token]) for token in rollout.tokens[row, 1:][own].tolist()
            ],
            "token_kl": _rounded(experience.kl[row][own]),
            "token_advantages": _rounded(experience.advantages[row][own]),
        }
        for row, (number, (prompt, reference), text, own) in enumerate(
            zip(asked.ids, asked.prompts, asked.texts, rollout.mask, strict=True)
        )
    ]


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


def _rounded(values: Tensor) -> list[float]:
    return [round(value, DECIMALS) for value in values.tolist()]
