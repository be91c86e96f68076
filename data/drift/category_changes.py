"""What changed in a text column of few values: categories renamed, new, gone, moved."""

from collections.abc import Callable

from data.drift.text_columns import TextSketch

SHOWN = 3
STYLES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("lower case", str.lower),
    ("upper case", str.upper),
    ("capitalised", str.capitalize),
    ("title case", str.title),
    ("spaces trimmed", str.strip),
    ("_ for spaces", lambda name: name.replace(" ", "_")),
    ("spaces for _", lambda name: name.replace("_", " ")),
    ("- for _", lambda name: name.replace("_", "-")),
)


def categories(before: TextSketch, after: TextSketch, _: str) -> str:
    """Words for categories renamed, new, gone, or with other shares; "" if none of these."""
    a, b = (_shares(text) for text in (before, after))
    if not (before.values.complete and after.values.complete and a and b):
        return ""
    gone, new = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
    if gone and new and (style := _renamed(gone, new)):
        pairs = ", ".join(f'"{old}" -> "{style[1](old)}"' for old in gone[:SHOWN])
        return f"categories renamed ({style[0]}): {pairs}"
    if len(gone) == len(new) > 0:
        ranked = [sorted(names, key=lambda n: -side[n]) for names, side in ((gone, a), (new, b))]
        pairs_ = list(zip(*ranked, strict=True))
        if all(abs(a[old] - b[name]) < 0.05 for old, name in pairs_):
            text = ", ".join(f'"{o}" {a[o]:.0%} -> "{n}" {b[n]:.0%}' for o, n in pairs_[:SHOWN])
            return f"categories renamed (by their shares): {text}"
    parts = []
    for title, names, side in (("new", new, b), ("vanished", gone, a)):
        if names:
            most = sorted(names, key=lambda name: -side[name])[:SHOWN]
            parts.append(
                f"{title} categories: " + ", ".join(f'"{name}" {side[name]:.1%}' for name in most)
            )
    if parts:
        return "; ".join(parts)
    moved = sorted(a, key=lambda name: -abs(a[name] - b[name]))[:SHOWN]
    if abs(a[moved[0]] - b[moved[0]]) < 0.005:
        return ""
    text = ", ".join(f'"{name}" {a[name]:.1%} -> {b[name]:.1%}' for name in moved)
    return f"shares of categories moved: {text}"


def _shares(text: TextSketch) -> dict[str, float]:
    total = max(1, sum(text.values.buckets))
    return {name: count / total for name, count in text.values.top.items()}


def _renamed(gone: list[str], new: list[str]) -> tuple[str, Callable[[str], str]] | None:
    """The style, prefix or suffix that makes the new names of the old ones."""
    for words, style in STYLES:
        if sorted(map(style, gone)) == new:
            return words, style
    for old, name in ((old, name) for old in gone for name in new):
        start, found, end = name.partition(old)
        if found and (start or end):

            def with_ends(text: str, start: str = start, end: str = end) -> str:
                return start + text + end

            if sorted(map(with_ends, gone)) == new:
                kind = "prefix" if start else "suffix"
                return f'{kind} "{start or end}" added', with_ends
        start, found, end = old.partition(name)
        if found and (start or end):

            def without(text: str, start: str = start, end: str = end) -> str:
                return text.removeprefix(start).removesuffix(end)

            if sorted(map(without, gone)) == new:
                kind = "prefix" if start else "suffix"
                return f'{kind} "{start or end}" removed', without
    return None
