"""Files of the driver on hosts that do not share its disk.

1. Each host says where it has the files: under the driver's path (a shared disk), or under a root
   of its own, where an earlier job may have left them.
2. What a host lacks is streamed to it through Ray, once per host and once for all hosts.
3. On the host it grows beside its place under a hidden name, is synced, and renamed: a file or
   folder that is there is whole.
"""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from cluster.errands import on_nodes
from cluster.failure import WorkerFailed
from cluster.polls import POLL_S

CHUNK_BYTES = 32 * 2**20
CHUNKS_UNDER_WAY = 2  # so the driver's object store holds at most 64 MiB of them
LOCK = ".publish.lock"  # in each folder that holds copies; it stays
STALE_S = 24 * 3600.0  # a copy whose driver was killed is removed after that


class FilesNotBrought(Exception):
    """A host cannot have the files: no room, no permission. Says which host, and why."""


@dataclass(frozen=True)
class Files:
    """What every host must have: files and folders below a root, whose place may differ by host."""

    root: Path
    """The root on the driver's host."""
    paths: tuple[Path, ...]
    """Files and folders, relative to the root; a folder travels as a whole."""
    variable: str
    """Environment variable that names a host's own root; set for the workers, too."""
    default: str
    """A host's own root where the variable is not set; `~` is the worker's home."""


@dataclass(frozen=True)
class Entry:
    """A file: its path below a file or folder that travels ("." for a file), and how to know it."""

    name: str
    size: int
    mtime_ns: int


Listing = tuple[Entry, ...]


@dataclass(frozen=True)
class Found:
    """What a host has: the root to use there, what is missing under it, and the room for it."""

    root: Path
    missing: tuple[Path, ...] = ()
    free_bytes: int = 0


def bring(
    ray: ModuleType,
    actors: Mapping[str, Any],
    hosts: Mapping[str, str],
    files: Files,
    say: Callable[[str], None],
    check: Callable[[], None],
) -> dict[str, Path]:
    """See to it that every host has the files; returns the root to use on each node.

    Args:
        ray: connected to the cluster.
        actors: a `Worker` on each node, by the node's Ray id.
        hosts: the nodes' names, for messages.
        files: what, and where.
        say: gets a line for each host to which something is copied.
        check: called often; raises if the wait is over.

    Raises:
        FilesNotBrought: a host has no room or no permission for them.
        WorkerFailed: the worker there died.
    """

    def answers(calls: Mapping[str, Any]) -> dict[str, Any]:
        return {node: _answer(ray, call, hosts[node], check) for node, call in calls.items()}

    listings = {path: listing(files.root / path) for path in files.paths}
    arguments = (files.root, files.variable, files.default, listings)
    found: dict[str, Found] = answers(
        {node: actor.carry_out.remote(survey, *arguments) for node, actor in actors.items()}
    )
    lacking = {node: there for node, there in found.items() if there.missing}
    if not lacking:
        return {node: there.root for node, there in found.items()}
    for node, there in lacking.items():
        size = sum(entry.size for path in there.missing for entry in listings[path])
        if size > there.free_bytes:
            raise FilesNotBrought(
                f"host {hosts[node]} does not see {files.root}, and a copy of {_told(size)} does "
                f"not fit {there.root} there, where {_told(there.free_bytes)} are free; make "
                f"room, set {files.variable} there to a larger disk, or share the folder"
            )
        say(f"{hosts[node]} does not see {files.root}: copying {_told(size)} to {there.root} there")
    begun, token = time.monotonic(), secrets.token_hex(4)
    for path in files.paths:
        takers = {node: there.root for node, there in lacking.items() if path in there.missing}
        under_way: deque[dict[str, Any]] = deque()
        for name, offset, chunk in _chunks(files.root / path, listings[path] if takers else ()):
            data = ray.put(chunk)  # once, however many hosts take it
            under_way.append(
                {
                    node: actors[node].carry_out.remote(
                        write_chunk, _partial(root / path, token + node[:8]), name, offset, data
                    )
                    for node, root in takers.items()
                }
            )
            if len(under_way) == CHUNKS_UNDER_WAY:
                answers(under_way.popleft())
        while under_way:
            answers(under_way.popleft())
        answers(
            {
                node: actors[node].carry_out.remote(
                    publish, root / path, token + node[:8], listings[path]
                )
                for node, root in takers.items()
            }
        )
    say(f"copied in {time.monotonic() - begun:.1f} s")
    return {node: there.root for node, there in found.items()}


