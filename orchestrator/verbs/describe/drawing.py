"""A model as a block diagram of characters: what flows from top to bottom, boxes inside boxes."""

from collections.abc import Iterator

from models.describing import Description, Part

COLUMNS = (38, 20)


def drawn(found: Description) -> list[str]:
    """The diagram, a line for each part, its class and the shape of what it makes."""
    start = "tokens" if "V" in found.letters else "features"
    shape = "(B, T)" if "V" in found.letters else "(B, N)"
    lines = [_line(start, "", shape)]
    for part in found.tree.parts:
        lines += _part(part, "")
    return lines


def _part(part: Part, bars: str) -> Iterator[str]:
    """A part and those inside it; `bars` are the sides of the boxes that it is in."""
    times = f" x {part.repeated}" if part.repeated > 1 else ""
    if not part.parts:
        yield _line(f"{bars}{part.name}{times}", part.kind, part.symbols)
        return
    yield _line(f"{bars}╭ {part.name}{times}", part.kind, "")
    kept = False
    for number, inner in enumerate(part.parts):
        side = f"{bars}│ "
        if number in part.around:
            yield f"{side}├─╮ kept"
            kept = True
        yield from _part(inner, f"{side}│ " if kept else side)
        if kept and number - 1 in part.around:
            yield _line(f"{side}⊕─╯ added to what was kept", "", part.symbols)
            kept = False
    yield _line(f"{bars}╰ {part.name}", "", part.symbols)


def _line(*cells: str) -> str:
    first, second, shape = cells
    return f"{first:<{COLUMNS[0]}}{second:<{COLUMNS[1]}}{shape}".rstrip()
