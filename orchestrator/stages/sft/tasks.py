"""The tasks of a mixture: what each is, and how often an epoch shows its conversations."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import TYPE_CHECKING

from data.files import expand_home
from data.messages import shown as quoted
from orchestrator.config.checks import check_at_least

if TYPE_CHECKING:
    from data.sources.conversation import Conversation

NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
ALL = "all"  # what the scores call all tasks together
MOST_TIMES = 1000  # an epoch shows one conversation: a larger weight is a slip, and fills memory


@dataclass
class TaskConfig:
    """Conversations of one sort, by the name of their task in `stage.tasks`."""

    data: str | None = None
    """As `stage.data`. null: the questions about functions of Python."""
    weight: int | None = None
    """Conversations of it in an epoch, relative to the other tasks' weights. What people wrote is
    scarce, so an epoch leaves none out and repeats those of tasks that would have too few. null,
    then for all tasks: each comes once (examples-proportional mixing, Raffel et al. 2020)."""
    limit: int | None = None
    """Most of its conversations that are trained on, drawn by the seed, so that a large task does
    not crowd out the others (Wei et al. 2022 take 30,000). null: all that are not held out."""


@dataclass(frozen=True)
class Share:
    """What an epoch has of a task."""

    conversations: int
    """Different ones."""
    shown: int
    """With those that are repeated."""
    held_out: int
    """Never trained on."""

    @property
    def line(self) -> str:
        """For the plan."""
        low, high = self.shown // self.conversations, -(-self.shown // self.conversations)
        often = f"{low:,}" if low == high else f"{low:,} or {high:,}"
        each = "once" if often == "1" else f"{often} times"
        return f"{self.conversations:,} each {each} = {self.shown:,}, {self.held_out:,} held out"


def check_tasks(tasks: Mapping[str, TaskConfig]) -> None:
    """Fill in home folders. Raises ValueError for tasks that can't be; names what would do."""
    of_data: dict[str | None, str] = {}
    for name, task in tasks.items():
        where = f"stage.tasks.{name}"
        near = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:58] + "_1" * (name in ("", ALL))
        if not NAME.fullmatch(name) or name == ALL:
            raise ValueError(
                f"stage.tasks: the name {quoted(name)} must be 1 to 60 letters, digits, _ and -, "
                f"and not {ALL}: metrics are called by it; try {near}"
            )
        for setting in ("weight", "limit"):
            if (value := getattr(task, setting)) is not None:
                check_at_least(f"{where}.{setting}", value, 1)
        task.data = expand_home(f"{where}.data", task.data)
        if task.data in of_data:
            raise ValueError(
                f"{where}.data={task.data or 'null'} is that of stage.tasks.{of_data[task.data]}, "
                "too; to show conversations more often give their one task a larger weight"
            )
        of_data[task.data] = name
    without = [name for name, task in tasks.items() if task.weight is None]
    if 0 < len(without) < len(tasks):
        raise ValueError(
            f"stage.tasks.{without[0]}.weight=null among tasks with weights; give each task a "
            f"weight, stage.tasks.{without[0]}.weight=1, or none"
        )


def of_task(own: Conversation, name: str, task: TaskConfig) -> Conversation:
    """A conversation with scores of its task, or of its kind in it where the task has several."""
    if task.data is not None:
        return replace(own, kind=name)
    held_out = None if own.held_out is None else f"{name}/{own.held_out}"
    return replace(own, kind=f"{name}/{own.kind}", held_out=held_out)


def task_of(own: Conversation) -> str:
    """The name that `of_task` was given."""
    return own.kind.partition("/")[0]


def limited(
    train: Sequence[Conversation], tasks: Mapping[str, TaskConfig], seed: int
) -> list[Conversation]:
    """Of each task at most its limit, in their order."""
    kept = set(range(len(train)))
    for name, own in _places([task_of(one) for one in train]).items():
        limit = tasks[name].limit if name in tasks else None
        if limit is not None and limit < len(own):
            kept -= set(own) - set(random.Random(f"{seed} {name}").sample(own, limit))
    return [train[n] for n in sorted(kept)]


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    """Where each name stands."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(name, []).append(place)
    return found


def shares_of(
    tasks: Iterable[str], train: Sequence[str], often: Sequence[int], held_out: Sequence[str]
) -> dict[str, Share]:
    """What an epoch has of each task.

    Args:
        tasks: their names.
        train: the task of each conversation to train on.
        often: how often an epoch shows each of them.
        held_out: the task of each that is held out.
    """
    different, never, shown = Counter(train), Counter(held_out), Counter[str]()
    for name, each in zip(train, often, strict=True):
        shown[name] += each
    return {name: Share(different[name], shown[name], never[name]) for name in tasks}


def times(names: Sequence[str], weights: Mapping[str, int | None], seed: int) -> list[int]:
    """How often an epoch shows each conversation, so that tasks stand exactly as their weights.

    Every conversation comes at least once; of a task the numbers differ by one at most, and whose
    is the larger the seed says.

    Args:
        names: the task of each conversation.
        weights: of each task, or None for all.
        seed: of the draw.

    Raises:
        ValueError: one would come more than MOST_TIMES times.
    """
    whole = {name: weight for name, weight in weights.items() if weight is not None}
    if not whole:
        return [1] * len(names)
    places = _places(names)
    common = gcd(*whole.values())
    unit = max(-(-len(places[name]) * common // weight) for name, weight in whole.items())
    found = [0] * len(names)
    for name, weight in whole.items():
        own = places[name]
        every, over = divmod(unit * weight // common, len(own))
        if every + (over > 0) > MOST_TIMES:
            raise ValueError(
                f"stage.tasks.{name}.weight={weight} would show each of its {len(own):,} "
                f"conversations {every:,} times in an epoch, at most {MOST_TIMES:,} can be; give "
                "it a smaller weight, or the larger tasks a limit"
            )
        again = set(random.Random(f"{seed} {name} again").sample(own, over))
        for n in own:
            found[n] = every + (n in again)
    return found
