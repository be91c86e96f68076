"""Where in the cache checkpoints are that were fetched from a URL (`fetching`)."""

from pathlib import Path

from data.files import cache_root

RUNS = "runs"


def cache_entry(path: Path) -> Path | None:
    """The entry of the cache that a checkpoint was fetched to. None: it was not fetched."""
    runs, path = (cache_root() / RUNS).resolve(), path.resolve()
    return runs / path.relative_to(runs).parts[0] if path.is_relative_to(runs) else None


def on_this_host(path: Path) -> Path:
    """Where a checkpoint that the driver has fetched is on a host whose cache is elsewhere."""
    if path.exists() or RUNS not in path.parts:
        return path
    after = len(path.parts) - path.parts[::-1].index(RUNS)
    return cache_root().joinpath(RUNS, *path.parts[after:])
