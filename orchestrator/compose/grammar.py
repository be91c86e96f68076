"""One word of the command line, read: which setting or group, and its value, or those of a sweep.

The grammar is Hydra's, with two differences. A value that was not quoted remembers how it was
spelled, so that a text setting keeps `8e10`. And a value with a character that the grammar has no
use for (~, #, =, é), but none of its own quotes, brackets and commas, is a text as it stands.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import create_functions
from hydra.core.override_parser.overrides_visitor import HydraErrorListener, HydraOverrideVisitor
from hydra.core.override_parser.types import (
    Glob,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
    Sweep,
    Transformer,
)
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import (  # type: ignore[attr-defined]
    CommonTokenStream,
    InputStream,
    OverrideLexer,
)
from hydra.grammar.gen.OverrideParser import OverrideParser

from orchestrator.compose.refusal import unreadable
from orchestrator.compose.schema import SCHEMA
from orchestrator.compose.word import Spelled, Word

WORD = re.compile(r"(\+{0,2}|~)([A-Za-z_][\w./@:$-]*)(?:=(.*))?", re.DOTALL)
INTERPOLATION = re.compile(r"\$\{[^{}]*\}")
SYNTAX = re.compile(r"""['"\[\](){}]""")
MOST = 10_000  # values of one word
OF_SPELLINGS = ("choice", "shuffle", "str", "tag")  # functions that take values as they stand


def read(word: str, loader: ConfigLoader) -> list[Word]:
    """What a word says: one value, or several for as many jobs.

    Raises:
        ValueError: it is no override, or its value can't be read.
    """
    matched = WORD.fullmatch(word)
    if matched is None or (matched[3] is None and matched[1] != "~"):
        raise ValueError(unreadable(word))
    sign, name, text = matched.groups()
    if sign == "~":
        return [Word(word, sign, name, None)]
    try:
        override = parsed(word)
    except HydraException as error:
        if SYNTAX.search(INTERPOLATION.sub("", text)):
            raise ValueError(unreadable(word, str(error))) from None
        parts = [part.strip() for part in text.split(",")]
        return _words(word, sign, name, [Spelled(part, part) for part in parts], parts)
    override.config_loader = loader
    if isinstance(override.value(), IntervalSweep):
        raise ValueError(
            f"{word}: an interval has no end of values; list them, use range(), or have some of "
            "them tried by `orchestrate sweep`"
        )
    if isinstance(override.value(), RangeSweep):
        check_range(word, override.value())  # type: ignore[arg-type]
    if not isinstance(override.value(), Sweep) and not override.is_sweep_override():
        return [Word(word, sign, name, _plain(override.value()))]
    values: list[Any] = list(override.sweep_iterator())
    if isinstance(override.value(), Glob):  # among the choices are the schemas
        values = [value for value in values if not str(value).endswith(SCHEMA)]
    if not values:
        raise ValueError(f"{word}: it has no value at all; list some, as {name}=a,b")
    return _words(word, sign, name, values, [str(Transformer.str(value)) for value in values])


def check_range(word: str, found: RangeSweep) -> int:
    """The number of its values. Raises ValueError if that is none, or more than can be listed."""
    start, stop, step = found.start, found.stop, found.step
    assert start is not None
    assert stop is not None
    name = word.partition("=")[0]
    count = math.ceil((stop - start) / step) if step else 0
    if count < 1:
        raise ValueError(
            f"{word}: no value lies from {start} up to, not including, {stop} in steps of {step}; "
            f"try {name}=range({min(start, stop)},{max(start, stop) + 1})"
        )
    if count > MOST:
        raise ValueError(
            f"{word} has {count:,} values, and {MOST:,} are the most; take a larger step, or have "
            f"some of them tried: orchestrate sweep '{name}=int(interval({start},{stop}))'"
        )
    return count


def _words(
    typed: str, sign: str, name: str, values: Sequence[Any], texts: Sequence[str]
) -> list[Word]:
    """A word for each value of a sweep."""
    if len(values) == 1:
        return [Word(typed, sign, name, _plain(values[0]))]
    pairs = zip(values, texts, strict=True)
    return [Word(f"{sign}{name}={text}", sign, name, _plain(value)) for value, text in pairs]


class _Visitor(HydraOverrideVisitor):
    """Hydra's reading of a value, with spellings."""

    spells = True

    def visitPrimitive(self, ctx: Any) -> Any:  # noqa: N802  # antlr's name
        value = super().visitPrimitive(ctx)
        if self.spells and isinstance(value, bool | int | float):
            return Spelled(ctx.getText().strip(), value)
        return value

    visitDictKey = visitPrimitive  # noqa: N815

    def visitFunction(self, ctx: Any) -> Any:  # noqa: N802
        before, self.spells = self.spells, ctx.getChild(0).getText() in OF_SPELLINGS
        try:
            return super().visitFunction(ctx)
        finally:
            self.spells = before


def parsed(word: str) -> Override:
    """A word by Hydra's grammar; what its own parser does, with our visitor."""
    listener = HydraErrorListener()
    lexer = OverrideLexer(InputStream(word))
    parser: Any = OverrideParser(CommonTokenStream(lexer))
    for recognizer in (lexer, parser):
        recognizer.removeErrorListeners()
        recognizer.addErrorListener(listener)
    override: Override = _Visitor(create_functions()).visit(parser.override())
    override.input_line = word
    return override


def _plain(value: Any) -> Any:
    """Without quotes; keys are texts."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    return value
