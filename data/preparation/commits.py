"""Units of work whose result is a folder: done once, wholly or not at all, whoever comes first."""

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.files import publish

RESULT = "result.json"


def committed(folder: Path) -> dict[str, Any] | None:
    """The result of a unit, None while it is not done."""
    try:
        text = (folder / RESULT).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    result: dict[str, Any] = json.loads(text)
    return result


def commit(folder: Path, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Let `work` fill an empty folder and give it its name; returns what `work` did (JSON).

    A unit that is done is not done again. Of several processes at it one is first, and the work of
    the others is thrown away. One that is killed leaves a folder whose name begins with a dot.
    """
    if (done := committed(folder)) is not None:
        return done
    partial = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        result = work(partial)
        (partial / RESULT).write_text(json.dumps(result), encoding="utf-8")
        try:
            publish(partial, folder)
        except OSError:
            if (done := committed(folder)) is None:
                raise
            return done
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left in a folder of units; nobody may be at work in it."""
    for left in folder.glob(".*-*"):
        shutil.rmtree(left, ignore_errors=True)
