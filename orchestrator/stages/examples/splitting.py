"""Which examples are held out, and which have no room."""

from collections.abc import Mapping
from hashlib import blake2b

from data.messages import counted


def is_held_out(key: str, fraction: float, seed: int) -> bool:
    """Whether what has this key is never trained on, as a hash says: so for a share of all keys."""
    digest = blake2b(f"{seed} {key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def check_splits(
    count: Mapping[str, int], too_long: int, *, source: str, kind: str, limit: str, fraction: float
) -> None:
    """Raise ValueError unless both splits have examples.

    Args:
        count: examples of `train` and of `validation`.
        too_long: those that were left out.
        source: where all come from.
        kind: what one of them is: pair, conversation, ...
        limit: the setting that they were longer than, with its value.
        fraction: of what is held out.
    """
    if not all(count.values()):
        longer = f"raise {limit.partition('=')[0]}, " if too_long else ""
        raise ValueError(
            f"{source} gives {counted(count['train'], kind)} for training and "
            f"{count['validation']} for validation, {too_long} left out as longer than {limit} "
            f"tokens, and both need some; {longer}give more {kind}s, or another "
            f"stage.validation_fraction than {fraction}"
        )


def left_out(too_long: int, kind: str, limit: str) -> str:
    """The line that says how many examples have no room."""
    return f"data: left out as longer than {limit}: {counted(too_long, kind)}"
