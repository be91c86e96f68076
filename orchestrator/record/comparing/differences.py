"""How runs differ: in what was asked for, in data and code, in how their metrics went.

Reads run folders alone, which may come from somebody else.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.record.code import CODE
from orchestrator.record.figures import Points, read_series, running_mean
from orchestrator.record.reading import read_yaml
from orchestrator.record.redaction import Redactor
from orchestrator.record.runs import Run, mapping

NOT_COMPARED = ("outputs", "tracking.")  # where a run is written, not what it is
WINDOWS = 50  # of a curve on each side of a point, in the running mean that is compared
LEAST = 2  # places on each side by which a scatter is told
WIDTH = 2.0  # standard deviations of one curve's scatter that make its band
LIKELY = 0.95  # of new runs like those of a band of several, that lie in it at a step
MOSTLY = 0.9  # of the steps at which a run that "lies in the band" does so

UNSET = "(unset)"
OVERRIDES = "overrides.yaml"


def settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Settings that are not the same in all runs: their values, without secrets, run by run."""
    flat = [_shown(run) for run in runs]
    names = dict.fromkeys(name for own in flat for name in own)
    return _unlike({n: [own.get(n, UNSET) for own in flat] for n in names if _compared(n)})


def overrides(run: Run) -> list[str]:
    """What was typed, secrets hidden. Raises DataError if that can't be read."""
    found = read_yaml(run.folder / OVERRIDES)
    return [str(word) for word in found] if isinstance(found, list) else []


