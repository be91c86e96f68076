"""Whether a job can go on from a checkpoint, by its model and its account of the examples."""

from typing import TYPE_CHECKING, Any

from models.configs import ModelConfig
from orchestrator.config import JobConfig, other_architecture
from orchestrator.stages.examples.splits import Inputs

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

FACTS = "examples"  # the entry of a manifest


def facts(config: JobConfig, inputs: Inputs, position: int) -> dict[str, Any]:
    """What a checkpoint says of the examples; with it the model can be used on others.

    Args:
        config: of the job.
        inputs: its examples.
        position: examples trained on, counted over all epochs.
    """
    standard = inputs.standard
    return {
        "fingerprint": inputs.fingerprint,
        "seed": config.seed,
        "position": position,
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
    """Examples that `start` was trained on, which is where the job goes on in their order.

    Args:
        start: the checkpoint.
        config: of the job.
        model: of the job, filled in.
        inputs: its examples.

    Raises:
        ValueError: names each setting that keeps the job from continuing `start`.
    """
    if FACTS not in start.facts:
        raise ValueError(
            f"resume={config.resume} is a checkpoint of another stage than "
            f"stage={config.stage.name}; give one of that stage"
        )
    ours, theirs = facts(config, inputs, 0), start.facts[FACTS]
    wrong = other_architecture(model, start.model_config())
    if ours["seed"] != theirs["seed"]:
        wrong.append(f"seed={ours['seed']} must be {theirs['seed']}")
    elif ours["fingerprint"] != theirs["fingerprint"]:
        wrong.append(
            "stage.data, stage.features, stage.label, stage.missing, stage.scaling, stage.examples,"
            " stage.noise and stage.validation_fraction must give the same examples"
        )
    if wrong:
        raise ValueError(
            f"resume={config.resume} was trained with other settings: {'; and '.join(wrong)}; "
            "all of them stand in its run folder's config.yaml"
        )
    return int(theirs["position"])