def nodes_that_see(
    ray: ModuleType, nodes: Sequence[str], folder: Path, say: Callable[[str], None]
) -> set[str]:
    """Those of the nodes on which `folder` is the driver's folder, told by a file put there.

    `say` gets a line for each node that does not answer; it is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".seen-by-{secrets.token_hex(8)}"
    probe.write_text(probe.name)
    try:
        seen = on_nodes(ray, {node: [probe] for node in nodes}, Path.exists)
    finally:
        probe.unlink()
    for node in nodes:
        if node not in seen:
            say(f"node {node[:8]} does not answer and is left out")
    return {node for node, sees in seen.items() if sees}


def listing(path: Path) -> Listing:
    """The files of a folder, or one file; size and time of change tell one version from another."""
    found = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    entries = []
    for file in found:
        facts = file.stat()
        entries.append(Entry(str(file.relative_to(path)), facts.st_size, facts.st_mtime_ns))
    return tuple(entries)


def survey(root: Path, variable: str, default: str, listings: Mapping[Path, Listing]) -> Found:
    """On a host: where the files are, or shall be."""
    if all(_has(root / path, wanted) for path, wanted in listings.items()):
        return Found(root)
    own = Path(os.environ.get(variable) or default).expanduser().absolute()
    missing = tuple(path for path, wanted in listings.items() if not _has(own / path, wanted))
    own.mkdir(parents=True, exist_ok=True)
    for path in missing:
        for left in (own / path).parent.glob(glob.escape(f".{path.name}.partial-") + "*"):
            if time.time() - left.stat().st_mtime > STALE_S:
                _remove(left)
    return Found(own, missing, shutil.disk_usage(own).free)


def write_chunk(partial: Path, name: str, offset: int, chunk: bytes) -> None:
    """On a host: put a piece of a file in its place in the copy that grows."""
    file = partial / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    with file.open("r+b") as out:  # pieces may come in any order
        out.seek(offset)
        out.write(chunk)
        out.flush()
        os.fsync(out.fileno())


def publish(path: Path, token: str, wanted: Listing) -> None:
    """On a host: give the copy its name, all at once; another job may have been faster."""
    partial, old = _partial(path, token), _partial(path, token + "-old")
    partial.parent.mkdir(parents=True, exist_ok=True)
    for entry in wanted:
        os.utime(partial / entry.name, ns=(entry.mtime_ns, entry.mtime_ns))
    if partial.is_file():
        partial.replace(path)
        return
    partial.mkdir(exist_ok=True)  # an empty folder
    # Two jobs that look at the same moment must not both replace: the second would take away the
    # copy that the first has begun to read.
    with (path.parent / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _has(path, wanted):
            if path.exists():
                path.rename(old)
            partial.rename(path)
    _remove(partial)
    _remove(old)


def _has(path: Path, wanted: Listing) -> bool:
    try:
        return path.exists() and listing(path) == wanted
    except OSError:
        return False


def _chunks(path: Path, entries: Listing) -> Iterator[tuple[str, int, bytes]]:
    """Name, offset and bytes of each piece of the files; an empty file has one empty piece."""
    for entry in entries:
        with (path / entry.name).open("rb") as file:
            offset = 0
            while (chunk := file.read(CHUNK_BYTES)) or not offset:
                yield entry.name, offset, chunk
                offset += len(chunk)
                if not chunk:
                    break


def _partial(path: Path, token: str) -> Path:
    return path.with_name(f".{path.name}.partial-{token}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _answer(ray: ModuleType, call: Any, host: str, check: Callable[[], None]) -> Any:
    while not ray.wait([call], timeout=POLL_S)[0]:
        check()
    try:
        return ray.get(call)
    except ray.exceptions.RayTaskError as error:
        raise FilesNotBrought(f"files for {host}: {error.cause}") from None
    except ray.exceptions.RayError as error:
        kind, message = type(error).__name__, f"while files were copied to {host}: {error}"
        raise WorkerFailed(
            rank=None, host=host, cause="start", error_type=kind, message=message
        ) from None


def _told(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
