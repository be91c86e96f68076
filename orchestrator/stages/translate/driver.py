"""Translation in the process that starts the job: its arithmetic, its pairs, its record."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from data.files import cache_root
from data.sources.locale_pairs import locale_pairs
from data.sources.pair import Pair
from data.sources.pairs import file_pairs
from models.configs import reads_tokens
from orchestrator.config import JobConfig
from orchestrator.stages.examples.driving import outline_of, ready_of
from orchestrator.stages.examples.splitting import left_out
from orchestrator.stages.language.roles import language_role, tokenizer_of_weights, vocabulary_of
from orchestrator.stages.stage import Outline, Ready, Say, Score, Shown
from orchestrator.stages.translate.pairs import PublishedPairs, publish_pairs
from orchestrator.stages.translate.stage import TranslateConfig

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

SAME = "stage.data, stage.languages, stage.pairs, stage.validation_fraction and the tokenizer"
TRAINING = (
    Shown("train/loss", "train loss {:.3f}"),
    Shown("train/tokens_per_second", "{:,.0f} target tokens/s", rate=True),
    Shown("train/step_seconds", "{:.3g} s/step", rate=True),
)
EVALUATION = (
    Shown("validation/accuracy", "held-out texts exact {:.1%}"),
    Shown("validation/loss", "validation loss {:.3f}"),
)


def outline(config: JobConfig) -> Outline:
    """The job from its settings alone. Raises ValueError if a package is missing."""
    stage = config.section(TranslateConfig)
    missing = [name for name in ("babel", "sacrebleu") if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"stage=translate needs {' and '.join(missing)}; "
            "python -m pip install 'orchestrate[translate]'"
        )
    made = f", {stage.pairs:,} pairs and all names" if stage.data is None else ""
    return _outline(config, f"{_source(stage)}{made}, not made yet", vocabulary_of(config))


def estimate(config: JobConfig, start: "Checkpoint | None") -> Outline:
    """The same: pairs are counted when they are made."""
    return outline(config)


def prepare(config: JobConfig, start: "Checkpoint | None", say: Say) -> Ready:
    """Read or make the pairs and publish them; check that the job can go on from `start`."""
    stage = config.section(TranslateConfig)
    longest = reads_tokens(config.role("model").model).max_positions
    say(f"reading {_source(stage)}")
    published = publish_pairs(
        _pairs(config, stage),
        _source(stage),
        config.tokenizer,
        validation_fraction=stage.validation_fraction,
        seed=config.seed,
        longest=longest,
        cache=cache_root(),
        known=tokenizer_of_weights(config),
    )
    if published.too_long:
        say(left_out(published.too_long, "pair", f"model.max_positions={longest}"))
    data = (
        f"{_source(stage)}: {published.train:,} train and {published.validation:,} held-out pairs, "
        f"{published.tokens:.1f} tokens a text"
    )
    return ready_of(
        config,
        start,
        _outline(config, data, published.vocab_size, published),
        published,
        same=SAME,
        name="locale" if stage.data is None else Path(stage.data).name,
        source=stage.data or "babel",
        columns=dict.fromkeys(stage.languages, "string"),
    )


def _source(stage: TranslateConfig) -> str:
    """The pairs in a few words."""
    return f"{stage.data or 'locale data'} ({' to '.join(stage.languages)})"


def _pairs(config: JobConfig, stage: TranslateConfig) -> Iterator[Pair]:
    if stage.data is None:
        return locale_pairs(stage.both, stage.pairs, config.seed)
    return file_pairs(stage.data, stage.both)


def _outline(
    config: JobConfig, data: str, vocabulary: int, published: PublishedPairs | None = None
) -> Outline:
    return outline_of(
        config,
        language_role(config, vocabulary),
        data,
        example="pair",
        published=published,
        each=None if published is None else round(published.tokens),
        training=TRAINING,
        evaluation=EVALUATION,
        score=Score("validation/accuracy", lower_is_better=False),
    )
