"""What a run and its checkpoints are called in MLflow: by what they are, in a few words.

Reads what the driver records before it starts: the events `started`, `weights` and `dataset`, and
what the user typed.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

NAME_CHARACTERS = 120
VALUE_CHARACTERS = 24
DIGITS = 4
LONG_NUMBER = r"[+-]?\d*\.\d{5,}(e[+-]?\d+)?"
# Settings that the rest of the name tells, and those that change nothing about what is learned.
TOLD = {"stage", "model", "data", "data.path", "stage.data", "checkpoint", "model.weights"}
PLACES = {"outputs", "tracking", "allow_changes"}
# Sections whose settings come later in a name, and the less they tell two runs apart, the later.
LATER = {"stage": 1, "data": 2, "tokenizer": 2, "engine": 3, "resources": 3, "model": 4}


def run_name(
    stage: str, events: Iterable[Mapping[str, Any]], typed: Iterable[str], command: Iterable[str]
) -> str:
    """Stage, models, data, and what was typed besides: `pretrain gpt 2.56M wiki seed=2`.

    `typed` are the overrides of this job. In a sweep the `command` has several values for some of
    them, and those come first.
    """
    models: dict[str, str] = {}
    datasets: dict[str, None] = {}
    for event in events:
        if event["event"] == "started":
            for role, model in event.get("roles", {}).items():
                models[role] = f"{model['family']} {short_number(model['parameters'])}"
        elif event["event"] == "weights":
            origin = f"of {checkpoint_name(event['path'], event['step'])}"
            models[event["role"]] = f"{models.get(event['role'], '')} {origin}".strip()
        elif event["event"] == "dataset":
            datasets[str(event["name"])] = None
    parts = [stage, *models.values(), "+".join(datasets)]
    for word in _settings(typed, set(command)):
        if len(" ".join([*parts, word])) > NAME_CHARACTERS - len(" ..."):
            parts.append("...")
            break
        parts.append(word)
    return " ".join(filter(None, parts))[:NAME_CHARACTERS]


def trial_name(number: int, point: Mapping[str, Any]) -> str:
    """A trial by what tells it from the others of its sweep: `trial 7: learning_rate=0.1968`."""
    words = _shortened({name: str(value) for name, value in point.items()})
    return f"trial {number}{': ' if words else ''}{' '.join(words)}"[:NAME_CHARACTERS]


def checkpoint_name(path: str, step: int) -> str:
    """Run and step of a checkpoint: `pretrain-80f883-step-420`; without what MLflow forbids."""
    run = (path.rpartition("/checkpoints/")[0] or path).rstrip("/").rpartition("/")[2]
    run = re.sub(r"^\d\d-\d\d-\d\d-", "", run) or "checkpoint"  # the time of day
    return re.sub(r"[^\w-]", "_", f"{run}-step-{step}")


def _settings(typed: Iterable[str], command: set[str]) -> list[str]:
    """What else was typed."""
    kept: dict[str, tuple[int, str]] = {}
    for word in typed:
        key, _, value = word.lstrip("+~").partition("=")
        section = key.partition(".")[0]
        if key not in TOLD and section not in PLACES:
            kept[key] = (LATER.get(section, 0) if word in command else -1), value
    order = sorted(kept.items(), key=lambda item: item[1][0])
    return _shortened({key: value for key, (_, value) in order})


def _shortened(settings: Mapping[str, str]) -> list[str]:
    """Settings by the last words of their names, where these differ, and of paths."""
    last = [key.rpartition(".")[2] for key in settings]
    words = []
    for key, value in settings.items():
        short = key.rpartition(".")[2]
        value = rounded(value.rstrip("/").rpartition("/")[2] or value)
        if len(value) > VALUE_CHARACTERS:
            value = f"{value[: VALUE_CHARACTERS - 3]}..."
        words.append(f"{short if last.count(short) == 1 else key}={value}")
    return words


def rounded(value: str) -> str:
    """A number with more digits than anybody reads, as a sampler draws them, with four."""
    return f"{float(value):.{DIGITS}g}" if re.fullmatch(LONG_NUMBER, value) else value


def short_number(number: float) -> str:
    """Three digits and a unit: 172k, 2.56M, 8.03B."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
