"""How far those who judge the same things agree."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence


def nominal(one: float, two: float) -> float:
    """0 for the same value, 1 for different ones."""
    return float(one != two)


def interval(one: float, two: float) -> float:
    """The square of the difference."""
    return (one - two) ** 2


def alpha(
    units: Iterable[Sequence[float]], distance: Callable[[float, float], float]
) -> float | None:
    """Krippendorff's alpha, 1 - D_o / D_e (Krippendorff, Computing Alpha-Reliability, 2011).

    Args:
        units: the values that were given to each item; those with less than two count nothing.
        distance: the squared difference of two values.
    """
    paired = [values for values in units if len(values) > 1]
    totals: dict[float, int] = defaultdict(int)
    observed = 0.0
    for values in paired:
        for value in values:
            totals[value] += 1
        observed += sum(distance(one, two) for one in values for two in values) / (len(values) - 1)
    n = sum(totals.values())
    expected = sum(
        totals[one] * totals[two] * distance(one, two) for one in totals for two in totals
    )
    return 1 - (n - 1) * observed / expected if expected else None
