"""A reward model's training in the process that starts the job: arithmetic, examples, record."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from data.chat import template_of
from data.files import cache_root
from data.sources.conversation import Ranking
from data.sources.rankings import file_rankings, python_rankings
from orchestrator.config import JobConfig
from orchestrator.stages.examples.driving import outline_of, ready_of
from orchestrator.stages.examples.published import open_arrays
from orchestrator.stages.examples.ragged import filled_lengths
from orchestrator.stages.examples.splitting import left_out
from orchestrator.stages.language.roles import tokenizer_of_weights, value_role, vocabulary_of
from orchestrator.stages.reward.rankings import PublishedRankings, publish_rankings
from orchestrator.stages.reward.stage import OWN, RewardConfig
from orchestrator.stages.rewards import RULES
from orchestrator.stages.stage import Outline, Ready, Say, Score, Shown, Work

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

SAME = f"{', '.join(f'stage.{name}' for name in OWN)} and the tokenizer"
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
    """The job from its settings alone. Raises ValueError for a template that can't be read."""
    size = vocabulary_of(config)
    stage = config.section(RewardConfig)
    template_of(stage.chat_template)
    return _outline(config, f"{_source(stage)}, not read yet", size)


def estimate(config: JobConfig, start: "Checkpoint | None") -> Outline:
    """The same: examples are counted when they are made."""
    return outline(config)


def prepare(config: JobConfig, start: "Checkpoint | None", say: Say) -> Ready:
    """Read and publish the examples; check that the job can go on from `start`."""
    stage = config.section(RewardConfig)
    say(f"reading {_source(stage)}")
    published = publish_rankings(
        _rankings(config, stage),
        _source(stage),
        config.tokenizer,
        template_of(stage.chat_template),
        sequence_length=stage.sequence_length,
        validation_fraction=stage.validation_fraction,
        seed=config.seed,
        cache=cache_root(),
        known=tokenizer_of_weights(config),
    )
    if published.too_long:
        limit = f"stage.sequence_length={stage.sequence_length}"
        say(left_out(published.too_long, "example", limit))
    data = (
        f"{_source(stage)}: {published.train:,} train examples with {published.answers:,} answers, "
        f"{published.tokens:.1f} tokens each; {published.validation:,} held out"
    )
    return ready_of(
        config,
        start,
        _outline(config, data, published.vocab_size, published),
        published,
        same=SAME,
        name=f"python_{stage.rule}" if stage.data is None else Path(stage.data).stem,
        source=stage.data or "python_docs",
        columns={"answers": "list", "scores": "list"},
    )


def _source(stage: RewardConfig) -> str:
    return stage.data or f"answers to questions about functions of Python by {stage.rule}"


def _rankings(config: JobConfig, stage: RewardConfig) -> Iterator[Ranking]:
    """Those of the job.

    Raises:
        ValueError: they lack what the loss is made of.
    """
    if stage.data is None:
        yield from python_rankings(config.seed, RULES[stage.rule], stage.answers)
        return
    for one in file_rankings(stage.data):
        if stage.ordered and len(one.answers) < 2:
            raise ValueError(
                f"stage.loss={stage.loss} compares answers, and {stage.data} rates each by itself; "
                "try stage.loss=squared_error"
            )
        if not stage.ordered and one.scores is None:
            raise ValueError(
                f"stage.loss={stage.loss} learns ratings, and {stage.data} has none; try "
                "stage.loss=bradley_terry"
            )
        yield one


def _outline(
    config: JobConfig, data: str, vocabulary: int, published: PublishedRankings | None = None
) -> Outline:
    stage, work, length = config.section(RewardConfig), Work(), None
    longest = stage.sequence_length
    if published is not None:
        work = Work(rows=published.answers / published.train)
        [ends] = open_arrays(published.fingerprint, cache_root(), "train-ends")
        length, longest = filled_lengths(ends, round(config.batch.micro * work.rows))
    return outline_of(
        config,
        value_role(config, vocabulary),
        data,
        example="example",
        published=published,
        each=None if published is None else round(published.tokens),
        training=tuple(own for own in TRAINING if stage.ordered or own.metric != "train/accuracy"),
        evaluation=EVALUATION,
        score=Score("validation/accuracy", lower_is_better=False),
        work=work,
        length=length,
        longest=longest,
    )
