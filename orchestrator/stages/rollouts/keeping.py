"""The rollouts of a run: a file for each step, a line for each answer."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.files import write_text_atomic

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


def read(path: Path) -> list[dict[str, Any]]:
    """The answers of a step, as they were kept."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def steps_of(folder: Path) -> list[int]:
    """The steps whose rollouts the run in this folder has."""
    found = (path.stem.removeprefix("step_") for path in (folder / FOLDER).glob("step_*.jsonl"))
    return sorted(int(number) for number in found if number.isdigit())
