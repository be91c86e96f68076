"""A conversation with an assistant, and several of which one is better than another."""

from dataclasses import dataclass

from data.records import Message


@dataclass(frozen=True)
class Conversation:
    """Messages that end with an answer."""

    messages: tuple[Message, ...]
    key: str
    """What it is about: conversations of one key belong to one split."""
    kind: str = "conversations"
    """What is held out with its key, for scores by kind."""
    held_out: str | None = None
    """A kind of its own that is never trained on, whatever the key. None: the key decides."""
    again: bool = False
    """Whether it asks what another asks: it is trained on or left out, and never counts twice."""


@dataclass(frozen=True)
class Preference:
    """Two conversations that differ in the last answer alone."""

    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    key: str
    """What they are about: pairs of one key belong to one split."""
    reference: str | None = None
    """The right answer, where it is known."""


@dataclass(frozen=True)
class Ranking:
    """Conversations that differ in the last answer alone."""

    answers: tuple[tuple[Message, ...], ...]
    """The better before the worse; one alone has a score."""
    key: str
    """What they are about: rankings of one key belong to one split."""
    scores: tuple[float, ...] | None = None
    """Of each answer. None: their order is all that is known."""
    reference: str | None = None
    """The right answer, where it is known."""
    margin: float = 0.0
    """By how much each is at least better than the next, as who compared them said."""
