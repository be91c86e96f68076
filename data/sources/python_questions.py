"""Questions about functions of Python, with the answers that their documentation gives.

Each question comes with the documentation of two functions, of which one has the answer: what is
learned is to read, so functions that were never seen can be asked about. Every question is worded
in several ways; the last wording of each kind is never trained on.

Where a name or a sentence stands in a question it is quoted, and an answer begins a line of the
documentation: so both are of the same tokens in all places, behind a space or not. Without that a
small model has to learn for each word that " dumps" is "dumps", and copies nothing for long.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from data.sources.conversation import Conversation
from data.sources.python_docs import documented_functions

FUNCTIONS, WORDINGS = "new functions", "new wordings"
ASKED = {
    "does": (
        "What does `{name}` do?",
        "What is `{name}` for?",
        "Tell me what `{name}` does.",
        "Describe `{name}`.",
        "Explain what `{name}` is good for.",
    ),
    "which": (
        'Which function does this: "{does}"',
        'Name the function: "{does}"',
        'I need this: "{does}" What do I call?',
        'What is it called: "{does}"',
        'Find me the function: "{does}"',
    ),
    "arguments": (
        "What are the arguments of `{name}`?",
        "Which arguments does `{name}` take?",
        "How is `{name}` called?",
        "Give me the signature of `{name}`.",
        "What do I pass to `{name}`?",
    ),
    "module": (
        "Which module is `{name}` in?",
        "Where is `{name}`?",
        "What do I import for `{name}`?",
        "Name the module of `{name}`.",
        "In what module do I find `{name}`?",
    ),
}
"""Wordings of each kind of question, the last one held out."""
ASKED_AGAIN = 50  # one in so many functions is asked about in the wording that is held out
LONGEST = {"module": 25, "name": 30, "arguments": 50, "does": 80}  # characters
SHORTEST_SENTENCE = 15


@dataclass(frozen=True)
class Function:
    """What the documentation says of a function."""

    module: str
    name: str
    """In its module."""
    arguments: str
    """In parentheses."""
    does: str
    """The first sentence, with its full stop."""

    @property
    def lines(self) -> str:
        """Its documentation."""
        return f"{self.module}\n{self.name}{self.arguments}\n{self.does}\n"

    def answer(self, kind: str) -> str:
        """To a question of this kind."""
        answers = {"does": self.does, "which": self.name, "module": self.module}
        return answers.get(kind, f"{self.name}{self.arguments}")


@cache  # parsing takes a second or two
def functions() -> tuple[Function, ...]:
    """Public functions of the standard library that one line tells of.

    Each name and each sentence comes once: another function of the same would give an answer away.
    """
    found: dict[str, Function] = {}
    sentences: set[str] = set()
    for module, name, arguments, text in documented_functions():
        own = [word for word in arguments.split(", ") if word not in ("self", "cls", "")]
        sentence = " ".join(text.split("\n\n")[0].split()).split(". ")[0].rstrip(".")
        parts = {"module": module, "name": name, "arguments": ", ".join(own), "does": sentence}
        public = not any(part.startswith("_") for part in f"{module}.{name}".split("."))
        fits = all(len(parts[part]) <= most for part, most in LONGEST.items())
        new = name not in found and sentence not in sentences
        if public and fits and new and len(sentence) >= SHORTEST_SENTENCE:
            sentences.add(sentence)
            found[name] = Function(module, name, f"({', '.join(own)})", f"{sentence}.")
    return tuple(found.values())


@dataclass(frozen=True)
class Question:
    """About a function, beside whose documentation that of another stands."""

    asked: str
    function: Function
    answer: str
    wrong: str
    """What would be right for the other function."""
    new_wording: bool
    """Whether it is worded as no question that is trained on."""
    again: bool
    """Whether the same has been asked before in other words."""


def questions(seed: int) -> Iterator[Question]:
    """Questions of each kind about each function, in all wordings.

    Args:
        seed: orders wordings, and chooses the function whose documentation stands beside.
    """
    every = functions()
    for place, function in enumerate(every):
        chosen = random.Random(f"{seed} {function.name}")
        for kind, (*wordings, held_out) in ASKED.items():
            asked = chosen.sample(wordings, len(wordings))
            if place % ASKED_AGAIN == 0:
                asked.append(held_out)
            for wording in asked:
                other = every[(place + chosen.randrange(1, len(every))) % len(every)]
                both = [function.lines, other.lines]
                chosen.shuffle(both)
                question = wording.format(name=function.name, does=function.does)
                yield Question(
                    "\n".join([*both, question]),
                    function,
                    function.answer(kind),
                    other.answer(kind),
                    wording is held_out,
                    wording not in (asked[0], held_out),
                )


def python_questions(seed: int) -> Iterator[Conversation]:
    """Each question with its answer; see `questions`."""
    for own in questions(seed):
        messages = ("user", own.asked), ("assistant", own.answer)
        held_out = WORDINGS if own.new_wording else None
        yield Conversation(messages, own.function.name, FUNCTIONS, held_out, own.again)
