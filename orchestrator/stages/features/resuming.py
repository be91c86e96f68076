"""What a checkpoint says of rows of numbers, and whether a job can go on from it."""

from typing import TYPE_CHECKING, Any

from models.configs import ModelConfig
from orchestrator.config import JobConfig
from orchestrator.stages.examples import resuming
from orchestrator.stages.features.section import OWN
from orchestrator.stages.features.splits import Inputs

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

SETTINGS = ", ".join(f"stage.{name}" for name in OWN)


def about(inputs: Inputs) -> dict[str, Any]:
    """How features were scaled, and what is told; with it the model can be used on others."""
    standard = inputs.standard
    return {
        "features": list(standard.names),
        "mean": list(standard.mean),
        "std": list(standard.std),
        "target_mean": standard.target_mean,
        "target_std": standard.target_std,
        "classes": None if inputs.classes is None else list(inputs.classes),
    }


def start_position(
    start: "Checkpoint", config: JobConfig, model: ModelConfig, inputs: Inputs
) -> int:
    """Examples that `start` was trained on. Raises ValueError as in stages/examples."""
    return resuming.start_position(start, config, model, inputs.fingerprint, SETTINGS)
