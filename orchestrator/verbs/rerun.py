"""`orchestrate rerun RUN [OVERRIDES]`: the run once more, and whether the same comes out.

1. Its code: this one if it is the same, else a clone at its commit with its changes.
2. Its config: what was typed then, and on top of it every setting that has another value now.
3. It runs, in a new run folder. What differs in packages, machine or data is listed.
4. Losses, gradient norms and the newest checkpoint are compared with those of the record.
5. Which run it repeats, and whether the same came out, is put on record, in MLflow too.
"""

import argparse
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.addresses import HIDDEN
from data.files import cache_root, write_text_atomic
from data.messages import counted, override
from orchestrator.record import code, reading
from orchestrator.record.checkpoints import verify
from orchestrator.record.checkpoints.finding import published
from orchestrator.record.checkpoints.manifest import FOLDER
from orchestrator.record.comparing import differences
from orchestrator.record.mlflow.description import RERUN
from orchestrator.record.mlflow.mirror import LOG, State, outcome, start_sender
from orchestrator.record.reading import CONFIG
from orchestrator.record.redaction import flatten
from orchestrator.record.runs import RUNNING, Run, find, mapping
from orchestrator.record.runs import runs as every
from orchestrator.terminal import say

# Settings that a run fills in by itself or that say where it is written.
NOT_SET_AGAIN = ("outputs", "tracking.", "resources.address", "resume", "allow_changes")
# Parts of names of metrics that a clock makes.
TIMED = ("second", "data_wait", "mfu", "goodput", "memory", "stall")


def main(argv: Sequence[str]) -> int:
    """Run it again; returns 0 if the same came out, to the last bit, else 1, or the run's own code.

    Raises:
        ValueError: there is no such run, or its code or config can't be had again.
    """
    options = parser().parse_args(argv)
    run = find(options.run, Path(options.outputs).expanduser())
    if run.status == RUNNING:
        raise ValueError(f"{run.folder} still runs; wait for its end, or `orchestrate why` it")
    said = mapping(run.folder / code.CODE)
    source = code.rebuilt(run.folder, said, cache_root() / "code", code.SOURCE)
    outputs = run.folder.resolve().parents[1]
    words = [*_words(run, source), f"outputs={outputs}", *options.overrides]
    say(f"code: {_code(said, source)}")
    for line in _environment(said):
        say(f"differs: {line}")
    say(f"orchestrate run {shlex.join(words)}", hang=4)
    if options.dry_run:
        return 0
    process = subprocess.Popen([*_orchestrate(source), *words], env=_with(source))
    ended = process.wait()
    again = next((own for own in every(outputs) if own.driver[1] == process.pid), None)
    if again is None or ended:
        say(f"it ended with code {ended}; the run it should repeat: {run.status}")
        return ended or 1
    differs = []
    for line, equal in _compared(run, again):
        differs += [] if equal else [line]
        say(("same: " if equal else "differs: ") + line)
    _put_on_record(run, again, differs)
    say(f"orchestrate compare {run.folder} {again.folder}")
    return 1 if differs else 0


