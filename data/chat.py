"""Chat templates: a conversation as one row of tokens, and which of them the assistant says.

A template is Jinja, as Hugging Face's tokenizers bring it: it sees `messages` (each with `role` and
`content`), `add_generation_prompt`, `bos_token` and `eos_token`. What the assistant says stands in
its `{% generation %}` blocks; of a template without them it is what an answer adds to the
conversation before it and the header that `add_generation_prompt` writes.

The header, each answer and each special token are encoded by themselves. So no token reaches from a
question into its answer, and a question is encoded the same whether its answer follows or not.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from data.files import DataError, read_json
from data.records import Message, Span
from data.tokenizer import Tokenizer

BUILT_IN = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message.role + '|>\n' }}"
    "{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message.content }}{% endif %}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""The template of a model that brings none: an answer ends with the end of text, one token."""
OPENS, CLOSES = "\ue000", "\ue001"  # stand around an answer while it is rendered; of private use
MOST_BYTES = 1 << 20  # of a file with a template


class _Generation(Extension):
    """The block {% generation %}, which marks what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse up to {% endgeneration %}."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        return f"{OPENS}{caller()}{CLOSES}"


@dataclass(frozen=True)
class ChatRow:
    """A conversation in tokens."""

    tokens: list[int]
    answers: list[bool]
    """For each token whether the assistant says it: its answers with the tokens that end them."""

    @property
    def last_answer(self) -> range:
        """Places of the tokens of the last answer: the others are what it answers."""
        end = len(self.answers) - self.answers[::-1].index(True)
        start = end - 1
        while start and self.answers[start - 1]:
            start -= 1
        return range(start, end)


class ChatTemplate:
    """A template with the tokenizer that it is written for."""

    def __init__(self, source: str, tokenizer: Tokenizer, place: str = "the chat template") -> None:
        """Compile it.

        Args:
            source: Jinja.
            tokenizer: of the model.
            place: names the template in errors.

        Raises:
            DataError: it is no Jinja.
        """
        self.source, self.tokenizer, self.place = source, tokenizer, place
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControls]
        )
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise DataError(f"{place} is no Jinja template: {error}") from None
        names = {token: name for name, token in tokenizer.special.items()}
        self._tokens = {
            "bos_token": names.get(tokenizer.start_of_text, ""),
            "eos_token": names[tokenizer.end_of_text],
        }

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """Any special token of the tokenizer, the longest first."""
        names = sorted(self.tokenizer.special, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, names))})")

    def row(self, messages: Sequence[Message]) -> ChatRow:
        """A conversation in tokens.

        Raises:
            DataError: the template marks no answer, cuts one off its end token, or can't be
                followed; or a message holds what only the template may write.
        """
        text, spans = self.rendered(messages)
        tokens: list[int] = []
        answers: list[bool] = []
        place = 0
        for start, stop in spans:
            before, answer = self._encoded(text[place:start]), self._encoded(text[start:stop])
            if not answer or answer[-1] not in self.tokenizer.special.values():
                raise DataError(
                    f"{self.place} ends an answer with {text[start:stop][-12:]!r}, and the last of "
                    "it must be a special token of the tokenizer, by which the model learns to "
                    "stop; write {{ eos_token }} behind the answer"
                )
            tokens += before + answer
            answers += [False] * len(before) + [True] * len(answer)
            place = stop
        rest = self._encoded(text[place:])
        return ChatRow(tokens + rest, answers + [False] * len(rest))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of messages behind which the assistant is to speak."""
        return self._encoded(self.render(messages, answer=True))

    def rendered(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """The text of a conversation, and where its answers stand with their end tokens."""
        for role, content in messages:
            found = self._special.search(content) or re.search(f"[{OPENS}{CLOSES}]", content)
            if found:
                raise DataError(
                    f"a message of the {role} holds {found[0]!r}, which only the template may "
                    "write; remove it or drop the conversation"
                )
        if "endgeneration" not in self.source:
            return self._by_growth(messages)
        parts = re.split(f"{OPENS}(.*?){CLOSES}", self._filled(messages), flags=re.DOTALL)
        spans, place = [], 0
        for number, part in enumerate(parts):
            if number % 2:
                spans.append((place, place + len(part)))
            place += len(part)
        return "".join(parts), self._checked(messages, spans)

    def render(self, messages: Sequence[Message], *, answer: bool = False) -> str:
        """The text of messages; with the header of an answer that is to come."""
        return re.sub(f"[{OPENS}{CLOSES}]", "", self._filled(messages, answer=answer))

    def _filled(self, messages: Sequence[Message], *, answer: bool = False) -> str:
        own = [{"role": role, "content": content} for role, content in messages]
        try:
            return self._template.render(messages=own, add_generation_prompt=answer, **self._tokens)
        except (TemplateError, TypeError) as error:
            raise DataError(f"{self.place} can't be filled: {error}") from None

    def _by_growth(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        text = self._filled(messages)
        spans = []
        for number, (role, _) in enumerate(messages):
            if role != "assistant":
                continue
            head = self._filled(messages[:number], answer=True)
            whole = self._filled(messages[: number + 1])
            if not (whole.startswith(head) and text.startswith(whole)):
                raise DataError(
                    f"{self.place} writes message {number} otherwise when others follow it, so "
                    "what an answer is can't be told; mark it by {% generation %} ... "
                    "{% endgeneration %}"
                )
            spans.append((len(head), len(whole.rstrip())))
        return text, self._checked(messages, spans)

    def _checked(self, messages: Sequence[Message], spans: list[Span]) -> list[Span]:
        answers = sum(role == "assistant" for role, _ in messages)
        if len(spans) != answers:
            raise DataError(
                f"{self.place} marks {len(spans)} answers of a conversation with {answers}; each "
                "must stand in a {% generation %} block of its own"
            )
        return spans

    def _encoded(self, text: str) -> list[int]:
        tokens: list[int] = []
        for number, part in enumerate(self._special.split(text)):
            special = number % 2
            tokens += [self.tokenizer.special[part]] if special else self.tokenizer.encode(part)
        return tokens


def template_of(path: str | None, setting: str = "stage.chat_template") -> tuple[str, str]:
    """The chat template of a file, or the built-in one, and what messages call it.

    Args:
        path: as of `read_template`. None: the built-in one.
        setting: whose value the path is.

    Raises:
        DataError: the file has none.
    """
    if path is None:
        return BUILT_IN, "the built-in chat template"
    return read_template(Path(path)), f"{setting}={path}"


def read_template(path: Path) -> str:
    """The template of a Jinja file, or of a tokenizer_config.json.

    Raises:
        DataError: there is none.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file; give one that holds a Jinja template")
    if path.suffix != ".json":
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is no UTF-8 ({error})") from None
    content: Any = read_json(path, MOST_BYTES)
    template = content.get("chat_template") if isinstance(content, dict) else None
    if not isinstance(template, str):
        raise DataError(f"{path} has no text chat_template; give a file that holds the template")
    return template


def _refuse(said: str) -> NoReturn:
    raise TemplateError(said)
