"""`orchestrate checkpoint ACTION`: the checkpoints of a run: which there are, whole, and different.

A run stands for its newest good checkpoint where one is meant, and for all of them in `list` and
`verify`. It may be a folder or a URL. Nothing is changed, but for `export`, which makes a folder,
and `copy`, which fills a destination.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from data.addresses import is_url
from data.messages import clock, counted, size
from orchestrator.record import checkpoints
from orchestrator.record.checkpoints import FOLDER, MANIFEST, Checkpoint, CheckpointError
from orchestrator.record.checkpoints.finding import read_complete
from orchestrator.record.fencing import PARTIAL
from orchestrator.record.runs import RUNNING, Run, find
from orchestrator.terminal import say
from orchestrator.verbs import export
from orchestrator.verbs.checkpoint import remote
from orchestrator.verbs.checkpoint.rows import Row, measured_by, show, verify_each

LATEST = "outputs/latest"
SHOWN = 20  # tensors of a diff


def main(argv: Sequence[str]) -> int:
    """Carry out an action; returns the exit code. Raises ValueError for a wrong request."""
    options = parser().parse_args(argv)
    if options.action == "list" and is_url(options.run):
        return remote.list_there(options.run)
    if options.action == "list":
        return _list(find(options.run, Path(options.outputs)))
    if options.action == "verify" and is_url(options.path):
        return remote.verify_there(options.path)
    if options.action == "verify":
        return _verify(Path(options.path))
    if options.action == "diff":
        return _diff(options.a, options.b, options.all)
    if options.action == "copy":
        return remote.copy(find(options.run, Path(options.outputs)), options.url)
    return export.main(argv[1:])


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(
        prog="orchestrate checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = new.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=summary, description=summary)

    listing = action("list", "those of a run, newest first: size, age, metric, whether it is whole")
    copying = action("copy", "to a URL, what it lacks: also of a run that has ended")
    for own, also in ((listing, ", or URL"), (copying, "")):
        own.add_argument(
            "run", nargs="?", default=LATEST, help=f"run folder, or id{also} [%(default)s]"
        )
        own.add_argument(
            "--outputs", default="outputs", help="folder in which ids are looked up [%(default)s]"
        )
    copying.add_argument("url", nargs="?", help="[the stage.checkpoints_to of the run]")
    verify = action("verify", "read every byte and compare all hashes; exit code 1 if one is bad")
    verify.add_argument(
        "path", nargs="?", default=LATEST, help="run, checkpoint, or URL [%(default)s]"
    )
    diff = action("diff", "what differs between two, by tensor; exit code 1 if anything does")
    for name in ("a", "b"):
        diff.add_argument(name, help="run folder (its newest checkpoint), checkpoint, or URL")
    diff.add_argument("--all", action="store_true", help=f"all tensors [the {SHOWN} that most do]")
    exporting = action("export", "weights alone, in a folder for others; as `orchestrate export`")
    export.add_arguments(exporting)
    return new


def _list(run: Run) -> int:
    """A line for each checkpoint; sizes and manifests are looked at, contents are not."""
    measured, rows = measured_by(run), [_row(path) for path in _folders(run.folder / FOLDER)]
    if not rows:
        say(f"{run.folder} has no checkpoint" + (" yet" if run.status == RUNNING else ""))
        return 0
    show(measured, rows)
    return 0


def _folders(root: Path) -> Iterator[Path]:
    """Published ones, newest first, and then what is half-written."""
    yield from reversed(checkpoints.published(root))
    yield from sorted(root.glob(f"*{PARTIAL}"))


def _row(path: Path) -> Row:
    if path.suffix == PARTIAL:
        return Row(path.name, "half-written: of no use, and no harm")
    manifest = path / MANIFEST
    age = clock(time.time() - manifest.stat().st_mtime) if manifest.exists() else "-"
    try:
        return Row(path.name, "whole", age, read_complete(path))
    except CheckpointError as error:
        return Row(path.name, f"{error}", age)


def _verify(path: Path) -> int:
    """Verify one checkpoint, or all of a run; says which one would be gone on from."""
    one = (path / MANIFEST).is_file() or path.parent.name == FOLDER
    root = path if path.name == FOLDER else path / FOLDER
    folders = [path] if one else checkpoints.published(root)[::-1]
    if not folders or not path.exists():
        raise ValueError(f"{path} holds no checkpoint; `orchestrate runs` lists the runs there are")
    return verify_each(str(path), {str(f): partial(checkpoints.verify, f) for f in folders}, one)


def _diff(a: str, b: str, everything: bool) -> int:
    """The tensors that differ, most first."""
    from orchestrator.training.checkpoint.comparing import compare

    first, second = (_found(place) for place in (a, b))
    for label, found in (("first ", first), ("second", second)):
        say(f"{label} {found.path}, after step {found.step}, {size(found.bytes)}")
    differences = list(compare(first, second))
    unlike = [own for own in differences if own.absolute is None]
    other = [own for own in differences if own.absolute]
    other.sort(key=lambda own: -(own.relative or 0.0))
    for own in unlike:
        say(f"{own.name}  {own.reason}")
    shown = other if everything else other[:SHOWN]
    width = max((len(own.name) for own in shown), default=0)
    for own in shown:
        relative = f"{own.relative:.3g} of the largest element"
        say(f"{own.name:{width}}  differs by {own.absolute:.3g} at most, {relative}")
    if len(shown) < len(other):
        say(f"and {len(other) - len(shown)} more; --all shows them")
    facts = _facts(first, second)
    for name in facts:
        say(f"{name} differs")
    same = len(differences) - len(unlike) - len(other)
    say(f"{same} of {counted(len(differences), 'tensor')} equal to the last bit")
    return 1 if unlike or other or facts else 0


def _found(place: str) -> Checkpoint:
    found = checkpoints.find(place)
    for line in checkpoints.told(found.path, found.passed_over):
        say(line, sys.stderr)
    return found


def _facts(first: Checkpoint, second: Checkpoint) -> list[str]:
    """Entries of the manifests that differ, but for what the clock says."""
    ours, theirs = ({"step": one.step, **one.facts} for one in (first, second))
    return [
        name
        for name in dict.fromkeys([*ours, *theirs])
        if name != "spent"
        and json.dumps(ours.get(name), sort_keys=True)
        != json.dumps(theirs.get(name), sort_keys=True)
    ]
