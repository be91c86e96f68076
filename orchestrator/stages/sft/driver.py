"""Supervised fine-tuning in the process that starts the job: arithmetic, conversations, record."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data.chat import template_of
from data.files import cache_root
from data.sources.conversation import Conversation
from data.sources.conversations import file_conversations, named
from data.sources.python_questions import python_questions
from orchestrator.config import JobConfig
from orchestrator.stages.examples.driving import outline_of, ready_of
from orchestrator.stages.examples.splitting import left_out
from orchestrator.stages.language.preparing import describe
from orchestrator.stages.language.roles import language_role, tokenizer_of_weights, vocabulary_of
from orchestrator.stages.sft.base import base_text
from orchestrator.stages.sft.conversations import PublishedConversations, publish_conversations
from orchestrator.stages.sft.stage import OWN, SFTConfig
from orchestrator.stages.sft.tasks import TaskConfig, of_task
from orchestrator.stages.stage import Outline, Ready, Say, Score, Shown

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

SAME = f"{', '.join(f'stage.{name}' for name in OWN)}, data and the tokenizer"
TRAINING = (
    Shown("train/loss", "train loss {:.3f}"),
    Shown("train/tokens_per_second", "{:,.0f} answer tokens/s", rate=True),
    Shown("train/step_seconds", "{:.3g} s/step", rate=True),
)
EVALUATION = (
    Shown("validation/exact", "held-out answers exact {:.1%}"),
    Shown("validation/loss", "validation loss {:.3f}"),
    Shown("validation/base_loss", "base text {:.3f}"),
)


def outline(config: JobConfig) -> Outline:
    """The job from its settings alone. Raises ValueError for a template that can't be read."""
    size = vocabulary_of(config)
    stage = config.section(SFTConfig)
    template_of(stage.chat_template)
    return _outline(config, f"{_source(stage)}, not read yet", size)


def estimate(config: JobConfig, start: "Checkpoint | None") -> Outline:
    """The same: conversations are counted when they are made."""
    return outline(config)


def prepare(config: JobConfig, start: "Checkpoint | None", say: Say) -> Ready:
    """Read and publish the conversations; check that the job can go on from `start`."""
    stage = config.section(SFTConfig)
    say(f"reading {_source(stage)}")
    conversations = list(_conversations(config, stage))  # a wrong file is told before text is made
    published = publish_conversations(
        conversations,
        _source(stage),
        config.tokenizer,
        template_of(stage.chat_template),
        sequence_length=stage.sequence_length,
        packing=stage.packing,
        validation_fraction=stage.validation_fraction,
        seed=config.seed,
        cache=cache_root(),
        known=tokenizer_of_weights(config),
        base=base_text(config, say),
        replay_fraction=stage.replay_fraction,
        tasks=stage.tasks,
    )
    if published.too_long:
        limit = f"stage.sequence_length={stage.sequence_length}"
        say(left_out(published.too_long, "conversation", limit))
    data = (
        f"{_source(stage)}: {published.conversations:,} train conversations in "
        f"{published.train - published.replayed:,} rows, {published.answered:.0%} of their tokens "
        f"answers; {published.validation:,} held out"
    )
    data += "".join(f"; {name}: {own.line}" for name, own in published.tasks.items())
    if published.replayed:
        data += f"; {published.replayed:,} rows of {describe(config.data)} again"
    return ready_of(
        config,
        start,
        _outline(config, data, published.vocab_size, published),
        published,
        same=SAME,
        name=_name(stage),
        source=", ".join(own.data or "python_docs" for own in _tasks(stage).values()),
        columns={"messages": "list"},
    )


def _tasks(stage: SFTConfig) -> Mapping[str, TaskConfig]:
    """The tasks of the job; a source alone is one without a name."""
    return stage.tasks or {"": TaskConfig(stage.data)}


def _source(stage: SFTConfig) -> str:
    told = []
    for name, task in _tasks(stage).items():
        data = task.data or "questions about functions of Python"
        limits = {"weight": task.weight, "limit": task.limit}
        about = [f"{what} {value:,}" for what, value in limits.items() if value is not None]
        told.append(f"{name} ({', '.join([data, *about])})" if name else data)
    return ", ".join(told)


def _name(stage: SFTConfig) -> str:
    if stage.tasks:
        return "tasks"
    return "python_questions" if stage.data is None else Path(stage.data).stem


def _conversations(config: JobConfig, stage: SFTConfig) -> Iterator[Conversation]:
    for name, task in _tasks(stage).items():
        path = task.data
        found = python_questions(config.seed) if path is None else file_conversations(path)
        if not name:
            yield from found
            continue
        with named(f"stage.tasks.{name}.data"):
            yield from (of_task(own, name, task) for own in found)


def _outline(
    config: JobConfig, data: str, vocabulary: int, published: PublishedConversations | None = None
) -> Outline:
    return outline_of(
        config,
        language_role(config, vocabulary),
        data,
        example="row",
        published=published,
        each=None if published is None else round(published.tokens),
        training=TRAINING,
        evaluation=EVALUATION,
        score=Score("validation/exact", lower_is_better=False),
        longest=config.section(SFTConfig).sequence_length,
    )
