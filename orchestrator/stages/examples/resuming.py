"""Whether a job can go on from a checkpoint, by its model and its account of the examples."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from models.configs import ModelConfig
from orchestrator.config import JobConfig, other_architecture

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

FACTS = "examples"  # the entry of a manifest


def account(
    config: JobConfig, fingerprint: str, position: int, more: Mapping[str, Any]
) -> dict[str, Any]:
    """What a checkpoint says of the examples.

    Args:
        config: of the job.
        fingerprint: of what was published.
        position: examples trained on, counted over all epochs.
        more: what the stage adds, so that the model can be used on others.
    """
    own = {"stage": config.stage.name, "fingerprint": fingerprint, "seed": config.seed}
    return own | {"position": position, **more}


def start_position(
    start: "Checkpoint", config: JobConfig, model: ModelConfig, fingerprint: str, same: str
) -> int:
    """Examples that `start` was trained on, which is where the job goes on in their order.

    Args:
        start: the checkpoint.
        config: of the job.
        model: its model, with everything filled in.
        fingerprint: of its examples.
        same: the settings that the examples follow from, as a message names them.

    Raises:
        ValueError: names each setting that keeps the job from continuing `start`.
    """
    theirs = start.facts.get(FACTS)
    if theirs is None or theirs.get("stage", "classify") != config.stage.name:
        raise ValueError(
            f"resume={config.resume} is a checkpoint of another stage than "
            f"stage={config.stage.name}; give one of that stage"
        )
    wrong = other_architecture(model, start.model_config())
    if config.seed != theirs["seed"]:
        wrong.append(f"seed={config.seed} must be {theirs['seed']}")
    elif fingerprint != theirs["fingerprint"]:
        wrong.append(f"{same} must give the same examples")
    if wrong:
        raise ValueError(
            f"resume={config.resume} was trained with other settings: {'; and '.join(wrong)}; "
            "all of them stand in its run folder's config.yaml"
        )
    return int(theirs["position"])
