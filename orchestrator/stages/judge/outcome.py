"""What a judge is worth: against itself, against what is known, against people.

P pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data.messages import cut
from orchestrator.stages.asking.agreement import alpha, nominal
from orchestrator.stages.asking.verdicts import Verdict
from orchestrator.stages.result import Table, share
from orchestrator.stages.reward.scoring import calibration_error

SHOWN, LONGEST_SHOWN = 6, 50  # rows of the table of disagreements, characters of a text


@dataclass
class Measured:
    """The figures of a judge."""

    metrics: dict[str, float] = field(default_factory=dict)
    rows: list[tuple[str, str]] = field(default_factory=list)
    """Of the table: label, and value with its interval."""
    margins: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """(known,): log odds that the judge gives the better answer of each pair where it is known."""

    def share(self, name: str, label: str, part: float, of: int) -> None:
        """A share with its interval, if it is one of anything."""
        if of:
            self.metrics[name] = part / of
            self.rows.append((label, f"{share(part / of, of)} of {of:,}"))

    def value(self, name: str, label: str, value: float | None) -> None:
        """A figure without an interval, if there is one."""
        if value is not None:
            self.metrics[name] = value
            self.rows.append((label, f"{value:.3f}"))

    def table(self, more: Mapping[str, str]) -> Table:
        """All figures, and what it took."""
        return Table("judge", ("the judge", "value"), (*self.rows, *more.items()))


def measure(found: Sequence[Verdict], people: Mapping[str, float]) -> Measured:
    """The figures of all verdicts.

    Args:
        found: (P,).
        people: what people say of some items, by their ids.
    """
    own = Measured({"pairs": float(len(found))}, [("pairs", f"{len(found):,}")])
    told = [one for one in found if one.value is not None]
    own.share("neither", "neither A nor B answered", len(found) - len(told), len(found))
    own.share("self_disagreement", SWAYED, sum(one.swayed for one in told), len(told))
    # Each order is a choice between places; a judge without a liking for one takes A in half.
    places = [c for one in told for c in (one.chances[0], 1 - (one.chances[1] or 0.0))]
    decided = [c for c in places if c is not None and c != 0.5]
    own.share(
        "first_place", "A preferred, in whatever order", sum(c > 0.5 for c in decided), len(decided)
    )
    known = [one for one in told if one.known]
    if known:
        _calibrate(own, known)
    both = [(one, people[one.item.id]) for one in told if one.item.id in people]
    own.share("with_people", "as people say", sum(o.value == p for o, p in both), len(both))
    units = [(float(one.value or 0.0), said) for one, said in both]
    own.value("alpha", "Krippendorff's alpha with people", alpha(units, nominal))
    return own


SWAYED = "prefers another answer when they change places"


def _calibrate(own: Measured, known: Sequence[Verdict]) -> None:
    """Accuracy, Brier score and expected calibration error, where the better answer is known."""
    chances = np.array([one.chance for one in known], dtype=np.float64)
    gold = np.array([one.item.gold for one in known], dtype=np.float64)
    right = sum(1.0 if one.value == one.item.gold else 0.5 * (one.value == 0.5) for one in known)
    own.share("accuracy", "right, where it is known; undecided is half right", right, len(known))
    own.value("brier", "Brier score", float(np.square(chances - gold).mean()))
    of_better = np.where(gold == 1, chances, 1 - chances)
    with np.errstate(divide="ignore"):
        own.margins = np.log(of_better) - np.log1p(-of_better)
    own.value("calibration_error", "calibration error", calibration_error(own.margins))


def disagreements(found: Sequence[Verdict]) -> tuple[Table, ...]:
    """Pairs on which the judge disagrees with itself, the surest first; no table where none is."""
    swayed = sorted(
        (one for one in found if one.swayed),
        key=lambda one: -abs((one.chances[0] or 0.0) - (one.chances[1] or 0.0)),
    )
    rows = tuple(
        (
            *(cut(text, LONGEST_SHOWN) for text in (one.item.prompt, one.item.first)),
            cut(str(one.item.second), LONGEST_SHOWN),
            *(f"{chance:.2f}" for chance in one.chances if chance is not None),
        )
        for one in swayed[:SHOWN]
    )
    columns = ("question", "first answer", "second answer", "first better, as A", "as B")
    return (Table("disagreements", columns, rows),) if rows else ()
