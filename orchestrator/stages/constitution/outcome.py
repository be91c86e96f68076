"""What revisions changed: rules before and after, lengths, what a judge prefers; rows and samples.

N prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.messages import cut
from orchestrator.stages.asking import spending
from orchestrator.stages.asking.spending import Spent
from orchestrator.stages.asking.verdicts import Verdict
from orchestrator.stages.constitution.principles import Principle
from orchestrator.stages.constitution.revising import Revised, short_of
from orchestrator.stages.constitution.stage import ConstitutionConfig
from orchestrator.stages.result import Table, share

RESAMPLES, CONFIDENCE = 2000, 0.95
SHOWN, LONGEST_SHOWN = 3, 300  # samples, characters of a text in one


@dataclass
class Told:
    """Figures of all revisions."""

    number: int
    """N."""
    metrics: dict[str, float] = field(default_factory=dict)
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    """Of the table: label, of the first answers, of the last ones."""

    def shares(self, name: str, label: str, first: Sequence[bool], last: Sequence[bool]) -> None:
        """Shares of the answers before and after, with intervals."""
        shown = []
        for what, own in (("first", first), ("last", last)):
            self.metrics[f"{name}_{what}"] = value = float(np.mean(own))
            shown.append(share(value, len(own)))
        self.rows.append((label, shown[0], shown[1]))

    def one(self, name: str, label: str, value: float, shown: str) -> None:
        """A figure of the revisions alone."""
        self.metrics[name] = value
        self.rows.append((label, "", shown))

    def table(self, spent: Spent, judging: Spent, stage: ConstitutionConfig) -> Table:
        """All figures, and what they took."""
        took = [("writer", stage.writer, spent), ("judge", stage.judge, judging)]
        rows = [
            (f"{name}: {label}", "", value)
            for name, asked, own in took
            for label, value in spending.told(asked, own, self.number).items()
        ]
        return Table("revisions", ("answers", "first", "revised"), (*self.rows, *rows))


def measure(
    found: Sequence[Revised],
    principles: Sequence[Principle],
    said: Mapping[int, Verdict],
    seed: int,
) -> Told:
    """The figures of all revisions.

    Args:
        found: (N,).
        principles: of the constitution.
        said: what a judge says of changed answers, by their places; 1 is for the revision.
        seed: of resampling.
    """
    number = len(found)
    told = Told(number)
    changed = sum(own.changed for own in found)
    shown = f"{share(changed / number, number)} of {number:,}"
    told.one("changed", "changed", changed / number, shown)
    first, last = [own.first for own in found], [own.answer for own in found]
    ruled = [own for own in principles if own.rule is not None]

    def keeps(texts: Sequence[str], some: Sequence[Principle]) -> list[bool]:
        pairs = zip(found, texts, strict=True)
        return [not short_of(some, own.prompt, text) for own, text in pairs]

    for place, own in enumerate(ruled):
        label = cut(own.text, 60)
        told.shares(f"principle_{place}", label, keeps(first, [own]), keeps(last, [own]))
    if ruled:
        told.shares("kept", "all of these kept", keeps(first, ruled), keeps(last, ruled))
        told.metrics["kept"] = told.metrics["kept_last"]
    _lengths(told, first, last, seed)
    known = [own for own in found if own.prompt.reference is not None]
    if known:
        before = [own.first == own.prompt.reference for own in known]
        after = [own.answer == own.prompt.reference for own in known]
        told.shares("exact", "as the data has it, of which nobody was told", before, after)
    decided = [own.value for own in said.values() if own.value is not None]
    if decided:
        better = sum(value == 1 for value in decided) / len(decided)
        shown = f"{share(better, len(decided))} of {len(decided):,}"
        told.one("preferred", "preferred by the judge, in both orders", better, shown)
        swayed = sum(own.swayed for own in said.values()) / len(decided)
        shown = f"{share(swayed, len(decided))} of {len(decided):,}"
        told.one("self_disagreement", "the judge disagrees with itself", swayed, shown)
    return told


def _lengths(told: Told, first: Sequence[str], last: Sequence[str], seed: int) -> None:
    """Words of an answer before and after, and their drift with a bootstrap interval."""
    words: NDArray[np.float64] = np.array(
        [[len(text.split()) for text in texts] for texts in (first, last)], dtype=np.float64
    )  # (2, N)
    before, after = words.mean(1).tolist()
    told.rows.append(("words of an answer", f"{before:.2f}", f"{after:.2f}"))
    drift = words[1] - words[0]
    drawn = np.random.default_rng(seed).integers(len(drift), size=(RESAMPLES, len(drift)))
    low, high = np.quantile(drift[drawn].mean(1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    shown = f"{drift.mean():+.2f} ({low:+.2f} to {high:+.2f}) words"
    told.one("drift_words", "longer by", float(drift.mean()), shown)


def answers(found: Sequence[Revised], principles: Sequence[Principle]) -> list[dict[str, Any]]:
    """Conversations for sft: last answers that keep to all that rules can tell."""
    return [
        {"messages": _messages(own, own.answer)}
        for own in found
        if own.answer and not short_of(principles, own.prompt, own.answer)
    ]


def pairs(found: Sequence[Revised], said: Mapping[int, Verdict]) -> list[dict[str, Any]]:
    """Pairs for dpo: the revision preferred to the first answer, if a judge says so, too."""
    return [
        {"chosen": _messages(own, own.answer), "rejected": _messages(own, own.first)}
        for place, own in enumerate(found)
        if own.changed and own.first and (place not in said or said[place].value == 1)
    ]


def _messages(own: Revised, answer: str) -> list[dict[str, str]]:
    told = (*own.prompt.messages, ("assistant", answer))
    return [{"role": role, "content": content} for role, content in told]


def row(own: Revised) -> dict[str, Any]:
    """All that was said, as a line of a file."""
    rounds = [vars(one) for one in own.rounds]
    return {"prompt": own.prompt.text, "first": own.first, "answer": own.answer, "rounds": rounds}


def samples(found: Sequence[Revised]) -> tuple[str, ...]:
    """A few answers that were changed, with their critiques."""
    some = [own for own in found if own.changed][:SHOWN]
    return tuple(
        "\n".join(
            (
                f"asked     {cut(own.prompt.text, LONGEST_SHOWN)}",
                f"answered  {cut(own.first, LONGEST_SHOWN)}",
                *(
                    f"critique  {cut(one.critique, LONGEST_SHOWN)}"
                    for one in own.rounds
                    if one.kept
                ),
                f"revised   {cut(own.answer, LONGEST_SHOWN)}",
            )
        )
        for own in some
    )
