"""The folder of a run: what was asked for, with which code, and how it ended."""

import json
import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.nodes import Devices
from data.files import fsync_folder, write_text_atomic
from orchestrator.config import JobConfig, to_dict
from orchestrator.record import code
from orchestrator.record.checkpoints.manifest import FOLDER, PARTIAL
from orchestrator.record.checkpoints.retention import remove_partial
from orchestrator.record.journal import goes_on
from orchestrator.record.lines import strict
from orchestrator.record.redaction import Redactor

LATEST = "latest"
RESULT = "result.json"
RESERVE = ".result-space"
RESERVE_BYTES = 1 << 16


def create(
    config: JobConfig,
    overrides: Sequence[str],
    devices: Devices | None = None,
    folder: Path | None = None,
) -> Path:
    """Make `outputs/<date>/<time>-<stage>-<id>/` with config, overrides and code; returns it.

    `folder` is one of such a name that was chosen before.
    Secrets stay in config.yaml, which then only its owner may read, and are hidden everywhere else.
    """
    outputs = Path(config.outputs).absolute()
    folder = folder or new_folder(outputs, config.stage.name)
    folder.mkdir(parents=True)
    (folder / "logs").mkdir()
    plain = to_dict(config)
    redactor = Redactor(plain)
    settings = yaml.safe_dump(plain, sort_keys=False)
    private = redactor.settings(plain) != plain
    write_text_atomic(folder / "config.yaml", settings, mode=0o600 if private else 0o666)
    redactor.keep(folder, settings)
    shown = [redactor.text(override) for override in overrides]
    write_text_atomic(folder / "overrides.yaml", yaml.safe_dump(shown))
    code.write(folder, redactor, devices)
    _reserve(folder)
    _point_latest(outputs, folder)
    return folder


def new_folder(outputs: Path, kind: str) -> Path:
    """`<date>/<time>-<kind>-<id>` in an outputs folder, of a name that is not taken; not made."""
    date, clock = time.strftime("%Y-%m-%d"), time.strftime("%H-%M-%S")
    return outputs / date / f"{clock}-{kind}-{secrets.token_hex(3)}"


def placed(path: Path, folder: Path) -> str:
    """A path as the record of a run has it: from the run folder on, if it is in its outputs.

    So the record holds where these are moved to; `folder / placed(path, folder)` is the path.
    """
    path, folder = path.resolve(), folder.resolve()
    inside = path.is_relative_to(folder.parents[1])
    return os.path.relpath(path, folder) if inside else str(path)


def remove_leftovers(outputs: Path) -> list[Path]:
    """Remove the half-written checkpoints of runs that are over; returns their run folders."""
    left = {partial.parents[1] for partial in outputs.glob(f"*/*/{FOLDER}/*{PARTIAL}")}
    ended = sorted(run for run in left if not goes_on(run, unknown=True))
    for run in ended:
        remove_partial(run / FOLDER)
    return ended


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write result.json, whole or not at all; NaN and infinity are strings as in the journal.

    The first time it has the space that `create` set aside, so it is written on a full disk, too.
    It may be called again with more facts, or after it failed.

    Raises:
        OSError: with the path; a result that was there before is still there.
    """
    path, reserve = folder / RESULT, folder / RESERVE
    text = json.dumps(strict(result), indent=1, allow_nan=False)
    try:
        if reserve.exists():
            with reserve.open("r+b") as file:  # in place: its blocks are never given back before
                file.write(text.encode())
                file.flush()
                file.truncate()
                os.fsync(file.fileno())
            reserve.replace(path)
            fsync_folder(folder)
        else:
            write_text_atomic(path, text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def status(folder: Path) -> str | None:
    """How a run ended, by its result.json. None: it goes on, or never could say."""
    try:
        result = json.loads((folder / RESULT).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return str(result.get("status")) if isinstance(result, dict) else None


def _reserve(folder: Path) -> None:
    """Take disk space for result.json while there is some."""
    with (folder / RESERVE).open("xb") as file:
        os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table as MLflow shows it: columns and rows."""
    table = {"columns": list(columns), "data": [list(row) for row in rows]}
    write_text_atomic(path, json.dumps(table, indent=1))


def _point_latest(outputs: Path, folder: Path) -> None:
    """Let `latest` mean this run.

    A folder of that name, which copying makes of the link, stays: no job dies for a convenience,
    and nothing of a user's is removed.
    """
    link = outputs / f".{LATEST}-{folder.name}"
    link.symlink_to(folder.relative_to(outputs))
    try:
        link.replace(outputs / LATEST)
    except OSError:
        link.unlink()
        print(
            f"note: {outputs / LATEST} is a folder, not the link to the newest run; move it away, "
            "or name runs by their folders",
            file=sys.stderr,
        )
