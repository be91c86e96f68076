"""Rewards that a function computes: of a prompt, an answer to it, and the answer of the data.

Each lies between 0 and 1 and is 0 for an answer without a word. A word is a run of letters, digits
and underscores, in lower case; so `os.path` is two.
"""

import re
from collections import Counter
from collections.abc import Callable

Rule = Callable[[str, str, str], float]
"""(prompt, answer, reference answer) -> reward."""
WORD = re.compile(r"\w+")
PAIRS = {"(": ")", "[": "]", "{": "}", "`": "`", '"': '"'}


def words(text: str) -> list[str]:
    """The words of a text, in their order."""
    return WORD.findall(text.lower())


def exact(prompt: str, answer: str, reference: str) -> float:
    """1 if the answer is that of the data, but for space around it."""
    return float(bool(words(answer)) and answer.strip() == reference.strip())


def contains(prompt: str, answer: str, reference: str) -> float:
    """1 if the answer of the data stands in the answer."""
    return float(bool(words(answer)) and reference.strip() in answer)


def word_f1(prompt: str, answer: str, reference: str) -> float:
    """F1 of the answer's words against the reference's (Rajpurkar et al. 2016, section 6.1)."""
    given, wanted = words(answer), words(reference)
    common = (Counter(given) & Counter(wanted)).total()
    return 2 * common / (len(given) + len(wanted)) if common else 0.0


def full_stop(prompt: str, answer: str, reference: str) -> float:
    """As `word_f1`, of which an answer gets half that does not end with a full stop.

    What is right, said as a sentence: neither form nor the right words alone give more than half.
    """
    closed = answer.rstrip().endswith(".")
    return word_f1(prompt, answer, reference) * (1.0 if closed else 0.5)


def from_prompt(prompt: str, answer: str, reference: str) -> float:
    """Share of the answer's words that stand in the prompt: what is answered was read there."""
    given, known = words(answer), set(words(prompt))
    return sum(word in known for word in given) / len(given) if given else 0.0


def length(prompt: str, answer: str, reference: str) -> float:
    """The shorter of answer and reference over the longer, in words: 1 for as many."""
    given, wanted = len(words(answer)), len(words(reference))
    return min(given, wanted) / max(given, wanted) if given else 0.0


def no_repetition(prompt: str, answer: str, reference: str) -> float:
    """Share of the answer's words that it has not used before."""
    given = words(answer)
    return len(set(given)) / len(given) if given else 0.0


def closed(prompt: str, answer: str, reference: str) -> float:
    """1 if each bracket, back quote and double quote of the answer that opens is closed in turn."""
    open_ones: list[str] = []
    for mark in re.findall(r"[][(){}`\"]", answer):
        if open_ones and open_ones[-1] == mark:
            open_ones.pop()
        elif mark in PAIRS:
            open_ones.append(PAIRS[mark])
        else:
            return 0.0
    return float(bool(words(answer)) and not open_ones)


def whole(prompt: str, answer: str, reference: str) -> float:
    """1 for a name, a call or a sentence and nothing else, on one line."""
    return float(
        re.fullmatch(r"[\w.]*\w|[\w.]*\w\([^\n]*\)|[A-Z][^\n]*\.", answer.strip()) is not None
    )


def sentence(prompt: str, answer: str, reference: str) -> float:
    """1 for one line that begins with a capital letter and ends with its only full stop."""
    return float(re.fullmatch(r"[A-Z][^.\n]*\w[^.\n]*\.", answer.strip()) is not None)


RULES: dict[str, Rule] = {
    "exact": exact,
    "contains": contains,
    "word_f1": word_f1,
    "full_stop": full_stop,
    "from_prompt": from_prompt,
    "length": length,
    "no_repetition": no_repetition,
    "closed": closed,
    "whole": whole,
    "sentence": sentence,
}
REFERENCED = frozenset({"exact", "contains", "word_f1", "length"})
"""Those that look at the answer of the data, and say nothing where there is none."""