def data(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Datasets and tokenizer of each run, as fingerprints of their content."""
    return _table([_data_of(run) for run in runs])


def code(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Commit, uncommitted changes, Python, packages and devices of each run."""
    return _table([_code_of(run) for run in runs])


def _shown(run: Run) -> dict[str, str]:
    redactor = Redactor.of_run(run.folder, run.config)
    return {name: str(redactor.settings(v, name)) for name, v in run.settings.items()}


def _compared(name: str) -> bool:
    return not name.startswith(NOT_COMPARED)


def _data_of(run: Run) -> dict[str, str]:
    found = {}
    for event in run.events:
        if event.get("event") == "dataset":
            size = f"{event.get('documents', event.get('examples', '?'))} records"
            name = f"{event.get('name')} {event.get('split')}"
            found[name] = f"{str(event.get('fingerprint'))[:12]}, {size}"
        elif event.get("event") == "tokenizer":
            found["tokenizer"] = f"{event.get('kind')} {str(event.get('fingerprint'))[:12]}"
    return found


def _code_of(run: Run) -> dict[str, str]:
    said = mapping(run.folder / CODE)
    changes = said.get("diff_sha256")
    packages = said.get("packages")
    return {
        "commit": str(said.get("commit"))[:12],
        "uncommitted changes": str(changes)[:12] if changes else "none",
        "python": str(said.get("python")),
        **{str(k): str(v) for k, v in (packages if isinstance(packages, Mapping) else {}).items()},
        "devices": str(said.get("devices")),
        "host": str(said.get("host")),
    }


def _table(found: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    names = dict.fromkeys(name for own in found for name in own)
    return {name: [own.get(name, "-") for own in found] for name in names}


def _unlike(table: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {name: values for name, values in table.items() if len(set(values)) > 1}


@dataclass(frozen=True)
class Band:
    """Where the running mean of a metric lies in runs that are taken as alike.

    Of one run: its running mean, plus and minus WIDTH standard deviations of its own scatter around
    it; this says nothing of how much seeds differ. Of K runs: the prediction interval of a new one,
    mean +- t s sqrt(1 + 1/K) (Student's t of K - 1 degrees of freedom), s pooled over a window.
    """

    metric: str
    steps: list[int]
    low: list[float]
    high: list[float]
    runs: int

    @property
    def least(self) -> int:
        """Places on each side, at least, over which the running means that it compares are taken.

        One run tells of its scatter by them. Of several each point is taken as it is where there
        are few, as evaluations are: each is a mean over much already.
        """
        return _least(self.runs)

    @property
    def half_width(self) -> float:
        """Half of the median width."""
        widths = sorted((h - low) / 2 for low, h in zip(self.low, self.high, strict=True))
        return widths[len(widths) // 2]


@dataclass(frozen=True)
class Place:
    """Where a run lies with respect to a band."""

    share: float
    """Of the compared steps at which its running mean is inside."""
    compared: int
    """Steps that both have."""
    last: int
    """The last of them."""
    leaves: int | None
    """The step from which it stays outside to the end. None: it ends inside."""
    beyond: float
    """How far above (positive) or below (negative) the band it ends; 0 inside."""

    @property
    def inside(self) -> bool:
        """Whether it lies in the band nearly everywhere, and at the end."""
        return self.leaves is None and self.share >= MOSTLY


def smooth(points: Points, least: int = LEAST) -> dict[int, float]:
    """The running mean of a curve by its steps, without what is not finite.

    Args:
        points: the curve.
        least: places on each side, at least, that a mean takes in.
    """
    steps, values = points
    means = running_mean(values, _half(len(steps), least))
    pairs = zip(steps, means, strict=True)
    return {step: float(mean) for step, mean in pairs if math.isfinite(mean)}


def band_of(curves: Sequence[Points], metric: str, *, by_factors: bool = False) -> Band:
    """The band of runs that are taken as alike.

    Args:
        curves: of the metric, one of each run.
        metric: its name.
        by_factors: of several runs, whether they differ by factors rather than by amounts, as
            small losses and divergences do: the interval is that of the logarithms. Steps at which
            a value is not above 0 are left out.

    Raises:
        ValueError: they have fewer than two steps in common.
    """
    import numpy as np

    means = [smooth(points, _least(len(curves))) for points in curves]
    steps = sorted(set.intersection(*(set(own) for own in means)))
    if by_factors:
        steps = [step for step in steps if all(own[step] > 0 for own in means)]
    if len(steps) < 2:
        raise ValueError(
            f"--metric={metric}: the runs of the band have measured it at {len(steps)} steps in "
            "common, and a band needs two; choose another with --metric"
        )
    table = np.array([[own[step] for step in steps] for own in means])  # (K, steps)
    table = np.log(table) if by_factors else table
    if len(curves) == 1:
        values = dict(zip(*curves[0], strict=True))
        squares = (np.array([values[step] for step in steps]) - table[0]) ** 2
        variance, factor = np.full(len(steps), np.nanmean(squares)), WIDTH
    else:
        from scipy.stats import t

        pooled = running_mean(list(table.var(axis=0, ddof=1)), _half(len(steps), LEAST))
        variance, count = np.array(pooled), len(curves)
        factor = float(t.ppf((1 + LIKELY) / 2, count - 1)) * (1 + 1 / count) ** 0.5
    middle, margin = table.mean(axis=0), factor * np.sqrt(variance)
    low, high = (np.exp(x) if by_factors else x for x in (middle - margin, middle + margin))
    return Band(metric, steps, list(low), list(high), len(curves))


def _least(runs: int) -> int:
    """See `Band.least`."""
    return LEAST if runs == 1 else 0


def _half(points: int, least: int) -> int:
    """Half of the window of a running mean."""
    return max(least, points // WINDOWS)


def place(points: Points, band: Band) -> Place | None:
    """Where a run's curve lies; None if it shares no step with the band."""
    means = smooth(points, band.least)
    beyond = []
    for step, low, high in zip(band.steps, band.low, band.high, strict=True):
        if step in means:
            value = means[step]
            beyond.append((step, max(value - high, 0.0) + min(value - low, 0.0)))
    if not beyond:
        return None
    leaves = None
    for step, distance in reversed(beyond):
        if distance == 0:
            break
        leaves = step
    inside = sum(distance == 0 for _, distance in beyond)
    last, distance = beyond[-1]
    return Place(inside / len(beyond), len(beyond), last, leaves, distance)


def curves(run: Run) -> dict[str, Points]:
    """The metrics of a run over its steps; empty if the journal can't be read."""
    try:
        return read_series(run.folder)
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def plain(place: Place) -> dict[str, Any]:
    """For programs."""
    return {"inside": place.inside, **vars(place)}
