"""The checkpoint that a job goes on from, found and verified before anything starts."""

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config import JobConfig, TrainingConfig

if TYPE_CHECKING:
    from orchestrator.training.checkpoint import Checkpoint


def find_start(config: JobConfig) -> "Checkpoint | None":
    """The verified checkpoint to resume, if any. Raises ValueError if it is of no use."""
    if config.resume is None:
        return None
    if not Path(config.resume).exists():
        raise ValueError(
            f"resume={config.resume} does not exist; try resume=outputs/latest, or a run folder "
            f"in {config.outputs}"
        )
    from orchestrator.training import checkpoint

    start, steps = checkpoint.find(Path(config.resume)), config.section(TrainingConfig).steps
    if start.step >= steps:
        raise ValueError(
            f"stage.steps={steps} must be more than the {start.step} steps that "
            f"resume={config.resume} has done; try stage.steps={2 * start.step}"
        )
    return start
