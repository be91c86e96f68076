"""The checkpoint that a job goes on from, found and verified before anything starts."""

from pathlib import Path

from orchestrator.config import JobConfig, TrainingConfig
from orchestrator.record.checkpoints import Checkpoint, find


def find_start(config: JobConfig) -> Checkpoint | None:
    """The verified checkpoint to resume, if any. Raises ValueError if it is of no use."""
    if config.resume is None:
        return None
    if not Path(config.resume).exists():
        raise ValueError(
            f"resume={config.resume} does not exist; try resume=outputs/latest, or a run folder "
            f"in {config.outputs}"
        )
    start, steps = find(Path(config.resume)), config.section(TrainingConfig).steps
    if start.step >= steps:
        raise ValueError(
            f"stage.steps={steps} must be more than the {start.step} steps that "
            f"resume={config.resume} has done; try stage.steps={2 * start.step}"
        )
    _check_optimizers(config, start)
    return start


def _check_optimizers(config: JobConfig, start: Checkpoint) -> None:
    """Raise ValueError if a role was trained by another optimizer, whose state this one has not."""
    for name in config.stage.roles:
        if name in start.roles and (optim := config.role(name).optim) is not None:
            before = start.roles[name].optimizer
            if before not in (None, optim.name):
                raise ValueError(
                    f"optim.name={optim.name} can't go on from the state of {before} in "
                    f"resume={config.resume}; try optim.name={before}, or start anew from its "
                    f"weights alone with model.weights={config.resume} in place of resume"
                )
