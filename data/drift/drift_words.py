"""What changed between two sets of document sketches, in words with numbers before -> after."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import reduce

import numpy as np

from data.drift.gate_report import Finding
from data.drift.sketches import CLASSES, EDGES, Counts, Sketch

Side = Sequence[Sketch]
SHOWN = 4


def describe(
    checked: Mapping[str, tuple[float, float]],
    reference: Side,
    candidate: Side,
    worst: Mapping[str, tuple[int, float]],
) -> list[Finding]:
    """A finding per statistic above its threshold, the farthest above first.

    Args:
        checked: statistic -> value, threshold.
        reference: sketches of the reference.
        candidate: sketches of the candidate.
        worst: statistic -> candidate shard farthest from the reference, its distance.
    """
    above = {name: v / max(t, 1e-9) for name, (v, t) in checked.items() if v > t}
    findings = []
    for name in sorted(above, key=lambda name: (-above[name], name)):
        value, threshold = checked[name]
        words, examples = WORDS[name](reference, candidate, above)
        if len(candidate) > 1 and name in worst:
            number, distance = worst[name]
            examples.append(f"farthest candidate shard: number {number} ({distance:.3f})")
        findings.append(Finding(name, value, threshold, f"{name}: {words}", tuple(examples)))
    return findings


Explained = tuple[str, list[str]]


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{share:.4%}"


def _rate(side: Side, name: str, of: str) -> float:
    return sum(s.size(name) for s in side) / max(1, sum(s.size(of) for s in side))


def _total(side: Side, name: str) -> Counts:
    return np.asarray(sum(s.counts[name].sum(0) for s in side))


def _quantile(bins: Counts, share: float) -> float:
    """A length from the histogram: between the edges of its bin by share of the bin's count."""
    ends = np.cumsum(bins)
    at = int(np.searchsorted(ends, share * ends[-1]))
    low = float(EDGES[at - 1]) if at else 0.0
    high = float(EDGES[at]) if at < len(EDGES) else 2 * low
    inside = (share * ends[-1] - (ends[at] - bins[at])) / max(1, bins[at])
    return low + (high - low) * float(inside)


def _lengths(name: str, unit: str) -> Callable[[Side, Side, Collection[str]], Explained]:
    def words(reference: Side, candidate: Side, _: Collection[str]) -> Explained:
        sides = [_total(side, name) for side in (reference, candidate)]
        middle = [_quantile(bins, 0.5) for bins in sides]
        tails = [f"{_quantile(b, 0.1):,.0f}..{_quantile(b, 0.9):,.0f}" for b in sides]
        how = "shorter" if middle[1] < middle[0] else "longer"
        if max(middle) < 1.1 * min(middle):
            how = "spread otherwise"
        return (
            f"documents are {how}: median {middle[0]:,.0f} -> {middle[1]:,.0f} {unit}",
            [f"10 % to 90 % of documents: {tails[0]} -> {tails[1]} {unit}"],
        )

    return words


def _shares(
    before: Mapping[str, float], after: Mapping[str, float], unknown: str = "0.0%"
) -> list[str]:
    """The names whose shares moved most: "name 1 % -> 2 %"."""
    names = sorted(before.keys() | after.keys())
    names.sort(key=lambda name: -abs(before.get(name, 0) - after.get(name, 0)))
    shown = []
    for name in names[:SHOWN]:
        pair = [_percent(side[name]) if name in side else unknown for side in (before, after)]
        shown.append(f"{name} {pair[0]} -> {pair[1]}")
    return shown


def _characters(reference: Side, candidate: Side, _: Collection[str]) -> Explained:
    shares = []
    for side in (reference, candidate):
        total = _total(side, "characters")
        shares.append(dict(zip(CLASSES, (total / max(1, total.sum())).tolist(), strict=True)))
    moved = _shares(shares[0], shares[1])
    rare = "U+FFFD and rare"
    if shares[1][rare] - shares[0][rare] > 0.002:
        broken = f"{_percent(shares[0][rare])} -> {_percent(shares[1][rare])}"
        return f"U+FFFD or rare characters {broken}: text decoded with a wrong encoding?", moved
    return f"other characters: {moved[0]}", moved[1:]


