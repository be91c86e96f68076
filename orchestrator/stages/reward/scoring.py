"""What a reward model tells of held-out answers: pairs told apart, calibration, rewards.

R answers, P pairs of them. The margin of a pair is the reward of its better answer less that of the
worse one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data import Tokenizer
from data.messages import cut
from orchestrator.stages.result import Table, share
from orchestrator.stages.reward.rankings import Split

Rewards = NDArray[np.float64]
"""(R,)."""
MOST_PAIRS = 20_000  # of rated answers, each of which can be compared with each
BINS = 10  # of the chance that the model gives the answer which it prefers: 1/2 to 1
LENGTHS = {"shorter": -1, "as_long": 0, "longer": 1}
"""Whether the better answer of a pair has fewer, as many or more tokens."""
SHOWN, LONGEST_SHOWN = 4, 60  # examples in the table of them, characters of an answer


@dataclass(frozen=True)
class HeldOut:
    """The pairs of a split of answers."""

    better: NDArray[np.int64]
    """(P,): rows."""
    worse: NDArray[np.int64]
    longer: NDArray[np.int64]
    """(P,): of LENGTHS."""
    independent: int
    """Examples, of which pairs have answers in common at most."""
    scores: NDArray[np.float64] | None
    """(R,): what rewards are compared with. None: orders alone are learned."""

    @classmethod
    def of(cls, split: Split, seed: int, ordered: bool) -> "HeldOut":
        """Pairs inside of each example, or, of rated answers, any two with different ratings.

        Args:
            split: the held-out answers.
            seed: draws pairs where there are very many.
            ordered: whether orders are learned, and not scores.
        """
        if ordered:
            found = [
                pair for n in range(len(split)) for pair in combinations(split.answers_of(n), 2)
            ]
        else:
            drawn = np.random.default_rng(seed).integers(len(split.ends), size=(MOST_PAIRS, 2))
            first, second = split.scores[drawn[:, 0]], split.scores[drawn[:, 1]]
            drawn[first < second] = drawn[first < second][:, ::-1]
            found = sorted({tuple(pair) for pair in drawn[first != second].tolist()})
        better, worse = np.array(found, dtype=np.int64).reshape(-1, 2).T
        lengths = np.diff(split.ends, prepend=0)
        return cls(
            better,
            worse,
            np.sign(lengths[better] - lengths[worse]),
            len(split),
            None if ordered else split.targets.astype(np.float64),
        )

    def margins(self, rewards: Rewards) -> NDArray[np.float64]:
        """(P,)."""
        own: NDArray[np.float64] = rewards[self.better] - rewards[self.worse]
        return own

    def metrics(self, rewards: Rewards) -> dict[str, float]:
        """As the record has them. A tie is half right."""
        margins = self.margins(rewards)
        right = (1 + np.sign(margins)) / 2
        found = {"accuracy": float(right.mean())} if len(right) else {}
        for name, longer in LENGTHS.items():
            if (self.longer == longer).any():
                found[f"accuracy_{name}"] = float(right[self.longer == longer].mean())
        if self.scores is None:
            found["calibration_error"] = calibration_error(margins)
        else:
            errors, spread = rewards - self.scores, self.scores - self.scores.mean()
            found["explained"] = float(1 - np.square(errors).sum() / np.square(spread).sum())
        found |= {"mean_reward": float(rewards.mean()), "reward_std": float(rewards.std())}
        return {f"validation/{name}": value for name, value in found.items()}

    def table(self, before: Mapping[str, float], after: Mapping[str, float]) -> Table:
        """What got better, with the intervals of 95% (Wilson 1927) of shares of pairs."""
        rows = [("pairs told apart", *self._shares("accuracy", len(self.better), before, after))]
        for name, longer in LENGTHS.items():
            number = int((self.longer == longer).sum())
            if number:
                label = f"the better one {name.replace('_', ' ')}: {number:,} pairs"
                rows.append((label, *self._shares(f"accuracy_{name}", number, before, after)))
        for name, label in (
            ("calibration_error", "calibration error"),
            ("explained", "variance of the ratings explained"),
            ("loss", "loss"),
            ("mean_reward", "mean reward"),
            ("reward_std", "standard deviation of rewards"),
        ):
            if f"validation/{name}" in after:
                values = (f"{own[f'validation/{name}']:.3f}" for own in (before, after))
                rows.append((label, *values))
        columns = (f"{len(self.better):,} held-out pairs", "before", "after")
        return Table("reward_before_and_after", columns, tuple(rows), bold=0)

    def _shares(self, name: str, number: int, *metrics: Mapping[str, float]) -> tuple[str, ...]:
        """Pairs of one example hang together, so that they count as one example in an interval."""
        n = min(number, self.independent)
        return tuple(share(own[f"validation/{name}"], n) for own in metrics)


def reliability(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """(bins, 3): of each bin with pairs their number, mean confidence and share that is right.

    Confidence is the chance that the model gives the answer which it prefers, sigmoid |margin|.
    """
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    right = (1 + np.sign(margins)) / 2
    place = np.minimum(((confidence - 0.5) * 2 * BINS).astype(np.int64), BINS - 1)
    rows = [
        (len(own), confidence[own].mean(), right[own].mean())
        for own in (np.flatnonzero(place == number) for number in range(BINS))
        if len(own)
    ]
    return np.array(rows).reshape(-1, 3)


def calibration_error(margins: NDArray[np.float64]) -> float:
    """Expected calibration error (Naeini et al. 2015): of confidence from what share is right."""
    number, confidence, right = reliability(margins).T
    return float((number * np.abs(confidence - right)).sum() / max(number.sum(), 1))


def save_picture(margins: NDArray[np.float64], path: Path, pairs: str = "held-out pairs") -> None:
    """How often the preferred answer is the better one, over how sure the model is of it.

    Args:
        margins: (P,).
        path: of the picture.
        pairs: what they are called.
    """
    from matplotlib.figure import Figure

    number, confidence, right = reliability(margins).T
    figure = Figure(figsize=(5, 4.5), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.plot([0.5, 1], [0.5, 1], color="#999999", linestyle="--", linewidth=1)
    axes.scatter(confidence, right, s=20 + 400 * number / number.sum(), color="#2a78d6", zorder=2)
    axes.set_xlabel("chance that the model gives the answer it prefers")
    axes.set_ylabel("share of pairs in which that is the better one")
    axes.set_title(
        f"{number.sum():,.0f} {pairs}, calibration error {calibration_error(margins):.3f}",
        loc="left",
        fontsize=12,
        fontweight="bold",
    )
    axes.set_xlim(0.48, 1.02)
    axes.set_ylim(-0.02, 1.02)
    figure.savefig(path, dpi=120)


def examples(split: Split, rewards: Rewards, tokenizer: Tokenizer) -> Table:
    """A few questions whose answers stand with their rewards, in the order of the data."""
    rows = []
    for example in np.linspace(0, len(split) - 1, min(SHOWN, len(split))).astype(np.int64):
        for number, answer in enumerate(split.answers_of(int(example))):
            tokens, start = split.row(answer).tolist(), int(split.starts[answer])
            score = float(split.scores[answer])
            rows.append(
                (
                    _last_line(tokenizer.decode(tokens[:start])) if number == 0 else "",
                    cut(tokenizer.decode(tokens[start:-1]), LONGEST_SHOWN),
                    "" if np.isnan(score) else f"{score:.2f}",
                    f"{rewards[answer]:+.2f}",
                )
            )
    columns = ("question", "answer, the better first", "score", "reward")
    return Table("answers_and_rewards", columns, tuple(rows))


def _last_line(text: str) -> str:
    """What was asked, without the lines before it and the header of the answer."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("<|")]
    return cut(lines[-1], LONGEST_SHOWN) if lines else ""
