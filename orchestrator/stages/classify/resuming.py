"""What a checkpoint of a classifier says of its examples, and whether a job can go on from it."""

from typing import TYPE_CHECKING, Any

from orchestrator.config import JobConfig
from orchestrator.stages.classify.examples import PublishedExamples
from orchestrator.stages.examples import resuming

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

SETTINGS = "stage.data, stage.features, stage.label and stage.validation_fraction"


def standard(published: PublishedExamples) -> dict[str, Any]:
    """How features were standardised; with it the model can be used on others."""
    own = published.standard
    return {"features": list(own.names), "mean": list(own.mean), "std": list(own.std)}


def start_position(start: "Checkpoint", config: JobConfig, published: PublishedExamples) -> int:
    """Examples that `start` was trained on. Raises ValueError as in stages/examples."""
    model = config.role("model").model
    return resuming.start_position(start, config, model, published.fingerprint, SETTINGS)
