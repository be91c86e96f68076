"""What a run that goes on from a checkpoint may change: every setting has its kind.

The settings of a stage have theirs in its section, `StageConfig.changes`; all others stand here.
"""

from collections.abc import Mapping
from enum import Enum

import models
from models.configs import ModelConfig


class Change(Enum):
    """What it means that a run goes on with another value of a setting."""

    FREE = "free"
    """Where, with what or how often; a step computes the same, up to rounding."""
    ACCOUNTED = "accounted"
    """The checkpoint's account of its data decides; it refuses what would repeat or lose a
    sample."""
    MATHEMATICS = "mathematics"
    """Steps compute something else from here on: refused unless `allow_changes` names it."""
    FIXED = "fixed"
    """With another value it is another run."""


_KINDS: dict[Change, Mapping[str, str]] = {
    Change.FREE: {
        "": "outputs resume allow_changes checkpoint",
        "data": "max_repetition on_bad_block",
        "data.drift": "reference policy",
        "engine": "name zero_stage offload_optimizer offload_parameters precision "
        "activation_checkpointing compile",
        "resources": "launcher workers cpus_per_worker gpus_per_worker address wait_minutes "
        "hang_seconds",
        "recovery": "max_restarts budgets longest_wait_seconds disk_wait_minutes",
        "tracking": "enabled uri experiment name system_metrics flush_seconds "
        "finish_timeout_seconds",
    },
    Change.ACCOUNTED: {
        "data": "source path split text_column records streaming weight datasets phases "
        "sequence_length row_tokens document_characters",
        "data.validation": "path split take",
        "data.contract": "columns not_null not_empty max_characters",
        "tokenizer": "kind vocab_size digits mask path end_of_text",
    },
    Change.MATHEMATICS: {
        "data": "isolate_documents",
        "model": "dropout adapter_dropout",
        "optim": "learning_rate beta1 beta2 momentum nesterov epsilon weight_decay l1 "
        "gradient_clip schedule warmup_steps decay_fraction final_fraction",
    },
    Change.FIXED: {
        "": "seed",
        "data": "filters validation_fraction packing seed",
        "model": "family weights weights_role allow_pickle vocab_size max_positions inputs outputs "
        "task model_type settings layers width "
        "heads head_dim kv_heads ffn_width norm positions activation bias qkv_bias qk_norm "
        "tied_embedding rotary_base rotary_scaling rotary_factor rotary_trained_positions "
        "norm_eps init_std score mask window sparse hidden init cost norm_order shared_embedding "
        "segments classes value_head adapter adapter_rank adapter_tokens adapter_alpha "
        "adapter_targets",
        "optim": "name",
    },
}
KINDS = {
    f"{section}.{name}".lstrip("."): kind
    for kind, sections in _KINDS.items()
    for section, names in sections.items()
    for name in names.split()
}
"""Of every setting but those of stages, by its name; those of one role or of one dataset of a
mixture are of the kind of the job's own."""


def kind_of(setting: str, of_stage: Mapping[str, Change]) -> Change:
    """The kind of a setting, or of an entry of one, such as `data.contract.columns.text`.

    Args:
        setting: its name, without the role or the dataset it is of.
        of_stage: the kinds of the stage's own settings.
    """
    if setting.startswith("stage."):
        return of_stage[setting.split(".")[1]]
    while setting not in KINDS:
        setting = setting.rpartition(".")[0]
    return KINDS[setting]


def other_architecture(now: ModelConfig, saved: ModelConfig) -> list[str]:
    """Each setting that keeps a model from going on with the saved state of another."""
    before = models.config_to_dict(saved)
    return [
        f"model.{name}={value} must be {before.get(name)}"
        for name, value in models.config_to_dict(now).items()
        if value != before.get(name) and KINDS[f"model.{name}"] is Change.FIXED
    ]
