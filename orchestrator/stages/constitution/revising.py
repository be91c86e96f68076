"""Answer, critique and revision, round by round (Bai et al. 2022, section 3).

In a round every answer that falls short is criticised by one principle and revised. Principles with
a rule come first, as long as an answer falls short of one; of the others each round takes one by
the seed. All answers of a round are asked for together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from random import Random

from data.records import Message
from orchestrator.stages.asking.requests import Reply, Request
from orchestrator.stages.asking.spending import unknown
from orchestrator.stages.constitution.principles import Principle
from orchestrator.stages.constitution.prompts import Prompt
from orchestrator.stages.constitution.stage import ConstitutionConfig

Ask = Callable[[Sequence[Request]], list[Reply]]


@dataclass(frozen=True)
class Round:
    """What was said of an answer in a round."""

    principle: str
    critique: str
    revision: str
    kept: bool
    """Whether the revision took the place of the answer."""


@dataclass(frozen=True)
class Revised:
    """A prompt with its first answer, and what became of it."""

    prompt: Prompt
    first: str
    answer: str
    """The last one."""
    rounds: tuple[Round, ...] = field(default=())

    @property
    def changed(self) -> bool:
        """Whether another answer stands at the end."""
        return self.answer != self.first


def revised(
    prompts: Sequence[Prompt],
    principles: Sequence[Principle],
    stage: ConstitutionConfig,
    ask: Ask,
    seed: int,
) -> list[Revised]:
    """Each prompt with its answers; one that gets no answer from the writer has an empty one.

    Args:
        prompts: what is asked.
        principles: of the constitution.
        stage: how many rounds, and how revisions are asked for.
        ask: gives a reply to each request.
        seed: of draws and of principles.
    """
    number = len(prompts)

    def written(of: Sequence[tuple[int, tuple[Message, ...]]], step: int) -> list[str]:
        """What is said behind the messages of each prompt, by its place."""
        requests = [
            Request(
                messages,
                stage.answer_tokens,
                temperature=stage.temperature,
                seed=_seed(seed, step, place),
            )
            for place, messages in of
        ]
        return [reply.text for reply in ask(requests)]

    first = written([(n, prompts[n].messages) for n in range(number)], 0)
    found = [Revised(p, text, text) for p, text in zip(prompts, first, strict=True)]
    for turn in range(1, stage.rounds + 1):
        chosen = _chosen(found, principles, f"{seed} {turn}")
        if not chosen:
            break
        critiques = _critiques(found, chosen, partial(written, step=2 * turn - 1))
        again = [
            (place, _revision(found[place], chosen[place], critiques[place], stage.revise))
            for place in chosen
        ]
        for place, text in zip(chosen, written(again, 2 * turn), strict=True):
            found[place] = _after(
                found[place], chosen[place], critiques[place], text, principles, stage.revise
            )
    return found


def _seed(seed: int, step: int, place: int) -> int:
    """Of the draws of an answer: another one for each step and prompt."""
    return int.from_bytes(sha256(f"{seed} {step} {place}".encode()).digest()[:8], "little")


def foreseen(
    prompts: Sequence[Prompt], principles: Sequence[Principle], stage: ConstitutionConfig
) -> list[Request]:
    """All that a writer may be asked; what it will write is as long as it may get."""
    text = unknown(stage.answer_tokens)
    longest = max(principles, key=lambda own: len(own.critique + own.revision))
    found = []
    for prompt in prompts:
        own = Revised(prompt, text, text)
        asked = [prompt.messages]
        for _ in range(stage.rounds):
            if any(principle.rule is None for principle in principles):
                asked.append((*_said(own), ("user", longest.critique)))
            asked.append(_revision(own, longest, text, stage.revise))
        found += [Request(messages, stage.answer_tokens) for messages in asked]
    return found


def criterion(principles: Sequence[Principle]) -> str:
    """What a judge of revisions is to go by."""
    each = "\n".join(f"- {own.text}" for own in principles)
    return f"Which of two answers to a question keeps better to these principles?\n{each}"


def short_of(principles: Sequence[Principle], prompt: Prompt, answer: str) -> int:
    """How many principles an answer falls short of, by their rules."""
    return sum(not own.kept(prompt.text, answer) for own in principles)


def _chosen(
    found: Sequence[Revised], principles: Sequence[Principle], seed: str
) -> dict[int, Principle]:
    """By which principle each answer is revised that needs it."""
    drawn = ((n, _principle(own, principles, Random(f"{seed} {n}"))) for n, own in enumerate(found))
    return {n: own for n, own in drawn if own is not None and found[n].first}


def _principle(own: Revised, principles: Sequence[Principle], draw: Random) -> Principle | None:
    """By which an answer is to be revised. None: it keeps to all of them, as far as is known."""
    for principle in principles:
        if not principle.kept(own.prompt.text, own.answer):
            return principle
    spoken = [principle for principle in principles if principle.rule is None]
    return draw.choice(spoken) if spoken else None


def _critiques(
    found: Sequence[Revised],
    chosen: dict[int, Principle],
    write: Callable[[Sequence[tuple[int, tuple[Message, ...]]]], list[str]],
) -> dict[int, str]:
    """What is wrong with each answer: as a rule says, or as the writer does."""
    asked = [
        (place, (*_said(found[place]), ("user", principle.critique)))
        for place, principle in chosen.items()
        if principle.rule is None
    ]
    spoken = zip((place for place, _ in asked), write(asked) if asked else (), strict=True)
    by_rule = {n: f"It does not keep to this: {own.text}" for n, own in chosen.items() if own.rule}
    return by_rule | dict(spoken)


def _revision(
    own: Revised, principle: Principle, critique: str, revise: str
) -> tuple[Message, ...]:
    """Messages behind which the revision is to come."""
    if revise == "again":
        return own.prompt.messages
    asked = (("user", principle.critique), ("assistant", critique), ("user", principle.revision))
    return (*_said(own), *asked)


def _said(own: Revised) -> tuple[Message, ...]:
    return (*own.prompt.messages, ("assistant", own.answer))


def _after(
    own: Revised,
    principle: Principle,
    critique: str,
    text: str,
    principles: Sequence[Principle],
    revise: str,
) -> Revised:
    """What stands after a round: the revision, unless there is none or rules say it is no better.

    One that was asked for by a critique may be as good by the rules, which do not see all.
    """
    before, after = (short_of(principles, own.prompt, answer) for answer in (own.answer, text))
    better = after < before if revise == "again" else after <= before
    kept = bool(text) and text != own.answer and better
    rounds = (*own.rounds, Round(principle.text, critique, text, kept))
    return replace(own, answer=text if kept else own.answer, rounds=rounds)
