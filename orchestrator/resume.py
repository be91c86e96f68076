"""Whether a job can go on from the checkpoint that `resume` names, known before it starts."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import models
from data import Prepared
from orchestrator.config import JobConfig

if TYPE_CHECKING:
    from orchestrator.training.checkpoint import Checkpoint


def facts(config: JobConfig, prepared: Prepared) -> dict[str, Any]:
    """What a checkpoint's manifest says of the job, and a job that continues it must share."""
    return {
        "data_fingerprint": prepared.fingerprint,
        "tokenizer_fingerprint": prepared.tokenizer.fingerprint,
        "sequence_length": config.data.sequence_length,
        "data_seed": config.data.seed,
        "global_batch_size": config.pretrain.global_batch_size,
    }


SETTINGS = {  # name of a fact -> setting
    "data_fingerprint": "data",
    "tokenizer_fingerprint": "tokenizer",
    "sequence_length": "data.sequence_length",
    "data_seed": "data.seed",
    "global_batch_size": "stage.global_batch_size",
}


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

    start, steps = checkpoint.find(Path(config.resume)), config.pretrain.steps
    if start.step >= steps:
        raise ValueError(
            f"stage.steps={steps} must be more than the {start.step} steps that "
            f"resume={config.resume} has done; try stage.steps={2 * start.step}"
        )
    return start


def check_resume(start: "Checkpoint", config: JobConfig, prepared: Prepared) -> None:
    """Raise ValueError, naming each setting that differs, unless the job continues `start`."""
    rows = config.model.vocab_size or prepared.tokenizer.vocab_size
    model = models.config_to_dict(replace(config.model, vocab_size=rows))
    before = start.manifest
    pairs = [(f"model.{name}", before["model"].get(name), ours) for name, ours in model.items()]
    pairs += [
        (SETTINGS[name], before[name], ours) for name, ours in facts(config, prepared).items()
    ]
    wrong = []
    for setting, theirs, ours in pairs:
        if theirs != ours and setting in ("data", "tokenizer"):
            wrong.append(f"{setting} must be the same (fingerprint {theirs[:12]})")
        elif theirs != ours:
            wrong.append(f"{setting}={ours} must be {theirs}")
    if wrong:
        raise ValueError(
            f"resume={config.resume} was trained with other settings: {', '.join(wrong)}; take "
            "them from its run folder's config.yaml, or leave resume out"
        )
