"""The gate for documents: do the shards of a candidate look like those of a reference?

1. Pairs of a pseudo candidate and a pseudo reference, of the sizes of the real ones, are drawn from
   the groups of documents in the reference's sketches.
2. The distances of these pairs say how far apart chance brings two random parts of one set. The
   thresholds control the chance that *any* statistic raises a false alarm: each is measured in
   standard deviations from its mean, and the limit is a quantile of the largest of them (the max-T
   of Westfall and Young 1993), so that correlated statistics are not corrected twice.
3. What lies above is put into words.
Shards are random parts of a set, since a document's shard depends on the hash of its text.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.drift.distances import Floats, move, student_over_normal
from data.drift.gate_report import Finding, GateReport
from data.drift.sketches import EDGES, GROUPS, SIZES, Sketch
from data.files import DataError

ALPHA = 0.01
REPLICATES = 999
UNITS = 1024  # most groups that are drawn from; of more, neighbours are put together
SHOWN = 4
DOCUMENTS, TOKENS, BYTES = (SIZES.index(name) for name in ("documents", "tokens", "bytes"))

Arrays = Mapping[str, NDArray[Any]]
Side = Sequence[Sketch]
Duplicates = tuple[int, int]
"""Records that were left out as copies of others, and all records."""


def _shares(counts: NDArray[Any]) -> Floats:
    return np.asarray(counts / np.maximum(counts.sum(-1, keepdims=True), 1), dtype=np.float64)


def _longer(name: str, a: Arrays, b: Arrays) -> Floats:
    """Largest difference between the shares of documents below any length (Kolmogorov-Smirnov)."""
    apart = np.cumsum(_shares(a[name]), -1) - np.cumsum(_shares(b[name]), -1)
    return np.asarray(np.abs(apart).max(-1))


def _moved(name: str, a: Arrays, b: Arrays) -> Floats:
    """Share of a histogram that would have to move to make the other (total variation)."""
    return np.asarray(np.abs(_shares(a[name]) - _shares(b[name])).sum(-1) / 2)


def _ratio(a: Arrays, b: Arrays) -> Floats:
    """|log| of how many times as many bytes a token has."""
    logs = [
        np.log(np.maximum(x["sizes"][..., BYTES], 1) / np.maximum(x["sizes"][..., TOKENS], 1))
        for x in (a, b)
    ]
    return np.asarray(np.abs(logs[0] - logs[1]))


# Statistic -> distance of counts (..., K), and the smallest that is worth a word.
STATISTICS: dict[str, tuple[Callable[[Arrays, Arrays], Floats], float]] = {
    "token lengths": (partial(_longer, "token_lengths"), 0.03),
    "byte lengths": (partial(_longer, "byte_lengths"), 0.03),
    "tokens": (partial(_moved, "tokens"), 0.05),
    "bytes per token": (_ratio, 0.02),
    "languages": (partial(_moved, "languages"), 0.03),
}


def gate(
    reference: Side,
    candidate: Side,
    *,
    duplicates: tuple[Duplicates, Duplicates] | None = None,
    alpha: float = ALPHA,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> GateReport:
    """Compare the shards of a candidate with those of a reference.

    Args:
        duplicates: of the reference and of the candidate, where they are known.
        alpha: chance that an unchanged candidate has a finding.
        replicates: simulated pairs; at least 10 / alpha tell the quantile well.
        seed: of the simulation; the same sketches and seed give the same report.

    Raises:
        DataError: a side has no documents.
    """
    for name, side in (("reference", reference), ("candidate", candidate)):
        if not sum(sketch.size("documents") for sketch in side):
            raise DataError(f"the {name} of the drift gate has no documents ({len(side)} shards)")
    languages = sorted({n for s in (*reference, *candidate) for n in s.languages}) or ["none"]
    units, own = _groups(reference, languages), _groups(candidate, languages)
    before, after = ({n: c.sum(0) for n, c in side.items()} for side in (units, own))
    tokenizers = [sorted({sketch.tokenizer for sketch in side}) for side in (reference, candidate)]
    absent = {}
    if tokenizers[0] != tokenizers[1]:
        absent = dict.fromkeys(("tokens", "token lengths"), "the tokenizers differ")
    if not (before["languages"].sum() and after["languages"].sum()):
        absent["languages"] = "too little text to tell"
    names = [name for name in STATISTICS if name not in absent]
    level = alpha / (len(names) + 1)
    checked = {name: float(STATISTICS[name][0](after, before)) for name in names}
    limits = _limits(names, units, before, after, alpha, replicates, np.random.default_rng(seed))
    pairs = {name: (value, limits[name]) for name, value in checked.items()}
    findings = [
        Finding(name, value, limit, f"{name}: {WORDS[name](reference, candidate)}")
        for name, (value, limit) in sorted(pairs.items(), key=lambda i: -i[1][0] / i[1][1])
        if value > limit
    ]
    if duplicates is not None:
        old, new = (np.array([dropped, seen - dropped]) for dropped, seen in duplicates)
        pairs["duplicates"] = value, limit = move(old, new, level)
        if value > limit:
            shares = [_percent(dropped / seen) for dropped, seen in duplicates]
            words = f"duplicates: {shares[0]} -> {shares[1]} of the records are copies of others"
            findings.append(Finding("duplicates", value, limit, words))
    if tokenizers[0] != tokenizers[1]:
        short = [" and ".join(own[:12] for own in side) for side in tokenizers]
        words = f"the tokenizer changed: {short[0]} -> {short[1]} (fingerprints)"
        findings.insert(0, Finding("tokenizer", 1.0, 0.0, words))
    notes = tuple(f"not compared: {name}: {why}" for name, why in absent.items())
    return GateReport(tuple(findings), pairs, alpha, notes)


def _groups(side: Side, languages: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Counts of all groups of documents, name -> (groups, K)."""
    counts = {n: np.concatenate([sketch.counts[n] for sketch in side]) for n in side[0].counts}
    none = (0,) * GROUPS
    spoken = [[sketch.languages.get(name, none) for name in languages] for sketch in side]
    counts["languages"] = (
        np.array(spoken, dtype=np.int64).swapaxes(1, 2).reshape(len(side) * GROUPS, len(languages))
    )
    if len(side) * GROUPS > UNITS:
        starts = np.linspace(0, len(side) * GROUPS, UNITS, endpoint=False).astype(np.int64)
        counts = {name: np.add.reduceat(own, starts) for name, own in counts.items()}
    return counts


