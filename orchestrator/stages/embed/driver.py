"""Word vectors in the process that starts the job: their arithmetic, their words, their record."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data.files import cache_root
from orchestrator.config import JobConfig, RoleConfig
from orchestrator.stages.embed.looking import read_questions
from orchestrator.stages.embed.stage import EmbedConfig, word_vectors
from orchestrator.stages.embed.words import PublishedWords, publish_words
from orchestrator.stages.examples import resuming
from orchestrator.stages.examples.driving import outline_of, record_of
from orchestrator.stages.stage import Outline, Ready, Say, Score, Shown

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

SETTINGS = "stage.data, stage.words, stage.min_count, stage.subsample and stage.validation_fraction"
TRAINING = (
    Shown("train/loss", "train loss {:.3f}"),
    Shown("train/pairs_per_second", "{:,.0f} pairs/s", rate=True),
)
EVALUATION = (
    Shown("validation/loss", "validation loss {:.3f}"),
    Shown("validation/ranked_first", "ranked first {:.1%}"),
)


def outline(config: JobConfig) -> Outline:
    """The job from its settings alone."""
    stage = config.section(EmbedConfig)
    _questions(config)
    return _outline(config, f"{_source(config)}, not read yet; {stage.words:,} words at most")


def estimate(config: JobConfig, start: "Checkpoint | None") -> Outline:
    """The job with its words, which are counted for it, as all sizes follow from their number."""
    return _ready(config, start, None).outline


def prepare(config: JobConfig, start: "Checkpoint | None", say: Say) -> Ready:
    """Read, number and publish the words; check that the job can go on from `start`."""
    say(f"reading the words of {_source(config)}")
    return _ready(config, start, cache_root())


def _ready(config: JobConfig, start: "Checkpoint | None", cache: Path | None) -> Ready:
    stage = config.section(EmbedConfig)
    _questions(config)
    published = publish_words(stage, config.seed, cache)
    check_words(stage, published)
    role = role_of(config, len(published.vocabulary))
    if start is not None:
        start_position(start, config, role, published)
    data = (
        f"{_source(config)}: {published.train:,} train and {published.validation:,} validation "
        f"words, {len(published.vocabulary):,} different ones"
    )
    return Ready(
        _outline(config, data, published),
        inputs=published,
        record=partial(
            record_of,
            published=published,
            name="python_docs" if stage.data is None else Path(stage.data).stem,
            source=stage.data or "python_docs",
            columns={"word": "string"},
        ),
        files=(published.folder(cache_root()),),
    )


def role_of(config: JobConfig, words: int) -> RoleConfig:
    """The model with as many words as the text has.

    Raises:
        ValueError: it is of another family, or was given fewer.
    """
    model = word_vectors(config)
    rows = model.vocab_size
    if rows is not None and rows < words:
        raise ValueError(
            f"model.vocab_size={rows} must be at least the {words:,} words of the text; try "
            "model.vocab_size=null, or a larger stage.min_count"
        )
    return replace(config.role("model"), model=replace(model, vocab_size=rows or words))


def start_position(
    start: "Checkpoint", config: JobConfig, role: RoleConfig, published: PublishedWords
) -> int:
    """Centres that `start` was trained on. Raises ValueError as in stages/examples."""
    return resuming.start_position(start, config, role.model, published.fingerprint, SETTINGS)


def check_words(stage: EmbedConfig, published: PublishedWords) -> None:
    """Raise ValueError for a word to be shown that the text does not have often enough."""
    for word in stage.nearest or ():
        if word not in published.vocabulary:
            raise ValueError(
                f"stage.nearest has {word!r}, which stands in the text less than "
                f"stage.min_count={stage.min_count} times; name others, or null"
            )


def dot_products(stage: EmbedConfig, family: str) -> int:
    """Dot products of a centre, on average: of its pairs, each with its negatives."""
    pairs = 1 if family == "cbow" else stage.window + 1
    return pairs * (1 + stage.negatives)


def _questions(config: JobConfig) -> None:
    """Raise ValueError for a file of analogies that can't be read."""
    stage = config.section(EmbedConfig)
    word_vectors(config)
    read_questions(stage.analogies)


def _source(config: JobConfig) -> str:
    return config.section(EmbedConfig).data or "python_docs"


def _outline(config: JobConfig, data: str, published: PublishedWords | None = None) -> Outline:
    stage = config.section(EmbedConfig)
    # Before they are counted there are at most so many words.
    role = role_of(config, stage.words if published is None else len(published.vocabulary))
    return outline_of(
        config,
        role,
        data,
        example="centre",
        published=published,
        each=dot_products(stage, role.model.family),
        training=TRAINING,
        evaluation=EVALUATION,
        score=Score("validation/loss"),
    )
