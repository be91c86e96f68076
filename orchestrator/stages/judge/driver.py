"""A judge at work in the process that starts the job: the pairs, who judges, what it will cost."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from data.chat import template_of
from data.messages import counted, shown
from data.sources.conversations import file_preferences
from orchestrator.config import JobConfig
from orchestrator.record.journal import Journal
from orchestrator.stages.asking.driving import Found, find
from orchestrator.stages.asking.items import Item, read_items
from orchestrator.stages.asking.leaving_out import fitting
from orchestrator.stages.asking.spending import expected
from orchestrator.stages.asking.verdicts import answers_of, questions
from orchestrator.stages.judge.stage import JudgingConfig
from orchestrator.stages.stage import Outline, Ready, Say, Score

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint


@dataclass(frozen=True)
class Inputs:
    """What the ranks of a judge get."""

    items: tuple[Item, ...]
    judge: Found
    people: dict[str, float]
    """What people say of some items, by their ids: 1 if the first answer is better, else 0."""


def outline(config: JobConfig) -> Outline:
    """The job from its settings alone. Raises ValueError for a judge that can't be asked."""
    stage = config.section(JudgingConfig)
    template_of(stage.judge.chat_template)
    return _outline(_judge(config), f"{stage.data}, not read yet", {})


def estimate(config: JobConfig, start: "Checkpoint | None") -> Outline:
    """The outline that `prepare` gives: reading the pairs is quick, and nobody is asked."""
    return _ready(config, lambda _: None).outline


def prepare(config: JobConfig, start: "Checkpoint | None", say: Say) -> Ready:
    """Read the pairs and what people say of them; `start` is None, nothing is resumed."""
    return _ready(config, say)


def _judge(config: JobConfig) -> Found:
    """Who compares. Raises ValueError for one that can't be asked, or not that."""
    stage = config.section(JudgingConfig)
    found = find(config, "judge", stage.judge, compares=True)
    if found.tells_rewards and stage.criterion != JudgingConfig.criterion:
        raise ValueError(
            f"stage.judge.model={stage.judge.model} is a reward model, which goes by what it has "
            "learned; leave stage.criterion out, or give a model that writes"
        )
    return found


def _ready(config: JobConfig, say: Say) -> Ready:
    stage = config.section(JudgingConfig)
    judge = _judge(config)
    items = read_items(Path(str(stage.data)))
    if items[0].second is None:
        raise ValueError(
            f"stage.data={stage.data} has single answers, which people rate; a judge compares: "
            'give rows {"prompt": "...", "answers": ["...", "..."]}'
        )
    items = _fitting(judge, items, stage, say)
    people = {} if stage.people is None else _people(stage.people, items)
    gold = sum(item.gold is not None for item in items)
    known = f", the better one known of {gold:,}" if gold else ""
    said = f", {len(people):,} judged by people" if people else ""
    data = f"{stage.data}: {counted(len(items), 'pair')} of answers{known}{said}"
    lines = {}
    if stage.judge.endpoint is not None:
        asked = [one for item in items for one in questions(item, stage.criterion)]
        lines["cost"] = expected(stage.judge, asked, len(items))
    elif judge.role is not None:
        kind = "answer" if judge.tells_rewards else "question"
        at_once = counted(stage.judge.batch_size, kind)
        lines["job"] = f"{2 * len(items):,} {kind}s, {at_once} at a time"

    def record(journal: Journal, folder: Path) -> None:
        content = "".join(sorted(item.id for item in items))
        journal.event(
            "dataset",
            name=Path(str(stage.data)).stem,
            source=stage.data,
            split="judged",
            mixture=False,
            folder=str(Path(str(stage.data)).resolve().parent),
            fingerprint=sha256(content.encode()).hexdigest(),
            examples=len(items),
            columns={"prompt": "string", "answers": "list"},
        )

    score = Score("judge/accuracy", lower_is_better=False) if gold else None
    score = score or Score("judge/self_disagreement")
    return Ready(
        _outline(judge, data, lines, score),
        Inputs(tuple(items), judge, people),
        record,
    )


def _fitting(judge: Found, items: list[Item], stage: JudgingConfig, say: Say) -> list[Item]:
    """The items that a model of this machine has room for; the others are told.

    Raises:
        ValueError: none fits, or a text holds what only a chat template may write.
    """
    if judge.role is None:
        return items
    from orchestrator.stages.asking.local import fits, fits_scored, word_tokens

    chat = judge.chat()
    if not judge.tells_rewards:
        word_tokens(chat.tokenizer)

    def has_room(item: Item, positions: int) -> bool:
        if judge.tells_rewards:
            return all(fits_scored(chat, own, positions) for own in answers_of(item))
        return fits(chat, questions(item, stage.criterion)[0], positions)

    return fitting(
        judge,
        items,
        has_room,
        where=lambda item: f"stage.data={stage.data}: the question {shown(item.prompt)}",
        kind="pair",
        need=f"of {stage.data} with the question fits; take a model with more, or shorter answers",
        say=say,
    )


def _people(path: str, items: list[Item]) -> dict[str, float]:
    """What people say of the items. Raises ValueError if the file says nothing of any."""
    first = {(item.prompt, item.first, item.second): item.id for item in items}
    found = {}
    for one in file_preferences(path):
        asked, chosen, rejected = one.chosen[0][1], one.chosen[-1][1], one.rejected[-1][1]
        for texts, value in (((chosen, rejected), 1.0), ((rejected, chosen), 0.0)):
            if (key := (asked, *texts)) in first:
                found[first[key]] = value
    if not found:
        raise ValueError(
            f"stage.people={path} judges no pair of the data; give what `orchestrate label export` "
            "has written of the same file"
        )
    return found


def _outline(judge: Found, data: str, lines: dict[str, str], score: Score | None = None) -> Outline:
    return Outline(0, {"judge": judge.line, "data": data, **lines}, judge.outlines, score=score)
