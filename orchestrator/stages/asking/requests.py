"""What is asked, what is answered, and who can be asked."""

import json
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Protocol

from data.records import Message

WORDS = ("A", "B")
"""Of which one is the answer to a choice."""


@dataclass(frozen=True)
class Request:
    """What is asked: messages behind which the assistant is to speak."""

    messages: tuple[Message, ...]
    most_tokens: int
    """Of the answer."""
    choice: bool = False
    """Whether the answer is to be one of WORDS."""
    temperature: float = 0.0
    seed: int = 0
    """Of the draws, where the temperature is above 0; an endpoint is told it, and may ignore it."""

    def key(self, who: str) -> str:
        """Names the request to somebody by its content."""
        content = json.dumps([who, asdict(self)], ensure_ascii=False)
        return sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class Reply:
    """What was answered."""

    text: str
    tokens_in: int
    tokens_out: int
    chance: float | None = None
    """Of a choice: the probability of the first of WORDS against the second. None: it is no choice,
    or neither was answered."""
    problem: str | None = None
    """Why there is no answer, where there is none; it is asked for again the next time."""
    reward: float | None = None
    """What a reward model gives the last message. None: it is none."""


class Asked(Protocol):
    """One that answers."""

    who: str
    """Names it by what its answers depend on."""
    again: dict[str, int]
    """Why requests were sent again, and how often."""

    def ask(self, requests: Sequence[Request]) -> Generator[tuple[int, Reply]]:
        """The reply to each request with its place, in the order in which they come.

        Closed before its end, it gives up what is still under way.
        """
