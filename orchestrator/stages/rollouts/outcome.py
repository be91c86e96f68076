"""What got better: the true reward of held-out prompts before and after, and a few answers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data.messages import cut
from orchestrator.stages.result import Table

CONFIDENCE = 0.95
RESAMPLES = 2000
SHOWN = 6  # answers in the table of them
LONGEST_SHOWN = 70  # characters of a text in it


@dataclass(frozen=True)
class Measured:
    """What an evaluation found, as plain numbers, for a checkpoint."""

    rewards: list[float]
    """Of an answer to each held-out prompt, in their order."""
    kl: float
    """Of policy and reference, nats per token of these answers."""
    tokens: float
    """Of an answer, on average."""
    ended: float
    """Share of the answers that ended by themselves."""
    answers: list[str]
    """The first few."""
    learned: list[float] | None = None
    """As `rewards`, by the reward model that the policy learns from. None: there is none."""

    @property
    def metrics(self) -> dict[str, float]:
        """As the record has them."""
        learned = self.learned
        return {
            "validation/reward": float(np.mean(self.rewards)),
            **({} if learned is None else {"validation/learned_reward": float(np.mean(learned))}),
            "validation/kl": self.kl,
            "validation/answer_tokens": self.tokens,
            "validation/ended": self.ended,
        }

    @property
    def plain(self) -> dict[str, Any]:
        """What `Measured(**plain)` takes."""
        return asdict(self)


def gain_metrics(before: Measured, after: Measured, seed: int) -> dict[str, float]:
    """The gain in reward and the ends of its interval, as the record has them."""
    names = ("reward_gain", "reward_gain_low", "reward_gain_high")
    found = gain(before.rewards, after.rewards, seed)
    return {f"answers/{name}": value for name, value in zip(names, found, strict=True)}


def gain(before: Sequence[float], after: Sequence[float], seed: int) -> tuple[float, float, float]:
    """Mean difference of paired numbers, and the ends of its interval by the bootstrap.

    Percentiles over resampled pairs (Efron 1979).
    """
    return _interval(np.subtract(after, before), seed)


def _interval(values: Any, seed: int) -> tuple[float, float, float]:
    own = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(own), (RESAMPLES, len(own)))
    means = own[drawn].mean(1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(own.mean()), float(low), float(high)


def tables(
    before: Measured,
    after: Measured,
    asked: Sequence[tuple[str, str]],
    *,
    rule: str,
    kl_limit: float | None,
    seed: int,
) -> tuple[Table, ...]:
    """What got better, by how much and how sure that is; and answers before and after.

    Args:
        before: training.
        after: training.
        asked: prompt and answer of the data of the first prompts.
        rule: the true reward.
        kl_limit: the bound of KL.
        seed: of the resampling.
    """
    numbers = "{:.3f} ({:.3f} to {:.3f})".format
    bound = "no bound" if kl_limit is None else f"at most {kl_limit:g}"
    rewards = [(f"reward: {rule}", before.rewards, after.rewards)]
    if before.learned is not None and after.learned is not None:
        rewards = [
            (f"true reward: {rule}", before.rewards, after.rewards),
            ("reward by the model it learns from", before.learned, after.learned),
        ]
    rows = (
        *(
            (name, *(numbers(*_interval(own, seed)) for own in pair), numbers(*gain(*pair, seed)))
            for name, *pair in rewards
        ),
        ("KL, nats per token", f"{before.kl:.4f}", f"{after.kl:.4f}", bound),
        ("tokens of an answer", f"{before.tokens:.1f}", f"{after.tokens:.1f}", ""),
        ("answers that end", f"{before.ended:.1%}", f"{after.ended:.1%}", ""),
    )
    columns = (f"{len(after.rewards):,} held-out prompts", "before", "after", "gain")
    shown = tuple(
        (cut(prompt.splitlines()[-1], LONGEST_SHOWN), *(cut(own, LONGEST_SHOWN) for own in texts))
        for (prompt, answer), *pair in zip(asked, before.answers, after.answers, strict=False)
        for texts in [(*pair, answer)]
    )
    return (
        Table("reward_before_and_after", columns, rows, bold=0),
        Table("examples", ("prompt ends with", "before", "after", "in the data"), shown),
    )
