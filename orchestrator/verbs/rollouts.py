"""`orchestrate rollouts [RUN]`: what a policy has answered in a step, and what that was worth.

The best and the worst answers by their reward; `--answer` shows one token by token.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.record.redaction import Redactor
from orchestrator.record.runs import find
from orchestrator.stages.rollouts import keeping
from orchestrator.terminal import printable, say

LATEST = "outputs/latest"


def main(argv: Sequence[str]) -> int:
    """Print answers; returns the exit code. Raises ValueError for no such run, step or answer."""
    options = parser().parse_args(argv)
    run = find(options.run, Path(options.outputs))
    hide = Redactor(run.config).text
    step, answers = _kept(run.folder, options.step)
    lines = _step(step, answers, options.count)
    if options.answer is not None:
        lines = _answer(_of_number(answers, options.answer, step), step)
    for line in lines:
        say(printable(hide(line)), hang=4)
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate rollouts", description=__doc__.splitlines()[0])
    new.add_argument(
        "run", nargs="?", default=LATEST, help="run folder, or the beginning of an id [%(default)s]"
    )
    new.add_argument("--step", type=int, help="step of the run [the last]")
    new.add_argument(
        "--count", type=int, default=3, help="best and worst answers to show [%(default)s]"
    )
    new.add_argument("--answer", type=int, help="number of an answer to show token by token")
    new.add_argument(
        "--outputs", default="outputs", help="folder in which ids are looked up [%(default)s]"
    )
    return new


def _kept(folder: Path, step: int | None) -> tuple[int, list[dict[str, Any]]]:
    """The step asked for, and its answers."""
    steps = keeping.steps_of(folder)
    if not steps:
        raise ValueError(
            f"{folder} keeps no rollouts; name a run of stage=grpo or stage=ppo, of those that "
            "`orchestrate runs` lists"
        )
    step = steps[-1] if step is None else step
    if step not in steps:
        raise ValueError(
            f"--step={step} has no rollouts in {folder}; it has steps {steps[0]} to {steps[-1]}"
        )
    return step, keeping.read(keeping.file_of(folder, step))


def _step(step: int, answers: Sequence[Mapping[str, Any]], count: int) -> Iterator[str]:
    """The step in a line, then its best and its worst answers."""
    rewards = [own["reward"] for own in answers]
    ended = sum(own["ended"] for own in answers)
    yield (
        f"step {step}: {len(answers)} answers, reward {sum(rewards) / len(rewards):.3f} "
        f"({min(rewards):.3f} to {max(rewards):.3f}), {ended} ended by themselves"
    )
    ordered = sorted(answers, key=lambda own: -own["reward"])
    worst = ordered[max(count, len(ordered) - count) :]
    for name, some in (("best", ordered[:count]), ("worst", worst)):
        for own in some:
            yield ""
            yield f"{name}: answer {own['answer_id']}, {_worth(own)}"
            yield f"  asked     {own['prompt']}"
            yield f"  answered  {own['answer']}"
            yield f"  in data   {own['reference']}"


def _worth(own: Mapping[str, Any]) -> str:
    advantages = own["token_advantages"]
    mean = sum(advantages) / max(len(advantages), 1)
    return (
        f"reward {own['reward']:.3f}, advantage {mean:+.3f}, KL {sum(own['token_kl']):.3f} nats "
        f"over {len(advantages)} tokens"
    )


def _of_number(answers: Sequence[Mapping[str, Any]], number: int, step: int) -> Mapping[str, Any]:
    known = {own["answer_id"]: own for own in answers}
    if number not in known:
        raise ValueError(
            f"--answer={number} is none of step {step}, which has {min(known)} to {max(known)}"
        )
    return known[number]


def _answer(own: Mapping[str, Any], step: int) -> Iterator[str]:
    """An answer with a line for each of its tokens."""
    yield f"answer {own['answer_id']} of step {step}, {_worth(own)}"
    yield f"asked     {own['prompt']}"
    yield f"answered  {own['answer']}"
    yield f"{'token':24}{'advantage':>10}{'KL, nats':>10}"
    for token, advantage, kl in zip(
        own["tokens"], own["token_advantages"], own["token_kl"], strict=True
    ):
        yield f"{token!r:24}{advantage:>+10.3f}{kl:>10.4f}"
