"""A constitution: a list of principles in a file, each with what a writer is asked for its sake."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data.messages import check_choice, did_you_mean, shown
from orchestrator.stages.rewards import REFERENCED, RULES

BUILT_IN = Path(__file__).with_name("answers.yaml")
CRITIQUE = "Say in what way your answer falls short of this principle: {}"
REVISION = (
    "Write your answer again so that it keeps to this principle: {} Write the new answer alone."
)
KEYS = ("principle", "critique", "revision", "rule", "least")
ITEM = re.compile(r"(?:[-*+]|\d+[.)])\s+(.+)")
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Principle:
    """What an answer must keep to."""

    text: str
    critique: str
    """Asks a writer what is wrong with its answer."""
    revision: str
    """Asks it for a better one."""
    rule: str | None = None
    """A rule in RULES (stages/rewards) that tells whether an answer keeps to it: no critique is
    asked for then."""
    least: float = 1.0
    """Of the rule, for an answer that keeps to it."""

    def kept(self, prompt: str, answer: str) -> bool:
        """Whether an answer keeps to it by its rule; without one nothing speaks against it."""
        return self.rule is None or RULES[self.rule](prompt, answer, "") >= self.least


def read_principles(path: Path, setting: str) -> tuple[Principle, ...]:
    """The principles of a YAML file, or of the lists in a Markdown file.

    A principle in YAML is a text, or a mapping of "principle" and if need be "critique",
    "revision", "rule" and "least".

    Args:
        path: .yaml, .yml or .md.
        setting: whose value the path is, for messages.

    Raises:
        ValueError: nothing is there, or no principle; names the place.
    """
    where = f"{setting}={path}"
    try:
        text = path.read_bytes()[: MOST_BYTES + 1].decode()
    except OSError as error:
        raise ValueError(
            f"{where} can't be read: {error.strerror}; give a YAML or Markdown file"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no UTF-8 ({error}); save it so") from None
    if len(text) > MOST_BYTES:
        raise ValueError(f"{where} has more than {MOST_BYTES:,} bytes; give a list of principles")
    found = tuple(_of_markdown(text) if path.suffix == ".md" else _of_yaml(text, where))
    if not found:
        raise ValueError(
            f"{where} holds no principle; write each on a line of its own, behind a dash: "
            "- An answer is polite."
        )
    return found


def _of_markdown(text: str) -> Iterator[Principle]:
    for line in text.splitlines():
        if item := ITEM.fullmatch(line.strip()):
            yield _principle({"principle": item[1]}, "")


def _of_yaml(text: str, where: str) -> Iterator[Principle]:
    try:
        content: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is no YAML ({error}); repair it") from None
    if isinstance(content, dict) and set(content) == {"principles"}:
        content = content["principles"]
    if content is not None and not isinstance(content, list):
        raise ValueError(f"{where} must be a list of principles, and is {shown(content)}")
    for number, row in enumerate(content or (), 1):
        yield _principle({"principle": row} if isinstance(row, str) else row, f"{where}: {number}.")


def _principle(row: Any, where: str) -> Principle:
    """One principle. Raises ValueError for what is none."""
    text = row.get("principle") if isinstance(row, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f'{where} is {shown(row)}, and needs "principle", a text that is not empty'
        )
    for name, value in row.items():
        if name not in KEYS:
            raise ValueError(
                f"{where} {shown(name)} is no part of it{did_you_mean(str(name), KEYS)}"
            )
        if name != "least" and not isinstance(value, str):
            raise ValueError(f"{where} {name}={shown(value)} must be a text")
    rule, least = row.get("rule"), row.get("least", 1.0)
    if rule is not None:
        check_choice(f"{where} rule", rule, [name for name in RULES if name not in REFERENCED])
    if isinstance(least, bool) or not isinstance(least, int | float) or not 0 < least <= 1:
        raise ValueError(f"{where} least={shown(least)} must be a number in (0, 1]")
    text = text.strip()
    return Principle(
        text,
        row.get("critique") or CRITIQUE.format(text),
        row.get("revision") or REVISION.format(text),
        rule,
        float(least),
    )