def _put_on_record(run: Run, again: Run, differs: Sequence[str]) -> None:
    """Leave in the folder, and in MLflow where it is tracked, which run was repeated how well."""
    of = "/".join(run.folder.resolve().parts[-2:])
    found = json.dumps({"of": of, "same": not differs, "differs": differs}, indent=1)
    write_text_atomic(again.folder / RERUN, found)
    if State.load(again.folder) is None:
        return
    sender = start_sender(again.folder / LOG, str(again.folder))
    if sender is None or sender.wait():
        say(str(outcome(again.folder)))


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(
        prog="orchestrate rerun",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    new.add_argument("run", help="run folder, or the beginning of an id")
    new.add_argument("overrides", nargs="*", help="settings that this time are other ones")
    new.add_argument("--dry-run", action="store_true", help="say what would be run, and end")
    new.add_argument("--outputs", default="outputs", help="folder of the runs [%(default)s]")
    return new


def _words(run: Run, source: Path) -> list[str]:
    """What makes the config of the run with this code.

    A secret among what was typed is known to config.yaml alone, which only its owner may read.
    """
    typed = differences.overrides(run)
    words = [word for word in typed if HIDDEN not in word]
    shown = subprocess.run(
        [*_orchestrate(source), "--cfg", "job", "--resolve", *words],
        env=_with(source),
        capture_output=True,
        text=True,
        check=False,
    )
    if shown.returncode:
        raise code.NoCode(f"its config can't be made again: {shown.stderr.strip()}")
    now = flatten(reading.parse_yaml(shown.stdout, run.folder / CONFIG))
    return words + [
        f"{name}={_text(value)}"
        for name, value in run.settings.items()
        if not name.startswith(NOT_SET_AGAIN) and now.get(name) != value
    ]


def _text(value: Any) -> str:
    """A value as Hydra's grammar has it."""
    if isinstance(value, str):
        return shlex.split(override("x", value))[0].removeprefix("x=")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return "null" if value is None else str(value).lower()


def _orchestrate(source: Path) -> list[str]:
    """The command of the code in a folder; -P: not that of the folder one is in."""
    return [
        sys.executable,
        *(() if source == code.SOURCE else ("-P",)),
        "-m",
        "orchestrator",
        "run",
    ]


def _with(source: Path) -> dict[str, str]:
    """This environment, with the code in a folder before all other."""
    if source == code.SOURCE:
        return dict(os.environ)
    path = os.pathsep.join(filter(None, (str(source), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def _code(said: Mapping[str, Any], source: Path) -> str:
    commit = str(said.get("commit"))[:12]
    changes = " with its changes" if said.get("diff_sha256") else ""
    return f"{commit}{changes}" + ("" if source == code.SOURCE else f", in {source}")


def _environment(said: Mapping[str, Any]) -> Iterator[str]:
    """What is another one than when the run was made, and can't be made again here."""
    if files := said.get("new_files"):
        yield f"files that git did not know: {', '.join(map(str, files))}"
    for name, now in code.packages().items():
        then = (said.get("packages") or {}).get(name)
        if then != now:
            yield f"{name} {then}, here {now}"
    for name, now in (("python", platform.python_version()), ("platform", platform.platform())):
        if said.get(name) != now:
            yield f"{name} {said.get(name)}, here {now}"


def _compared(run: Run, again: Run) -> Iterator[tuple[str, bool]]:
    """What was compared, and whether it is the same to the last bit."""
    for name, (then, now) in differences.data([run, again]).items():
        if then != now:
            yield f"{name} {then}, now {now}", False
    ours, theirs = differences.curves(run), differences.curves(again)
    for name in ours:
        if any(word in name for word in TIMED):
            continue
        steps, values = ours[name]
        found = dict(zip(*theirs.get(name, ([], [])), strict=True))
        unlike = [s for s, v in zip(steps, values, strict=True) if not _equal(found.get(s), v)]
        if not unlike:
            yield f"{name} at {counted(len(steps), 'step')}", True
            continue
        first = unlike[0]
        was = values[steps.index(first)]
        yield f"{name} from step {first} on, {was} and now {found.get(first)}", False
    yield from _checkpoints(run.folder, again.folder)


def _equal(a: float | None, b: float) -> bool:
    return a == b or (a is not None and math.isnan(a) and math.isnan(b))


def _checkpoints(then: Path, now: Path) -> Iterator[tuple[str, bool]]:
    """The newest step that both have saved."""
    steps = [{path.name: path for path in published(f / FOLDER)} for f in (then, now)]
    common = max(set(steps[0]) & set(steps[1]), default=None)
    if common is None:
        return
    from orchestrator.training.checkpoint.comparing import compare

    found = list(compare(*(verify(own[common]) for own in steps)))
    unlike = [own.name for own in found if own.absolute != 0.0]
    if unlike:
        yield f"{counted(len(unlike), 'tensor')} of {common}, {unlike[0]} first", False
    else:
        yield f"all {counted(len(found), 'tensor')} of {common}", True
