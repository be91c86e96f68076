"""An evaluation in the process that starts the job: which model, which text, what is kept."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from data import Prepared, Published, TokenizerConfig
from data.messages import counted
from models import cost
from models.configs import LanguageModelConfig, language
from orchestrator.config import JobConfig, RoleConfig
from orchestrator.stages.evaluate.stage import EvaluateConfig
from orchestrator.stages.language.preparing import (
    about,
    describe,
    estimated_line,
    find_data,
    make_data,
)
from orchestrator.stages.language.recording import record_data
from orchestrator.stages.stage import Outline, Ready, RoleOutline, Say, Score
from orchestrator.stages.weights import verified_weights

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint
    from orchestrator.training.checkpoint import Weights


@dataclass(frozen=True)
class Inputs:
    """What the ranks of an evaluation get."""

    published: Published
    role: RoleConfig
    """With the architecture of the checkpoint, and the verified folder of its weights."""
    checkpoint: Mapping[str, Any]
    """What names the checkpoint in the record: path, role, step, manifest_sha256."""


def outline(config: JobConfig) -> Outline:
    """The evaluation from its settings and the head of its checkpoint."""
    weights = _weights(config)
    return _outline(config, weights, f"{describe(config.data)}, not read yet")


def estimate(config: JobConfig, start: "Checkpoint | None") -> Outline:
    """The evaluation with the data that has been made, else with about what its sources hold."""
    weights = _weights(config)
    config = _with_tokenizer(config, weights)
    prepared = find_data(config)
    if prepared is not None:
        return _ready(config, weights, prepared).outline
    split = config.section(EvaluateConfig).split
    return _outline(config, weights, estimated_line(config, about(config), split))


def prepare(config: JobConfig, start: "Checkpoint | None", say: Say) -> Ready:
    """Make the data with the checkpoint's tokenizer; `start` is None, nothing is resumed."""
    weights = _weights(config)
    config = _with_tokenizer(config, weights)
    return _ready(config, weights, make_data(config, say))


def _with_tokenizer(config: JobConfig, weights: "Weights") -> JobConfig:
    assert weights.tokenizer is not None  # `_weights` checks it
    given = TokenizerConfig(kind="file", path=str(weights.tokenizer))
    return replace(config, tokenizer=given)


def _ready(config: JobConfig, weights: "Weights", prepared: Prepared) -> Ready:
    split = config.section(EvaluateConfig).split
    sets = [getattr(own, split) for own in prepared.datasets.values()]
    documents, tokens = sum(own.documents for own in sets), sum(own.tokens for own in sets)
    found = f"{describe(config.data)}: {documents:,} {split} documents, {tokens:,} tokens"
    published = prepared.published()
    named = {
        "path": str(weights.path),
        "role": weights.role,
        "step": weights.step,
        "manifest_sha256": weights.manifest_sha256,
    }
    return Ready(
        _outline(config, weights, found),
        Inputs(published, _role(config, weights), named),
        partial(record_data, config=config, prepared=prepared, drift={}),
        tuple(published.folders()),
    )


def _weights(config: JobConfig) -> "Weights":
    """The head of the checkpoint to evaluate.

    Raises:
        ValueError: it is missing, damaged, holds no model of language, or has no tokenizer.
    """
    found = verified_weights(
        str(config.checkpoint), config.section(EvaluateConfig).role, "checkpoint"
    )
    if not isinstance(found.model_config, LanguageModelConfig):
        raise ValueError(
            f"checkpoint={config.checkpoint} holds no model of language, and only such a model "
            "predicts text; give a checkpoint of stage=pretrain"
        )
    if found.tokenizer is None:
        raise ValueError(
            f"checkpoint={config.checkpoint} has no tokenizer.json, and its tokens can't be known; "
            "give a checkpoint of a run on text"
        )
    T, longest = config.data.sequence_length, found.model_config.max_positions
    if longest < T:
        raise ValueError(
            f"data.sequence_length={T} is longer than the {longest} positions of the model in "
            f"checkpoint={config.checkpoint}; try data.sequence_length={longest}"
        )
    return found


def _role(config: JobConfig, weights: "Weights") -> RoleConfig:
    assert weights.model_config is not None  # `_weights` checks it
    model = replace(
        language(weights.model_config),
        weights=str(weights.path),
        weights_role=weights.role,
    )
    return replace(config.role("model"), model=model)


def _outline(config: JobConfig, weights: "Weights", data: str) -> Outline:
    role, workers = _role(config, weights), config.workers
    parameters = cost.parameters(role.model)
    lines = {
        "model": f"{role.model.family}, {parameters:,} parameters",
        "weights": "\n".join(weights.lines("model")),
        "data": data,
        "batch": f"{counted(config.batch.micro, 'sequence')} x {counted(workers, 'worker')} of "
        f"{counted(config.data.sequence_length, 'token')}",
    }
    return Outline(
        0,
        lines,
        {"model": RoleOutline(role, parameters, largest_layer=cost.largest_layer(role.model))},
        score=Score(f"{config.section(EvaluateConfig).split}/bits_per_byte"),
    )
