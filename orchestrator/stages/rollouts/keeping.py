"""The rollouts of a run: a file for each step, a line for each answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.files import write_text_atomic
from orchestrator.record.runfolder import write_table

if TYPE_CHECKING:
    from torch import Tensor

    from data import Tokenizer
    from orchestrator.stages.rollouts.updating import Asked, Experience

FOLDER = "rollouts"  # in the run folder, and among the artifacts
DIGITS = 8
SHOWN = "newest.json"
COLUMNS = ("answer_id", "prompt", "answer", "reference", "reward", "kl", "token_advantages")


def file_of(folder: Path, step: int) -> Path:
    """The rollouts of a step of the run in this folder."""
    return folder / FOLDER / f"step_{step:0{DIGITS}}.jsonl"


def write(folder: Path, step: int, answers: Iterable[Mapping[str, Any]]) -> Path:
    """Keep the answers of a step, by their numbers; an earlier attempt's are replaced."""
    path = file_of(folder, step)
    ordered = sorted(answers, key=lambda own: int(own["answer_id"]))
    lines = (json.dumps(own, ensure_ascii=False) + "\n" for own in ordered)
    write_text_atomic(path, "".join(lines))
    return path


def rows_of(asked: Asked, experience: Experience, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """What is kept of each answer of a rank."""
    mask = asked.rollout.mask
    lengths = mask.sum(1).tolist()

    def of_answers(values: Tensor) -> list[list[Any]]:
        return [own.tolist() for own in values[mask].split_with_sizes(lengths)]

    answers = of_answers(asked.rollout.tokens[:, 1:])
    pieces = {token: tokenizer.decode([token]) for token in {n for own in answers for n in own}}
    columns = (
        *(asked.ids.tolist(), asked.prompts, asked.texts, experience.rewards.tolist()),
        *(asked.rollout.ended.tolist(), answers),
        *(of_answers(experience.kl), of_answers(experience.advantages)),
    )
    return [
        {
            "answer_id": number,
            "prompt": prompt,
            "answer": text,
            "reference": reference,
            "reward": round(reward, 5),
            "ended": ended,
            "tokens": [pieces[token] for token in answer],
            "token_kl": _rounded(kl),
            "token_advantages": _rounded(advantages),
        }
        for number, (prompt, reference), text, reward, ended, answer, kl, advantages in zip(
            *columns, strict=True
        )
    ]


def read(path: Path) -> list[dict[str, Any]]:
    """The answers of a step, as they were kept."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_shown(path: Path) -> Path:
    """The answers of this file as a table for the page of the run, in place of those before.

    Each token of an answer stands before its advantage.
    """
    rows = []
    for own in read(path):
        pairs = zip(own["tokens"], own["token_advantages"], strict=True)
        advantages = " ".join(f"{token!r} {advantage:+.2f}" for token, advantage in pairs)
        told = (*(str(own[name]) for name in COLUMNS[:5]), f"{sum(own['token_kl']):.4f}")
        rows.append((*told, advantages))
    shown = path.with_name(SHOWN)
    write_table(shown, COLUMNS, rows)
    return shown


def steps_of(folder: Path) -> list[int]:
    """The steps whose rollouts the run in this folder has."""
    found = (path.stem.removeprefix("step_") for path in (folder / FOLDER).glob("step_*.jsonl"))
    return sorted(int(number) for number in found if number.isdigit())


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(value, 5) for value in values]
