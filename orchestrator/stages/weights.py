"""Saved weights as the process that starts a job looks at them."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.training.checkpoint import Weights


@lru_cache(maxsize=8)
def verified_weights(path: str, role: str | None = None) -> "Weights":
    """The weights in a run folder, checkpoint or exported folder, verified once per process.

    They are named by their own folder: `outputs/latest` will soon mean another run.

    Raises:
        ValueError: nothing valid is there, or not that role.
    """
    from orchestrator.training.checkpoint import open_weights

    found = open_weights(Path(path), role)
    tokenizer = None if found.tokenizer is None else found.tokenizer.resolve()
    return found._replace(path=found.path.resolve(), tokenizer=tokenizer)
