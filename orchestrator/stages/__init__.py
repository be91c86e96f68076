"""What a job can do: one file per stage, and the table of them. Imported in workers only."""

from collections.abc import Callable

from orchestrator.config import JobConfig
from orchestrator.stages.pretrain import pretrain
from orchestrator.stages.run import Result, Run

__all__ = ["STAGES", "Result", "Run"]

STAGES: dict[str, Callable[[JobConfig, Run], Result]] = {"pretrain": pretrain}
