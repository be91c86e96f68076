"""What is left out before anybody is asked, or of what was answered, and the sentence about it."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from data.sources.conversations import named
from models.configs import language
from orchestrator.stages.asking.driving import Found
from orchestrator.stages.examples.splitting import left_out
from orchestrator.stages.stage import Say

One = TypeVar("One")


def fitting(
    asked: Found,
    every: Sequence[One],
    fits: Callable[[One, int], bool],
    *,
    where: Callable[[One], str],
    kind: str,
    need: str,
    say: Say,
) -> list[One]:
    """Those that a model of this machine has room for; how many are left out is told.

    Args:
        asked: the model.
        every: what it is to be asked about.
        fits: whether one of them does into so many positions.
        where: names one of them in errors.
        kind: what one of them is called.
        need: what does not fit where none does, and what to do.
        say: gets the line.

    Raises:
        ValueError: none fits, or a text holds what only a chat template may write.
    """
    assert asked.role is not None
    positions, found = language(asked.role.model).max_positions, list[One]()
    for one in every:
        with named(where(one)):
            if fits(one, positions):
                found.append(one)
    if not found:
        raise ValueError(
            f"{asked.where}.model={asked.config.model} has {positions} positions, and no {kind} "
            f"{need}"
        )
    if left := len(every) - len(found):
        say(left_out(left, kind, f"the {asked.name}'s {positions} positions"))
    return found


def fewer(file: str, rows: int, of: int, kind: str, why: str) -> tuple[str, ...]:
    """The sentence about a file that has not all, where it has not.

    Args:
        file: its name.
        rows: that it has.
        of: as many as there were.
        kind: what these are called.
        why: of the others.
    """
    return (f"{file} has {rows:,} of {of:,} {kind}: the others {why}",) if rows < of else ()