def _tokens(reference: Side, candidate: Side, flagged: Collection[str]) -> Explained:
    sides = []
    for side in (reference, candidate):
        tokens = max(1, sum(s.size("tokens") for s in side))
        merged = reduce(lambda a, b: a.merge(b), side)
        sides.append({repr(t or i): n / tokens for i, (n, t) in merged.top.items()})
    moved = _shares(sides[0], sides[1], unknown="less")
    ratio = _bytes_per_token(candidate) / _bytes_per_token(reference)
    known = all(_total(side, "characters").sum() for side in (reference, candidate))
    if known and ratio < 0.8 and "characters" not in flagged and "languages" not in flagged:
        return "the same characters in another order (shuffled, reversed, encoded?)", moved
    if known and ratio < 0.8 and "characters" not in flagged:
        return "the same characters make other words (shuffled, or another language)", moved
    return "other words are frequent", moved


def _bytes_per_token(side: Side) -> float:
    return _rate(side, "bytes", "tokens")


def _ratio(reference: Side, candidate: Side, _: Collection[str]) -> Explained:
    pair = [_bytes_per_token(side) for side in (reference, candidate)]
    how = "less" if pair[1] < pair[0] else "better"
    return f"the tokenizer fits the text {how}: {pair[0]:.2f} -> {pair[1]:.2f} bytes per token", []


def _fallback(reference: Side, candidate: Side, _: Collection[str]) -> Explained:
    pair = [_percent(_rate(side, "fallback", "tokens")) for side in (reference, candidate)]
    return (
        f"tokens that are one byte of a character {pair[0]} -> {pair[1]}: the tokenizer's "
        "vocabulary lacks these characters",
        [],
    )


def _class(name: str) -> Callable[[Side, Side, Collection[str]], Explained]:
    def words(reference: Side, candidate: Side, _: Collection[str]) -> Explained:
        shares = []
        for side in (reference, candidate):
            total = _total(side, "characters")
            shares.append(float(total[CLASSES.index(name)] / max(1, total.sum())))
        if name == "newlines":
            pair = [f"{1 / share:.0f}" if share else "no" for share in shares]
            return f"line length in characters {pair[0]} -> {pair[1]}", []
        return f"{name} {_percent(shares[0])} -> {_percent(shares[1])} of all characters", []

    return words


def _languages(reference: Side, candidate: Side, _: Collection[str]) -> Explained:
    sides = []
    for side in (reference, candidate):
        found: dict[str, int] = {}
        for sketch in side:
            for name, groups in sketch.languages.items():
                found[name] = found.get(name, 0) + sum(groups)
        total = max(1, sum(found.values()))
        sides.append({name: count / total for name, count in found.items()})
    moved = _shares(sides[0], sides[1])
    return "another language: " + ", ".join(moved[:2]), moved[2:]


def _duplicates(reference: Side, candidate: Side, _: Collection[str]) -> Explained:
    pair = [_percent(_rate(side, "duplicates", "documents")) for side in (reference, candidate)]
    return f"documents that repeat an earlier one of their shard {pair[0]} -> {pair[1]}", []


def _repeats(reference: Side, candidate: Side, _: Collection[str]) -> Explained:
    means = []
    for side in (reference, candidate):
        seen = reduce(lambda a, b: a.merge(b), (sketch.digests for sketch in side)).seen
        means.append(sum(seen.values()) / max(1, len(seen)))
    return f"each document stands {means[0]:.2f} -> {means[1]:.2f} times in the set", []


WORDS: dict[str, Callable[[Side, Side, Collection[str]], Explained]] = {
    "token lengths": _lengths("token_lengths", "tokens"),
    "byte lengths": _lengths("byte_lengths", "bytes"),
    "tokens": _tokens,
    "bytes per token": _ratio,
    "byte fallback": _fallback,
    "characters": _characters,
    "digits": _class("digits"),
    "lines": _class("newlines"),
    "languages": _languages,
    "duplicates": _duplicates,
    "repeats across shards": _repeats,
}
