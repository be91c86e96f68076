"""What got better: the true reward of held-out prompts before and after, and a few answers."""

from collections.abc import Callable, Sequence
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
    averaged: Measured | None = None,
) -> tuple[Table, ...]:
    """What got better, by how much and how sure that is; and answers before and after.

    Args:
        before: training.
        after: training.
        asked: prompt and answer of the data of the first prompts.
        rule: the true reward.
        kl_limit: the bound of KL.
        seed: of the resampling.
        averaged: by the averaged weights. None: there are none.
    """
    numbers = "{:.3f} ({:.3f} to {:.3f})".format
    bound = "no bound" if kl_limit is None else f"at most {kl_limit:g}"
    looks = {"before": before, "after": after}
    looks |= {} if averaged is None else {"averaged": averaged}

    def row(name: str, told: Callable[[Measured], str], last: str) -> tuple[str, ...]:
        return (name, *(told(own) for own in looks.values()), last)

    def reward(name: str, of: Callable[[Measured], Any]) -> tuple[str, ...]:
        change = numbers(*gain(of(before), of(after), seed))
        return row(name, lambda own: numbers(*_interval(of(own), seed)), change)

    learned = before.learned is not None
    rows = (
        reward(f"true reward: {rule}" if learned else f"reward: {rule}", lambda own: own.rewards),
        *(
            [reward("reward by the model it learns from", lambda own: own.learned)]
            if learned
            else []
        ),
        row("KL, nats per token", lambda own: f"{own.kl:.4f}", bound),
        row("tokens of an answer", lambda own: f"{own.tokens:.1f}", ""),
        row("answers that end", lambda own: f"{own.ended:.1%}", ""),
    )
    columns = (f"{len(after.rewards):,} held-out prompts", *looks, "gain")
    shown = tuple(
        (cut(prompt.splitlines()[-1], LONGEST_SHOWN), *(cut(own, LONGEST_SHOWN) for own in texts))
        for (prompt, answer), *pair in zip(asked, before.answers, after.answers, strict=False)
        for texts in [(*pair, answer)]
    )
    return (
        Table("reward_before_and_after", columns, rows, bold=0),
        Table("examples", ("prompt ends with", "before", "after", "in the data"), shown),
    )
