"""The gate for documents: do candidate shards look like the shards of a reference?

1. Pairs of a pseudo candidate and a pseudo reference, of the sizes of the real ones, are drawn from
   the reference: once from the groups of documents inside its sketches, once from whole shards.
2. The distances of these pairs give thresholds (calibration.py) for all statistics together; the
   larger of the two counts.
3. What lies above is put into words.
The stated rate of false alarms holds for shards that are random parts of one set. Where they differ
among themselves (sorted sources), whole shards widen the thresholds, the more reliably the more
reference shards there are.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.drift.calibration import (
    SMALLEST,
    Floats,
    generator,
    rate_difference,
    student_inflation,
    thresholds,
    unseen,
)
from data.drift.document_statistics import STATISTICS, Arrays, Statistic
from data.drift.drift_words import describe
from data.drift.gate_report import Finding, GateReport
from data.drift.sketches import GROUPS, SIZES, Sketch
from data.files import DataError

ALPHA = 0.01
REPLICATES = 999
DRAWS = 1 << 22  # group counts in memory at once
REPEATS = "repeats across shards"


def gate(
    reference: Sequence[Sketch],
    candidate: Sequence[Sketch],
    *,
    alpha: float = ALPHA,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> GateReport:
    """Compare the shards of a candidate with those of a reference.

    Args:
        reference: a sketch per shard.
        candidate: a sketch per shard; one or more.
        alpha: chance that an unchanged candidate is refused.
        replicates: simulated pairs; at least 10 / alpha tell the quantile well.
        seed: of the simulation; the same sketches and seed give the same report.

    Raises:
        DataError: a side has no documents.
    """
    for name, side in (("reference", reference), ("candidate", candidate)):
        if not sum(sketch.size("documents") for sketch in side):
            raise DataError(f"the {name} of the drift gate has no documents ({len(side)} shards)")
    languages = sorted({name for s in (*reference, *candidate) for name in s.languages})
    units = _stack(reference, languages)  # name -> (R, GROUPS, K)
    shards = _stack(candidate, languages)
    before = {name: counts.sum((0, 1)) for name, counts in units.items()}
    after = {name: counts.sum((0, 1)) for name, counts in shards.items()}
    notes, statistics = _comparable(before, after, reference, candidate)
    observed = {s.name: float(s.between(after, before)) for s in statistics}
    rng = generator(seed, "documents")
    null = _simulate(units, shards, statistics, replicates, rng, whole_shards=False)
    level = alpha / (len(null) + 1)
    least = _least(statistics, units, before, after, level)
    widen = student_inflation(level, len(reference) * GROUPS - 1)
    limits = thresholds(null, least, alpha, widen)
    if len(reference) > 1:  # what sets reference shards apart is no drift
        apart = _simulate(units, shards, statistics, replicates, rng, whole_shards=True)
        limits |= thresholds(apart, {s.name: limits[s.name] for s in statistics}, alpha)
    observed[REPEATS], repeats = _repeats(reference, candidate, replicates, rng)
    limits |= thresholds({REPEATS: repeats}, {REPEATS: SMALLEST["rate"]}, level)
    checked = {name: (value, limits[name]) for name, value in observed.items()}
    worst = _worst_shards(statistics, shards, before)
    findings = describe(checked, reference, candidate, worst)
    if _tokenizers(reference) != _tokenizers(candidate):
        names = [" and ".join(t[:12] for t in _tokenizers(s)) for s in (reference, candidate)]
        changed = f"the tokenizer changed: {names[0]} -> {names[1]} (fingerprints)"
        findings = [Finding("tokenizer", 1.0, 0.0, changed), *findings]
    return GateReport(tuple(findings), checked, alpha, _how(len(reference), replicates), notes)


def _tokenizers(side: Sequence[Sketch]) -> list[str]:
    return sorted({sketch.tokenizer for sketch in side})


def _how(shards: int, replicates: int) -> str:
    if shards > 1:
        return f"thresholds: {replicates} pairs resampled from {shards} reference shards"
    return (
        f"thresholds: {replicates} pairs resampled from {GROUPS} groups of documents within the "
        "only reference shard; weaker: how shards differ among themselves is not known"
    )


def _stack(side: Sequence[Sketch], languages: list[str]) -> dict[str, NDArray[Any]]:
    """Counts of all shards, name -> (shards, GROUPS, K)."""
    stacked = {n: np.stack([sketch.counts[n] for sketch in side]) for n in side[0].counts}
    none = (0,) * GROUPS
    rows = [[sketch.languages.get(name, none) for name in languages] for sketch in side]
    width = max(len(languages), 1)
    shape = (len(side), len(languages), GROUPS)
    spoken = np.zeros((len(side), GROUPS, width), dtype=np.int64)
    spoken[..., : len(languages)] = np.array(rows, dtype=np.int64).reshape(shape).swapaxes(1, 2)
    return stacked | {"languages": spoken}


def _comparable(
    before: Arrays, after: Arrays, reference: Sequence[Sketch], candidate: Sequence[Sketch]
) -> tuple[tuple[str, ...], list[Statistic]]:
    """Notes, and the statistics that both sides know."""
    absent: dict[str, str] = {}
    if len(_tokenizers((*reference, *candidate))) > 1:
        absent["tokens"] = "their ids are of different tokenizers"
        absent["token lengths"] = "they are counted by different tokenizers"
    for name, unknown in (("characters", "sketched without text"), ("languages", "not guessed")):
        if not before[name].sum() or not after[name].sum():
            absent[name] = f"{unknown} on one side or both"
    if "characters" in absent:
        absent |= dict.fromkeys(("digits", "lines"), absent["characters"])
    notes = tuple(f"not compared: {name}: {why}" for name, why in absent.items())
    return notes, [s for s in STATISTICS if s.name not in absent]


def _simulate(
    units: Arrays,
    shards: Arrays,
    statistics: Sequence[Statistic],
    replicates: int,
    rng: np.random.Generator,
    whole_shards: bool,
) -> dict[str, Floats]:
    """Distances of pseudo pairs, statistic -> (replicates,).

    Drawn are single groups of all shards, as if shards were alike, or whole shards, which keeps
    what sets them apart but has few to draw from.
    """
    R, C = len(units["sizes"]), len(shards["sizes"])
    documents = SIZES.index("documents")
    n_r = float(units["sizes"][..., documents].sum())
    n_c = float(shards["sizes"][..., documents].sum())
    group = n_r / (R * GROUPS)  # documents
    groups = max(1, round(n_c / C / group))  # per pseudo candidate shard
    if whole_shards:
        groups, draw, kinds = min(groups, GROUPS), _draw_shards, R
    else:
        draw, kinds = _draw_groups, R * GROUPS
    values: dict[str, list[Floats]] = {s.name: [] for s in statistics}
    step = max(1, DRAWS // (GROUPS * max(R, C)))
    for start in range(0, replicates, step):
        size = min(step, replicates - start)
        left = draw(units, C, groups, size, rng)
        right = draw(units, R, GROUPS, size, rng)
        for s in statistics:
            values[s.name].append(s.between(left, right))
    # Noise falls with the root of the size, which whole groups can't match exactly; and draws from
    # n kinds vary by (n - 1) / n of what the kinds do.
    sizes = (1 / n_c + 1 / n_r) / (1 / (C * groups * group) + 1 / n_r)
    scale = float(np.sqrt((1.0 if whole_shards else sizes) * kinds / (kinds - 1)))
    return {name: np.concatenate(parts) * scale for name, parts in values.items()}


def _draw_groups(
    units: Arrays, shards: int, groups: int, replicates: int, rng: np.random.Generator
) -> Arrays:
    """Sums over shards * groups groups, drawn with replacement; name -> (replicates, K)."""
    kinds = len(units["sizes"]) * GROUPS
    times = rng.multinomial(shards * groups, [1 / kinds] * kinds, size=replicates)
    return _sums(units, times)


def _draw_shards(
    units: Arrays, shards: int, groups: int, replicates: int, rng: np.random.Generator
) -> Arrays:
    """Sums over shards drawn with replacement, of each `groups` groups without replacement."""
    R = len(units["sizes"])
    chosen = rng.integers(R, size=(replicates, shards))
    kept = rng.random((replicates, shards, GROUPS)).argsort(-1) < groups
    times = np.zeros((replicates, R, GROUPS))
    np.add.at(times, (np.arange(replicates)[:, None], chosen), kept)
    return _sums(units, times)


def _sums(units: Arrays, times: NDArray[Any]) -> Arrays:
    flat = times.reshape(len(times), -1).astype(float)  # (replicates, R * GROUPS)
    return {n: flat @ c.reshape(flat.shape[1], -1).astype(float) for n, c in units.items()}


def _repeats(
    reference: Sequence[Sketch],
    candidate: Sequence[Sketch],
    replicates: int,
    rng: np.random.Generator,
) -> tuple[float, Floats]:
    """Share of repeated documents in a sample by content, which sees repeats across shards."""
    before, after = _repeated(reference), _repeated(candidate)
    # One more repeat than seen: a small sample without any doesn't say that there are none.
    rate = (before[0] + 1) / (before.sum() + 2)
    pairs = [
        np.stack([hits, total - hits], axis=-1)
        for total in (int(before.sum()), int(after.sum()))
        for hits in (rng.binomial(total, rate, size=replicates),)
    ]
    return float(rate_difference(after, before)), rate_difference(pairs[0], pairs[1])


def _repeated(side: Sequence[Sketch]) -> NDArray[np.int64]:
    """(2,): repeats and first appearances in the sample."""
    seen = reduce(lambda a, b: a.merge(b), (sketch.digests for sketch in side)).seen
    return np.array([sum(seen.values()) - len(seen), len(seen)])


def _least(
    statistics: Sequence[Statistic], units: Arrays, before: Arrays, after: Arrays, level: float
) -> dict[str, float]:
    """The smallest threshold of each statistic."""
    documents = SIZES.index("documents")
    n_r, n_c = (float(side["sizes"][documents]) for side in (before, after))
    least = {s.name: SMALLEST[s.kind] for s in statistics}
    least["duplicates"] = max(least["duplicates"], unseen("rate", n_r, n_c, level))
    fallback = units["sizes"][..., SIZES.index("fallback")]
    if (fallback > 0).mean() < 0.5:  # rare enough that a candidate may have its first
        least["byte fallback"] = max(least["byte fallback"], unseen("rate", n_r, n_c, level))
    if "languages" in least:
        heard = [float(side["languages"].sum()) for side in (before, after)]
        rare = unseen("histogram", heard[0], heard[1], level)
        least["languages"] = max(least["languages"], rare)
    return least


def _worst_shards(
    statistics: Sequence[Statistic], shards: Arrays, before: Arrays
) -> dict[str, tuple[int, float]]:
    """Statistic -> the candidate shard farthest from the reference, and its distance."""
    totals = {name: counts.sum(1) for name, counts in shards.items()}  # (C, K)
    spread = {name: np.broadcast_to(before[name], totals[name].shape) for name in totals}
    found = {}
    for s in statistics:
        distances = s.between(totals, spread)
        found[s.name] = (int(distances.argmax()), float(distances.max()))
    return found
