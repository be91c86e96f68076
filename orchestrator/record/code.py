"""Which code a run has, as its folder says it, and that code again.

A run folder has code.json, and code.diff if files that git knows were changed. New files that git
does not know are named, but not kept: what is not committed can't be promised. With a job that is
submitted all of them travel, in a parcel that says itself which commit and changes it is.
"""

import hashlib
import json
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from cluster.nodes import Devices
from cluster.queue.parcel import keeps_secrets
from data.files import read_json, write_text_atomic
from orchestrator.record.redaction import Redactor

CODE, DIFF = "code.json", "code.diff"
OF_PARCEL = ".code.json", ".code.diff"  # the same, at the top of code that has travelled
OURS = ("orchestrator", "models", "data", "cluster", "conf")
MOST_BYTES = 1 << 20  # of a diff that is kept
KINDS = ("*.py", "*.yaml")  # of new files that may be code
NAMED = 20  # of them
PACKAGES = (
    "torch",
    "deepspeed",
    "ray",
    "mlflow",
    "hydra-core",
    "tokenizers",
    "pyarrow",
    "datasets",
)
SOURCE = Path(__file__).parents[2]
"""The code that runs."""


class NoCode(ValueError):
    """The code of a run can't be had again; the message says why."""


def write(folder: Path, redactor: Redactor, devices: Devices | None) -> None:
    """Put this code and this machine on record in a run folder.

    A diff that holds a known secret, or more than MOST_BYTES, is named by its hash alone.
    """
    own, diff = version(SOURCE)
    if diff is not None and _may_be_kept(diff, redactor):
        (folder / DIFF).write_bytes(_bytes(diff))
    said = {
        **own,
        "packages": packages(),
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "devices": f"{devices.gpus} GPUs, {devices.cpus} cores" if devices else None,
        "command": redactor.text(shlex.join(command())),
    }
    write_text_atomic(folder / CODE, json.dumps(said, indent=1))


def carried(source: Path, redactor: Redactor) -> tuple[dict[str, Path | bytes], list[str]]:
    """The code in a folder as it travels with a job, by relative name; and what stays behind.

    These are the files that git knows, changed or not, and new ones that it does not ignore; where
    there is no git, all that is code by its name. What stays behind keeps secrets, by its name.

    Raises:
        ValueError: a file holds a secret of this environment.
    """
    listed = _git(source, "ls-files", "-z", "--cached", "--others", "--exclude-standard", *OURS)
    names = sorted(set(listed.split("\0")) - {""}) if listed else list(_code_in(source))
    there = [name for name in names if (source / name).is_file()]  # not removed since
    files: dict[str, Path | bytes] = {
        name: source / name for name in there if not keeps_secrets(name)
    }
    for name in files:
        if redactor.holds((source / name).read_bytes()):
            raise ValueError(
                f"{source / name} holds the value of a secret in this environment, and would "
                "travel with the job; take it out, or name the file in .gitignore"
            )
    own, diff = version(source)
    files[OF_PARCEL[0]] = json.dumps(own).encode()
    if diff is not None and _may_be_kept(diff, redactor):
        files[OF_PARCEL[1]] = _bytes(diff)
    return files, [name for name in there if name not in files]


def _code_in(source: Path) -> Iterator[str]:
    for folder in OURS:
        for kind in KINDS:
            for path in sorted((source / folder).rglob(kind)):
                yield path.relative_to(source).as_posix()


def _may_be_kept(diff: str, redactor: Redactor) -> bool:
    return len(diff) <= MOST_BYTES and redactor.known(diff) == diff


def version(source: Path) -> tuple[dict[str, Any], str | None]:
    """Commit and changes of the code in a folder, as code.json has them; and the diff itself."""
    said, changes = (source / name for name in OF_PARCEL)
    if said.is_file():
        kept = changes.read_bytes().decode(errors="surrogateescape") if changes.is_file() else None
        return dict(read_json(said)), kept
    commit = _git(source, "rev-parse", "HEAD")
    diff = _git(source, "diff", "--binary", "HEAD") if commit else None
    new = _git(source, "ls-files", "--others", "--exclude-standard", *KINDS) if commit else None
    own = {
        "commit": commit.strip() if commit else None,
        "dirty": bool(diff or new) if commit else None,
        "diff_sha256": hashlib.sha256(_bytes(diff)).hexdigest() if diff else None,
        "new_files": (new or "").splitlines()[:NAMED],
    }
    return own, diff or None


def packages() -> dict[str, str | None]:
    """The versions that are installed here."""
    return {name: _installed(name) for name in PACKAGES}


def command() -> list[str]:
    """What the user typed: this process's own words, or under torchrun the words of torchrun."""
    own = ["orchestrate", *sys.argv[1:]]
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return own
    try:
        parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:  # not Linux
        return own
    words = [os.fsdecode(word) for word in parent]
    script = words[1] if len(words) > 1 else ""  # python /bin/torchrun ..., python -m torch...
    return [Path(script).name, *words[2:]] if "/" in script else ["python", *words[1:]]


def rebuilt(folder: Path, said: Mapping[str, Any], parent: Path, source: Path) -> Path:
    """A folder with the code that a run had: `source` itself, or a clone of it under `parent`.

    Args:
        folder: of the run.
        said: its code.json.
        parent: keeps the clones; one that is there is used again.
        source: this code, in a git repository.

    Raises:
        NoCode: it was not in git, its commit is not in this repository, or its changes were not
            kept.
    """
    here, _ = version(source)
    same = ("commit", "diff_sha256")
    if all(said.get(name) == here[name] for name in same):
        return source
    commit, wanted = said.get("commit"), said.get("diff_sha256")
    if commit is None or here["commit"] is None:
        raise NoCode("the code of the run, or that of here, is in no git repository")
    if _git(source, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        raise NoCode(f"commit {str(commit)[:12]} is not in {source}; try `git fetch` there")
    clone = parent / f"{str(commit)[:12]}-{str(wanted)[:12] if wanted else 'clean'}"
    if clone.is_dir() and all(version(clone)[0][name] == said.get(name) for name in same):
        return clone
    shutil.rmtree(clone, ignore_errors=True)
    clone.parent.mkdir(parents=True, exist_ok=True)
    _must(["git", "clone", "-q", "--shared", "--no-checkout", str(source), str(clone)])
    _must(["git", "-C", str(clone), "checkout", "-q", "--detach", str(commit)])
    if wanted is not None:
        diff = folder / DIFF
        if not diff.is_file():
            raise NoCode(f"the run had uncommitted changes that were not kept ({diff})")
        _must(["git", "-C", str(clone), "apply", "--index", str(diff.absolute())])
        if version(clone)[0]["diff_sha256"] != wanted:
            raise NoCode(f"{diff} is not what the run had: its hash is another one")
    return clone


def _must(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise NoCode(f"{shlex.join(command)} failed: {' '.join(done.stderr.split())}")


def _git(source: Path, *arguments: str) -> str | None:
    """What git prints; None where there is no git, or the code is not in a repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(source), *arguments],
            capture_output=True,
            text=True,
            errors="surrogateescape",  # a diff is in the encoding of the files
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _bytes(diff: str) -> bytes:
    """What git printed."""
    return diff.encode(errors="surrogateescape")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
