"""Direct preference optimization in the process that starts the job: arithmetic, pairs, record."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data.chat import template_of
from data.files import cache_root
from data.sources.conversation import Preference
from data.sources.conversations import file_preferences
from data.sources.rankings import python_preferences
from orchestrator.config import JobConfig
from orchestrator.stages.dpo.pairs import PublishedPreferences, publish_preferences
from orchestrator.stages.dpo.stage import OWN, DPOConfig
from orchestrator.stages.examples.driving import outline_of, ready_of
from orchestrator.stages.examples.published import open_arrays
from orchestrator.stages.examples.ragged import filled_lengths
from orchestrator.stages.examples.splitting import left_out
from orchestrator.stages.language.roles import language_role, tokenizer_of_all
from orchestrator.stages.rewards import RULES
from orchestrator.stages.stage import (
    LOOKED_AT,
    Outline,
    Ready,
    RoleOutline,
    Say,
    Score,
    Shown,
    Work,
)
from orchestrator.stages.weights import verified_weights

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

SAME = f"{', '.join(f'stage.{name}' for name in OWN)} and model.weights"
TRAINING = (
    Shown("train/loss", "train loss {:.3f}"),
    Shown("train/accuracy", "pairs told apart {:.1%}"),
    Shown("train/step_seconds", "{:.3g} s/step", rate=True),
)
EVALUATION = (
    Shown("validation/accuracy", "held-out pairs told apart {:.1%}"),
    Shown("validation/loss", "validation loss {:.3f}"),
)


def outline(config: JobConfig) -> Outline:
    """The job from its settings alone. Raises ValueError for models that read other tokens."""
    stage = config.section(DPOConfig)
    template_of(stage.chat_template)
    return _outline(config, f"{_source(stage)}, not read yet", tokenizer_of_all(config).vocab_size)


def estimate(config: JobConfig, start: "Checkpoint | None") -> Outline:
    """The same: pairs are counted when they are made."""
    return outline(config)


def prepare(config: JobConfig, start: "Checkpoint | None", say: Say) -> Ready:
    """Read and publish the pairs; check that the job can go on from `start`."""
    stage = config.section(DPOConfig)
    say(f"reading {_source(stage)}")
    published = publish_preferences(
        _preferences(config, stage),
        _source(stage),
        tokenizer_of_all(config),
        template_of(stage.chat_template),
        sequence_length=stage.sequence_length,
        validation_fraction=stage.validation_fraction,
        seed=config.seed,
        cache=cache_root(),
    )
    if stage.compares and not stage.live:
        model = config.role("reference").model
        assert model.weights is not None  # the stage has checked it
        found = verified_weights(model.weights, model.weights_role, allow_pickle=model.allow_pickle)
        published = replace(published, reference=(str(found.path), found.manifest_sha256))
    if published.too_long:
        say(left_out(published.too_long, "pair", f"stage.sequence_length={stage.sequence_length}"))
    data = (
        f"{_source(stage)}: {published.train:,} train and {published.validation:,} held-out pairs, "
        f"{published.tokens:.1f} tokens a row"
    )
    return ready_of(
        config,
        start,
        _outline(config, data, published.vocab_size, published),
        published,
        same=SAME,
        name=f"python_{stage.rule}" if stage.data is None else Path(stage.data).stem,
        source=stage.data or "python_docs",
        columns={"chosen": "list", "rejected": "list"},
    )


def _source(stage: DPOConfig) -> str:
    return stage.data or f"answers to questions about functions of Python by {stage.rule}"


def _preferences(config: JobConfig, stage: DPOConfig) -> Iterator[Preference]:
    if stage.data is None:
        return python_preferences(config.seed, RULES[stage.rule])
    return file_preferences(stage.data)


def _outline(
    config: JobConfig, data: str, vocabulary: int, published: PublishedPreferences | None = None
) -> Outline:
    stage, length = config.section(DPOConfig), None
    longest = stage.sequence_length
    if published is not None:
        [ends] = open_arrays(published.fingerprint, cache_root(), "train-ends")
        length, longest = filled_lengths(ends, 2 * config.batch.micro)
    compared = int(stage.loss == "kto")  # with the answers to other questions
    found = outline_of(
        config,
        language_role(config, vocabulary),
        data,
        example="pair",
        published=published,
        each=None if published is None else round(2 * published.tokens),
        training=TRAINING,
        evaluation=EVALUATION,
        score=Score("validation/accuracy", lower_is_better=False),
        work=Work(rows=2, looks=compared, loss="losses"),
        length=length,
        longest=longest,
    )
    if not stage.live:
        return found
    work = replace(LOOKED_AT, rows=2, looks=1 + compared, loss="losses")
    frozen = RoleOutline.of(language_role(config, vocabulary, "reference"), work)
    return replace(found, roles={**found.roles, "reference": frozen})
