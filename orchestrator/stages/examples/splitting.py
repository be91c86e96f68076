"""Which examples are held out."""

from hashlib import blake2b


def is_held_out(key: str, fraction: float, seed: int) -> bool:
    """Whether what has this key is never trained on, as a hash says: so for a share of all keys."""
    digest = blake2b(f"{seed} {key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64
