"""A sweep as it was typed: its own settings, its search space, and the job of each trial.

The space is in Hydra's sweep syntax. `a,b`, `choice()`, `range()` and `glob()` list values,
`interval(low,high)` is every number between, of a whole-numbered setting every whole one, and so
is `int(interval(low,high))` of any; `tag(log,interval(low,high))` counts by factors.
"""

import math
import re
from collections.abc import Sequence
from types import TracebackType

from hydra.core.override_parser.types import IntervalSweep, RangeSweep
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from data.messages import did_you_mean
from orchestrator.compose import grammar, presets, refusal, setting
from orchestrator.compose.composer import Composer
from orchestrator.compose.jobs import composed, one_job
from orchestrator.compose.schema import PRESETS
from orchestrator.compose.word import Word
from orchestrator.config import JobConfig
from orchestrator.verbs.sweep.settings import NAMES
from orchestrator.verbs.sweep.space import Axis, Choices, Numbers, Space

TAGS = ("log", "int")


class Sweeping:
    """Composes the jobs of one sweep, its choices of groups once; a context."""

    def __init__(self, own: str | None) -> None:
        """`own` is a folder of the user's with more choices. Raises ValueError: it is not there."""
        self._own, self._composer = own, Composer(own)

    def __enter__(self) -> "Sweeping":
        """Make Hydra ready."""
        self._composer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Leave Hydra as it was."""
        self._composer.__exit__(kind, error, where)

    def asked(self, words: Sequence[str]) -> tuple[list[str], Space]:
        """What was typed, and what a file of conf/sweep says: words of the sweep, and its space.

        Raises:
            ValueError: a word can't be read, or has no or endless values.
        """
        words = [word if "=" in word else f"{PRESETS}={word}" for word in words]
        found = presets.entries(words, self._own)
        entries = [[[word]] for word in words] if found is None else found
        of_sweep: list[str] = []
        parts: list[str | Axis] = []
        for entry in entries:
            if len(entry) == 1:
                for word in entry[0]:
                    if word.partition("=")[0] in NAMES:
                        of_sweep.append(word)
                    else:
                        parts.append(self._part(word))
            elif any(entry):
                parts.append(_alternatives(entry))
        self._check_names(parts)
        base = Space(tuple(part for part in parts if not isinstance(part, Numbers)))
        base_words = base.words(base.place([0.0] * len(base.axes)))
        return of_sweep, Space(tuple(self._typed(part, base_words) for part in parts))

    def job(self, words: Sequence[str]) -> JobConfig:
        """The job of a trial. Raises ValueError if it can't work."""
        try:
            return one_job(self._composer, words)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ValueError(refusal.reworded(error)) from error

    def is_group(self, name: str) -> bool:
        """Whether a name is that of a group of choices."""
        return bool(self._composer.choices(name))

    def _part(self, word: str) -> str | Axis:
        """A word as a part of the space; an interval is one of real numbers so far."""
        name, _, text = word.partition("=")
        try:
            value = grammar.parsed(word).value()
        except HydraException:
            value = None  # grammar.read says what is wrong, if anything is
        if isinstance(value, IntervalSweep | RangeSweep):
            for tag in value.tags:
                if tag not in TAGS:
                    hint = did_you_mean(tag, TAGS) or "; leave it out"
                    raise ValueError(f"{word}: tag {tag} is not one of {', '.join(TAGS)}{hint}")
            whole = "int" in value.tags or re.match(r"\s*(tag\(.*,)?\s*int\(", text) is not None
            return _numbers(word, name, value, whole)
        values = grammar.read(word, self._composer.loader)
        refusal.check_word(values[0])
        if getattr(value, "tags", None):
            raise ValueError(f"{word}: tags are for interval() and range(); leave them out")
        return word if len(values) == 1 else _choices(name, values)

    def _check_names(self, parts: Sequence[str | Axis]) -> None:
        """Raise ValueError for a setting with values that is typed twice."""
        names = [part.name for part in parts if not isinstance(part, str)]
        for name in names:
            also = name in (p.partition("=")[0].lstrip("+") for p in parts if isinstance(p, str))
            if names.count(name) > 1 or also:
                raise ValueError(f"{name} is typed twice, with several values; leave one out")

    def _typed(self, part: str | Axis, base: Sequence[str]) -> str | Axis:
        """An interval of a whole-numbered setting is one of whole numbers."""
        if not isinstance(part, Numbers) or part.step is not None:
            return part
        try:
            config = composed(self._composer, base)
            kind = setting.kind_of(config, part.name)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ValueError(refusal.reworded(error)) from error
        ends = part.low.is_integer() and part.high.is_integer()
        if kind is int and not ends:
            raise ValueError(
                f"{part.name}=interval({part.low:g},{part.high:g}): the setting is a whole number; "
                f"try {part.name}=interval({math.ceil(part.low)},{math.floor(part.high)})"
            )
        if kind is int:
            return Numbers(part.name, part.sign, part.low, part.high, 1, True, part.log)
        return part


def _numbers(word: str, name: str, value: IntervalSweep | RangeSweep, whole: bool) -> Axis:
    """An interval or a range. Raises ValueError for an empty one, and for factors of 0 or less."""
    sign = name[: len(name) - len(name.lstrip("+"))]
    name, log = name.lstrip("+"), "log" in value.tags
    if isinstance(value, RangeSweep):
        count = grammar.check_range(word, value)
        assert value.start is not None
        last, step = value.start + (count - 1) * value.step, value.step
        low, high = min(value.start, last), max(value.start, last)
        if log:
            raise ValueError(
                f"{word}: a range has equal steps; for factors try "
                f"{name}='tag(log,int(interval({low},{high})))', or list the values"
            )
        ints = all(isinstance(own, int) for own in (value.start, step))
        return Numbers(name, sign, float(low), float(high), abs(step), whole or ints, False)
    assert value.start is not None
    assert value.end is not None
    low, high = float(value.start), float(value.end)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"{word}: an interval goes from a number to a larger one, and {low:g} to {high:g} does "
            f"not; try {name}='interval({min(low, high):g},{max(low, high):g})'"
        )
    if log and low <= 0:
        least = high / 1000 if high > 0 else 1e-4
        raise ValueError(
            f"{word}: factors need both ends above 0, and {low:g} is not; try "
            f"{name}='tag(log,interval({least:g},{high if high > 0 else 1:g}))', or no tag"
        )
    return Numbers(name, sign, low, high, 1 if whole else None, whole, log)


def _choices(name: str, values: Sequence[Word]) -> Choices:
    """A list of values. Raises ValueError if one is there twice."""
    words: dict[str, list[str]] = {}
    for value in values:
        text = value.typed.partition("=")[2]
        if text in words:
            raise ValueError(f"{name} lists {text} twice; leave one out")
        words[text] = [value.typed]
    return Choices(name.lstrip("+"), words)


def _alternatives(entry: Sequence[Sequence[str]]) -> Choices:
    """Alternatives of several overrides each, named by the settings that they give."""
    names = dict.fromkeys(word.partition("=")[0].lstrip("+") for own in entry for word in own)
    return Choices("|".join(names), {" ".join(own): list(own) for own in entry})
