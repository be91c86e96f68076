"""Questions about functions of Python, with the answers that their documentation gives.

Those of conversations are about the functions of modules of the first level, and what is learned
is to know: a function is asked about in several wordings, of which the last of each kind is never
trained on. Those that answers are compared for come with the documentation of two functions, of
which one has the answer, so that functions can be asked about that were never seen.

Where a name or a sentence stands in a question it is quoted, and an answer begins a line of the
documentation: so both are of the same tokens in all places, behind a space or not. Without that a
small model has to learn for each word that " dumps" is "dumps".
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
READ_AGAIN = 50  # one in so many functions is asked about in the wording that is held out
KNOWN_AGAIN = 4  # the same of those that are to be known
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


def questions(seed: int) -> Iterator[Question]:
    """Questions of each kind about each function, to be answered by reading.

    Args:
        seed: chooses wordings, and the function whose documentation stands beside.
    """
    every = functions()
    for place, function in enumerate(every):
        chosen = random.Random(f"{seed} {function.name}")
        for kind, (*wordings, held_out) in ASKED.items():
            asked = [chosen.choice(wordings)]
            if place % READ_AGAIN == 0:
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
                )


def python_questions(seed: int) -> Iterator[Conversation]:
    """Questions of each kind, in all wordings, about functions that are called as MODULE.NAME.

    Args:
        seed: of the wording in which a function is asked about that is never trained on.
    """
    known = [own for own in functions() if "." not in f"{own.module}{own.name}"]
    for place, function in enumerate(known):
        chosen = random.Random(f"{seed} {function.name}")
        for kind, (*wordings, held_out) in ASKED.items():
            answer = ("assistant", function.answer(kind))
            chosen.shuffle(wordings)
            for number, wording in enumerate(wordings):
                question = ("user", wording.format(name=function.name, does=function.does))
                yield Conversation((question, answer), function.name, FUNCTIONS, again=number > 0)
            if place % KNOWN_AGAIN == 0:
                question = ("user", held_out.format(name=function.name, does=function.does))
                yield Conversation((question, answer), function.name, FUNCTIONS, WORDINGS)
