"""Revisions in the process that starts the job: principles, prompts, writer, and what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from data.chat import template_of
from data.messages import counted, shown
from orchestrator.config import JobConfig
from orchestrator.record.journal import Journal
from orchestrator.stages.asking.driving import Found, find
from orchestrator.stages.asking.items import Item
from orchestrator.stages.asking.leaving_out import fitting
from orchestrator.stages.asking.requests import Request
from orchestrator.stages.asking.spending import expected, unknown
from orchestrator.stages.asking.verdicts import questions
from orchestrator.stages.constitution.principles import BUILT_IN, Principle, read_principles
from orchestrator.stages.constitution.prompts import Prompt, file_prompts, python_prompts, spread
from orchestrator.stages.constitution.revising import criterion, foreseen
from orchestrator.stages.constitution.stage import ConstitutionConfig
from orchestrator.stages.stage import Outline, Ready, Say, Score

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

COPY = "constitution.txt"


@dataclass(frozen=True)
class Inputs:
    """What the ranks of a job of revisions get."""

    prompts: tuple[Prompt, ...]
    principles: tuple[Principle, ...]
    writer: Found
    judge: Found | None


def outline(config: JobConfig) -> Outline:
    """The job from its settings alone.

    Raises:
        ValueError: a writer or judge that can't be asked, or a constitution that is none.
    """
    stage = config.section(ConstitutionConfig)
    for asked in (stage.writer, stage.judge):
        template_of(asked.chat_template)
    return _outline(config, *_asked(config), _principles(stage), f"{_source(stage)}, not read yet")


def estimate(config: JobConfig, start: "Checkpoint | None") -> Outline:
    """The outline that `prepare` gives: reading the prompts is quick, and nobody is asked."""
    return prepare(config, start, lambda _: None).outline


def prepare(config: JobConfig, start: "Checkpoint | None", say: Say) -> Ready:
    """Read the constitution and the prompts; `start` is None, nothing is resumed."""
    stage = config.section(ConstitutionConfig)
    writer, judge = _asked(config)
    principles = _principles(stage)
    say(f"reading {_source(stage)}")
    source = python_prompts(config.seed) if stage.data is None else file_prompts(stage.data)
    every = list(source)
    if not every:
        raise ValueError(f"stage.data={stage.data} has no prompt; give rows with a prompt each")
    prompts = _fitting(writer, spread(every, stage.prompts), principles, stage, say)
    data = f"{_source(stage)}: {counted(len(prompts), 'prompt')} of {len(every):,}"
    return Ready(
        _outline(config, writer, judge, principles, data, prompts),
        Inputs(tuple(prompts), principles, writer, judge),
        partial(_record, stage=stage, prompts=prompts, principles=principles),
    )


def _asked(config: JobConfig) -> tuple[Found, Found | None]:
    """Writer and judge. Raises ValueError if one can't be asked."""
    stage = config.section(ConstitutionConfig)
    judge = find(config, "judge", stage.judge, compares=True) if stage.judge.asked else None
    return find(config, "writer", stage.writer), judge


def _principles(stage: ConstitutionConfig) -> tuple[Principle, ...]:
    """Those of the job.

    Raises:
        ValueError: there are none, or one without a rule where nobody is asked for a critique.
    """
    path = BUILT_IN if stage.constitution is None else Path(stage.constitution)
    found = read_principles(path, "stage.constitution")
    spoken = [own for own in found if own.rule is None]
    if spoken and stage.revise == "again":
        raise ValueError(
            f"stage.revise=again goes by rules alone, and the principle {shown(spoken[0].text)} of "
            f"stage.constitution={path} has none; try stage.revise=conversation, or give it a rule"
        )
    return found


def _source(stage: ConstitutionConfig) -> str:
    return stage.data or "questions about functions of Python"


def _fitting(
    writer: Found,
    prompts: list[Prompt],
    principles: Sequence[Principle],
    stage: ConstitutionConfig,
    say: Say,
) -> list[Prompt]:
    """The prompts that a model of this machine has room for, with all that is said of an answer.

    Raises:
        ValueError: none fits, or one holds what only a chat template may write.
    """
    if writer.role is None:
        return prompts
    from orchestrator.stages.asking.local import fits

    chat = writer.chat()
    longest = max(
        len(chat.tokenizer.encode(f"{own.critique} {own.revision}")) for own in principles
    )
    more = 0 if stage.revise == "again" else 2 * stage.answer_tokens + longest + TURNS
    room = stage.answer_tokens + more
    return fitting(
        writer,
        prompts,
        lambda prompt, positions: fits(chat, Request(prompt.messages, room), positions),
        where=lambda prompt: f"{_source(stage)}: the prompt {shown(prompt.text)}",
        kind="prompt",
        need=f"fits with {room} tokens for what is said of it; try a smaller stage.answer_tokens",
        say=say,
    )


TURNS = 64  # tokens, at most, that a chat template writes around three more turns


def _record(
    journal: Journal,
    folder: Path,
    *,
    stage: ConstitutionConfig,
    prompts: Sequence[Prompt],
    principles: Sequence[Principle],
) -> None:
    """Put the prompts on record, and the principles into the run folder."""
    content = "".join(repr(prompt.messages) for prompt in prompts)
    source = stage.data or "python_docs"
    journal.event(
        "dataset",
        name="python_questions" if stage.data is None else Path(stage.data).stem,
        source=source,
        split="asked",
        mixture=False,
        folder=str(Path(source).resolve().parent),
        fingerprint=sha256(content.encode()).hexdigest(),
        examples=len(prompts),
        columns={"prompt": "string"},
    )
    text = "".join(
        f"{own.text}\n  rule: {own.rule}, at least {own.least:g}\n" if own.rule else f"{own.text}\n"
        for own in principles
    )
    (folder / COPY).write_text(text, encoding="utf-8")
    journal.event("artifact", path=COPY)


def _outline(
    config: JobConfig,
    writer: Found,
    judge: Found | None,
    principles: Sequence[Principle],
    data: str,
    prompts: Sequence[Prompt] = (),
) -> Outline:
    stage = config.section(ConstitutionConfig)
    ruled = sum(own.rule is not None for own in principles)
    lines = {
        "writer": writer.line,
        "judge": "nobody" if judge is None else judge.line,
        "data": data,
        "principles": f"{len(principles)}, of which rules check {ruled}; at most "
        f"{counted(stage.rounds, 'round')}, revise={stage.revise}",
    }
    if stage.writer.endpoint is not None and prompts:
        lines["cost"] = expected(stage.writer, foreseen(prompts, principles, stage), len(prompts))
    if stage.judge.endpoint is not None and prompts:
        answer = unknown(stage.answer_tokens)
        items = [Item(own.text, answer, f"{answer}.") for own in prompts]
        asked = [one for item in items for one in questions(item, criterion(principles))]
        lines["judging"] = expected(stage.judge, asked, len(items))
    roles = writer.outlines | ({} if judge is None else judge.outlines)
    return Outline(0, lines, roles, score=Score("constitution/kept", lower_is_better=False))
