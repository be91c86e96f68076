"""What a stage declares to the job around it."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.config import StageConfig


@dataclass(frozen=True)
class Stage:
    """One stage; the job around it knows nothing else of it."""

    section: type[StageConfig]
    """Its settings."""
    ranks: str
    """MODULE:FUNCTION that every rank calls; imported in workers only."""

    def function(self) -> Callable[..., Any]:
        """What every rank calls, imported now."""
        module, _, name = self.ranks.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function
