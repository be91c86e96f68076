"""Questions about functions of Python, with the answers that their documentation gives.

What is learned is to know: each function is asked about in several wordings, of which the last of
each kind is never trained on. Answers are compared for the same questions.

Where a name or a sentence stands in a question it is quoted: so it is of the same tokens in all
places, behind a space or not. Without that a small model has to learn for each word that " dumps"
is "dumps".
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
        "What is `{name}` good for?",
        "Tell me what `{name}` does.",
        "Explain `{name}`.",
        "Explain to me what `{name}` is.",
        "Describe `{name}`.",
        "Say in a sentence what `{name}` is for.",
        "Explain what `{name}` is good for.",
    ),
    "which": (
        'Which function does this: "{does}"',
        'Name the function: "{does}"',
        'I need this: "{does}" What do I call?',
        'What is it called: "{does}"',
        'Find the function for me: "{does}"',
        'What do I call for this: "{does}"',
        'Tell me the name of this: "{does}"',
        'Whose description is this: "{does}"',
        'Find me the function: "{does}"',
    ),
    "arguments": (
        "What are the arguments of `{name}`?",
        "Which arguments does `{name}` take?",
        "How is `{name}` called?",
        "How do I call `{name}`?",
        "Give me the signature of `{name}`.",
        "What can I pass to `{name}`?",
        "What is passed to `{name}`?",
        "What does `{name}` take?",
        "What do I pass to `{name}`?",
    ),
    "module": (
        "Which module is `{name}` in?",
        "Where is `{name}`?",
        "Where do I find `{name}`?",
        "What do I import for `{name}`?",
        "Name the module of `{name}`.",
        "In which module is `{name}`?",
        "Find me the module of `{name}`.",
        "What module has `{name}`?",
        "In what module do I find `{name}`?",
    ),
}
"""Wordings of each kind of question, the last one held out."""
KNOWN_AGAIN = 4  # one in so many functions is asked about in the wording that is held out
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
    """About a function."""

    asked: str
    function: Function
    answer: str
    wrong: str
    """What would be right for another function."""
    new_wording: bool
    """Whether it is worded as no question that is trained on."""
    again: bool
    """Whether the same was asked before, in another wording that is trained on."""


def questions(seed: int) -> Iterator[Question]:
    """Questions of each kind, in all wordings, about functions that are called as MODULE.NAME.

    Args:
        seed: of the order of wordings, and of whose answers are the wrong ones.
    """
    known = [own for own in functions() if "." not in f"{own.module}{own.name}"]
    for place, function in enumerate(known):
        chosen = random.Random(f"{seed} {function.name}")
        others = random.Random(f"{seed} other than {function.name}")
        for kind, (*wordings, held_out) in ASKED.items():
            other = known[(place + others.randrange(1, len(known))) % len(known)]
            chosen.shuffle(wordings)
            for wording in (*wordings, *([held_out] if place % KNOWN_AGAIN == 0 else ())):
                yield Question(
                    wording.format(name=function.name, does=function.does),
                    function,
                    function.answer(kind),
                    other.answer(kind),
                    new_wording=wording is held_out,
                    again=wording not in (wordings[0], held_out),
                )


def python_questions(seed: int) -> Iterator[Conversation]:
    """Each question with its answer; see `questions`."""
    for own in questions(seed):
        messages = ("user", own.asked), ("assistant", own.answer)
        held_out = WORDINGS if own.new_wording else None
        yield Conversation(messages, own.function.name, FUNCTIONS, held_out, own.again)
