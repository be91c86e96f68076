"""The rollouts of a run: a file for each step, a line for each answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.files import write_text_atomic

if TYPE_CHECKING:
    from torch import Tensor

    from data import Tokenizer
    from orchestrator.stages.rollouts.updating import Asked, Experience

FOLDER = "rollouts"  # in the run folder, and among the artifacts
DIGITS = 8


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
    return [
        {
            "answer_id": int(number),
            "prompt": prompt,
            "answer": text,
            "reference": reference,
            "reward": round(float(experience.rewards[row]), 5),
            "ended": bool(asked.rollout.ended[row]),
            "tokens": [
                tokenizer.decode([token])
                for token in asked.rollout.tokens[row, 1:][asked.rollout.mask[row]].tolist()
            ],
            "token_kl": _rounded(experience.kl[row][asked.rollout.mask[row]]),
            "token_advantages": _rounded(experience.advantages[row][asked.rollout.mask[row]]),
        }
        for row, (number, (prompt, reference), text) in enumerate(
            zip(asked.ids, asked.prompts, asked.texts, strict=True)
        )
    ]


def read(path: Path) -> list[dict[str, Any]]:
    """The answers of a step, as they were kept."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def steps_of(folder: Path) -> list[int]:
    """The steps whose rollouts the run in this folder has."""
    found = (path.stem.removeprefix("step_") for path in (folder / FOLDER).glob("step_*.jsonl"))
    return sorted(int(number) for number in found if number.isdigit())


def _rounded(values: Tensor) -> list[float]:
    return [round(float(value), 5) for value in values]
