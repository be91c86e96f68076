"""The pictures of a sweep, in its folder."""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.record.comparing import panels, tiles
from orchestrator.record.runs import Run


def draw(jobs: Sequence[Sequence[str]], runs: Sequence[Run | None], folder: Path) -> None:
    """Draw what the runs of some jobs came to: `comparison.png`, and `planes.png` if they have any.

    Args:
        jobs: the overrides of each, by which its run is named: those that not all jobs have.
        runs: of the first of them; None is a job that made none.
        folder: to write to.
    """
    common = set.intersection(*map(set, jobs))
    own = [[_short(word) for word in words if word not in common] for words in jobs]
    shown = [(words, run) for words, run in zip(own, runs, strict=False) if run is not None]
    named = {" ".join(words): run for words, run in shown}
    panels.compared(named).savefig(folder / "comparison.png", dpi=100)
    planes = tiles.planes(named, [words[0] if words else "" for words, _ in shown])
    if planes is not None:
        planes.savefig(folder / "planes.png", dpi=90)


def _short(word: str) -> str:
    """An override without the section of its setting."""
    name, _, value = word.partition("=")
    return f"{name.rpartition('.')[2]}={value}"
