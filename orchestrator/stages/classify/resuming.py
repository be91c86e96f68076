"""Whether a job can go on from a checkpoint, by its model and its account of the examples."""

from typing import TYPE_CHECKING, Any

from orchestrator.config import JobConfig, other_architecture
from orchestrator.stages.classify.examples import PublishedExamples

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

FACTS = "examples"  # the entry of a manifest


def facts(config: JobConfig, published: PublishedExamples, position: int) -> dict[str, Any]:
    """What a checkpoint says of the examples; with it the model can be used on others.

    Args:
        config: of the job.
        published: its examples.
        position: examples trained on, counted over all epochs.
    """
    standard = published.standard
    return {
        "fingerprint": published.fingerprint,
        "seed": config.seed,
        "position": position,
        "features": list(standard.names),
        "mean": list(standard.mean),
        "std": list(standard.std),
    }


def start_position(start: "Checkpoint", config: JobConfig, published: PublishedExamples) -> int:
    """Examples that `start` was trained on, which is where the job goes on in their order.

    Raises:
        ValueError: names each setting that keeps the job from continuing `start`.
    """
    if FACTS not in start.facts:
        raise ValueError(
            f"resume={config.resume} is a checkpoint of another stage than stage=classify; give "
            "one of a classifier"
        )
    ours, theirs = facts(config, published, 0), start.facts[FACTS]
    wrong = other_architecture(config.role("model").model, start.model_config())
    if ours["seed"] != theirs["seed"]:
        wrong.append(f"seed={ours['seed']} must be {theirs['seed']}")
    elif ours["fingerprint"] != theirs["fingerprint"]:
        wrong.append(
            "stage.data, stage.features, stage.label and stage.validation_fraction must give the "
            "same examples"
        )
    if wrong:
        raise ValueError(
            f"resume={config.resume} was trained with other settings: {'; and '.join(wrong)}; "
            "all of them stand in its run folder's config.yaml"
        )
    return int(theirs["position"])
