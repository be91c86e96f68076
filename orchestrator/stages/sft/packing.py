"""Which conversations share a row: N of them, by their lengths in tokens."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def epoch_of(lengths: Sequence[int], often: Sequence[int], room: int | None) -> list[list[int]]:
    """Which items each row of an epoch holds, none twice in a row.

    Args:
        lengths: (N,).
        often: (N,) how many rows each is in.
        room: of a row. None: it holds one.
    """
    rows: list[list[int]] = []
    turn, left = 0, list(range(len(lengths)))
    while left := [n for n in left if often[n] > turn]:
        layout = apart(left) if room is None else packed([lengths[n] for n in left], room)
        rows += [[left[place] for place in row] for row in layout]
        turn += 1
    return rows


def packed(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which items of these lengths share a row with that much room; best-fit decreasing.

    An item goes where it leaves the least room, the longest first (Ding et al. 2024,
    arXiv:2404.10830), so rows are few and no item is cut.

    Args:
        lengths: each at most `room`.
        room: of a row.
    """
    rows: list[list[int]] = []
    left: list[tuple[int, int]] = []  # (room left, row), in order
    for item in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        place = bisect_left(left, (lengths[item], 0))
        if place < len(left):
            space, row = left.pop(place)
        else:
            space, row = room, len(rows)
            rows.append([])
        rows[row].append(item)
        insort(left, (space - lengths[item], row))
    return rows


def apart(rows: Sequence[object]) -> list[list[int]]:
    """The layout of rows that hold one each."""
    return [[n] for n in range(len(rows))]
