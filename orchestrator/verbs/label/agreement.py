"""How far labellers agree: with each other, and with what is known."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from orchestrator.stages.asking.agreement import alpha, interval, nominal
from orchestrator.stages.asking.items import Item
from orchestrator.verbs.label.store import Judgement


@dataclass(frozen=True)
class Labeller:
    """The work of one person."""

    name: str
    judged: int
    passed_over: int
    seconds: float
    """Median of an item."""
    known: int
    """Items judged of which the answer is known."""
    right: int
    left: int
    """Comparisons won by the answer on the left, of `decided`."""
    decided: int


@dataclass(frozen=True)
class Report:
    """What the judgements are worth together."""

    labellers: list[Labeller]
    several: int
    """Items that two labellers or more have judged."""
    same: float | None
    """Share of the pairs of judgements of one item that are equal; None: there is no pair."""
    alpha: float | None
    """Krippendorff's alpha, 1 for full agreement, 0 for chance; None: there is no pair, or all
    judgements are the same."""


def report(items: Sequence[Item], judgements: Sequence[Judgement]) -> Report:
    """Statistics of all judgements that were not undone."""
    by_id = {item.id: item for item in items}
    people: dict[str, list[Judgement]] = defaultdict(list)
    units: dict[str, list[float]] = defaultdict(list)
    for own in judgements:
        people[own.labeller].append(own)
        if own.value is not None:
            units[own.item].append(own.value)
    rates = any(item.second is None for item in items)
    several = [values for values in units.values() if len(values) > 1]
    pairs = [
        (one, two) for values in several for at, one in enumerate(values) for two in values[:at]
    ]
    return Report(
        [_labeller(name, own, by_id) for name, own in sorted(people.items())],
        len(several),
        sum(one == two for one, two in pairs) / len(pairs) if pairs else None,
        alpha(several, interval if rates else nominal),
    )


def _labeller(name: str, own: Sequence[Judgement], items: dict[str, Item]) -> Labeller:
    valued = [one for one in own if one.value is not None]
    known = [one for one in valued if items[one.item].gold is not None]
    decided = [one for one in valued if items[one.item].second is not None and one.value != 0.5]
    return Labeller(
        name,
        len(valued),
        len(own) - len(valued),
        median(one.seconds for one in own),
        len(known),
        sum(one.value == items[one.item].gold for one in known),
        sum((one.value == 1) == one.first_left for one in decided),
        len(decided),
    )