def _limits(
    names: Sequence[str],
    units: Arrays,
    before: Arrays,
    after: Arrays,
    alpha: float,
    replicates: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    """A threshold per statistic, such that all hold together with chance 1 - alpha."""
    kinds = len(units["sizes"])
    n_r, n_c = (float(side["sizes"][DOCUMENTS]) for side in (before, after))
    drawn = max(1, round(n_c / n_r * kinds))  # groups of a pseudo candidate
    left, right = (
        {name: times @ counts for name, counts in units.items()}
        for times in (
            rng.multinomial(groups, [1 / kinds] * kinds, size=replicates).astype(float)
            for groups in (drawn, kinds)
        )
    )
    # Noise falls with the root of the size, which whole groups can't match exactly; and draws from
    # n kinds vary by (n - 1) / n of what the kinds do.
    size = drawn * n_r / kinds
    scale = np.sqrt((1 / n_c + 1 / n_r) / (1 / size + 1 / n_r) * kinds / (kinds - 1))
    values = np.stack([STATISTICS[name][0](left, right) * scale for name in names])
    mean, deviation = values.mean(1), values.std(1)
    scaled = (values - mean[:, None]) / np.where(deviation > 0, deviation, 1)[:, None]
    rank = min(ceil((1 - alpha) * (replicates + 1)), replicates)
    # The deviation itself is an estimate from few groups.
    level = alpha / len(names)
    widen = student_over_normal(level, kinds - 1)
    limits = mean + np.sort(scaled.max(0))[rank - 1] * widen * deviation
    least = {name: STATISTICS[name][1] for name in names}
    if "languages" in least:
        # Of a rare language that the reference lacks, all k documents fall on the candidate's side
        # with chance (n_c / (n_c + n_r))^k, which no draw from the reference can show.
        heard = [float(side["languages"].sum()) for side in (after, before)]
        rare = ceil(log(level) / log(heard[0] / sum(heard))) / heard[0]
        least["languages"] = max(least["languages"], rare)
    return {name: max(float(limits[i]), least[name]) for i, name in enumerate(names)}


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{share:.4%}"


def _quantile(bins: NDArray[Any], share: float) -> float:
    """A length from the histogram: between the edges of its bin by share of the bin's count."""
    ends = np.cumsum(bins)
    at = int(np.searchsorted(ends, share * ends[-1]))
    low = float(EDGES[at - 1]) if at else 0.0
    high = float(EDGES[at]) if at < len(EDGES) else 2 * low
    inside = (share * ends[-1] - (ends[at] - bins[at])) / max(1, bins[at])
    return low + (high - low) * float(inside)


def _lengths(name: str, unit: str, reference: Side, candidate: Side) -> str:
    sides = (reference, candidate)
    bins = [np.sum([sketch.counts[name].sum(0) for sketch in side], axis=0) for side in sides]
    middle = [_quantile(own, 0.5) for own in bins]
    tails = [f"{_quantile(own, 0.1):,.0f}..{_quantile(own, 0.9):,.0f}" for own in bins]
    how = "documents are shorter" if middle[1] < middle[0] else "documents are longer"
    if max(middle) < 1.1 * min(middle):
        how = "lengths are spread differently around the same middle"
    return (
        f"{how}: median {middle[0]:,.0f} -> {middle[1]:,.0f} {unit}, "
        f"10 % to 90 % {tails[0]} -> {tails[1]}"
    )


def _largest(before: Mapping[str, float], after: Mapping[str, float], unknown: str) -> str:
    """The names whose shares moved most: "name 1 % -> 2 %"."""
    names = sorted(before.keys() | after.keys())
    names.sort(key=lambda name: -abs(before.get(name, 0) - after.get(name, 0)))
    shown = []
    for name in names[:SHOWN]:
        pair = [_percent(side[name]) if name in side else unknown for side in (before, after)]
        shown.append(f"{name} {pair[0]} -> {pair[1]}")
    return ", ".join(shown)


def _tokens(reference: Side, candidate: Side) -> str:
    sides = []
    for side in (reference, candidate):
        total = max(1, sum(s.size("tokens") for s in side))
        counts: dict[str, float] = {}
        for sketch in side:
            for number, (count, text) in sketch.top.items():
                name = repr(text or number)
                counts[name] = counts.get(name, 0) + count / total
        sides.append(counts)
    return f"others are frequent: {_largest(sides[0], sides[1], unknown='fewer')}"


def _bytes_per_token(reference: Side, candidate: Side) -> str:
    pair = [
        sum(s.size("bytes") for s in side) / max(1, sum(s.size("tokens") for s in side))
        for side in (reference, candidate)
    ]
    return f"{pair[0]:.2f} -> {pair[1]:.2f} bytes of text are one token"


def _languages(reference: Side, candidate: Side) -> str:
    sides = []
    for side in (reference, candidate):
        found: dict[str, float] = {}
        for sketch in side:
            for name, groups in sketch.languages.items():
                found[name] = found.get(name, 0) + sum(groups)
        sides.append({name: count / sum(found.values()) for name, count in found.items()})
    return _largest(sides[0], sides[1], unknown="0.0%")


WORDS: dict[str, Callable[[Side, Side], str]] = {
    "token lengths": partial(_lengths, "token_lengths", "tokens"),
    "byte lengths": partial(_lengths, "byte_lengths", "bytes"),
    "tokens": _tokens,
    "bytes per token": _bytes_per_token,
    "languages": _languages,
}
