"""Copies of a run's checkpoints behind a URL, made while training goes on.

The run folder stays what counts. A thread of the driver, which sees it as every rank does, takes
the newest checkpoint that is not there yet:

1. It holds it, so that retention waits, and copies its files, hashed on their way.
2. The manifest comes last, and never in the place of another's: `fence/` there has a file for
   each attempt, as in the run folder, and a higher one, or one that somebody else made, ends the
   copying. So of two copies of one run, on two machines, only one publishes.
3. What the run folder does not keep any more goes there, too: the manifest first.

What falls behind leaves out checkpoints that are gone meanwhile; training never waits. A store that
is down is told once, and tried again until the run ends, and then as long as something moves.
"""

import hashlib
import json
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from data.addresses import hide
from orchestrator.record.checkpoints.destination import Destination, DestinationError, upload_all
from orchestrator.record.checkpoints.finding import published
from orchestrator.record.checkpoints.manifest import (
    FOLDER,
    MANIFEST,
    Checkpoint,
    CheckpointError,
    read,
)
from orchestrator.record.checkpoints.retention import hold, release
from orchestrator.record.fencing import FOLDER as FENCE
from orchestrator.record.fencing import Fence, Fenced
from orchestrator.record.reading import CONFIG
from orchestrator.record.redaction import Redactor

PATIENCE_S = 60.0
"""At the end of a run: how long nothing may move before what is left is given up, and told."""
LONGEST_WAIT_S = 60.0  # between two tries of a store that is down
LAST_WAIT_S = 5.0  # the same once the run has ended
OTHER = "another copy of this run has published its own {}"
NAMES = ("overrides.yaml", "code.json", "metrics.jsonl", "events.jsonl", "result.json")
CODE = "code.json"  # differs between runs, not between copies of one


class Copier:
    """The copies of one run; the driver is its only caller."""

    def __init__(
        self, folder: Path, url: str, fence: Callable[[], Fence], redactor: Redactor
    ) -> None:
        """Nothing is copied before `start`.

        Args:
            folder: of the run.
            url: the destination; the run gets the folder DATE/NAME in it, as it has in its outputs.
            fence: of the attempt that is under way.
            redactor: of the run's config, which is copied without its secrets.
        """
        self._folder, self._fence, self._redactor = folder, fence, redactor
        self.url = hide("/".join((url.rstrip("/"), *folder.resolve().parts[-2:])))
        """The run folder there, as it may be shown."""
        self._there = Destination(url, "stage.checkpoints_to").below(*folder.resolve().parts[-2:])
        self._copied: dict[str, str] = {}  # manifest_sha256 of what is there, by its folder
        self._bad: set[str] = set()  # manifest_sha256 of what can't be copied, being damaged here
        self._token, self._taken = secrets.token_hex(8), 0  # of this copier, its highest fence
        self._events: deque[dict[str, Any]] = deque()
        self._trouble: str | None = None
        self._fenced = self._ending = False
        self._moved_at = time.monotonic()
        self._wake, self._idle = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="copier", daemon=True)

    def start(self) -> None:
        """Begin in a thread; it looks at once for what is to be copied."""
        self._thread.start()

    def wake(self) -> None:
        """A checkpoint was published."""
        self._idle.clear()
        self._wake.set()

    def news(self) -> Iterator[dict[str, Any]]:
        """What happened since the last call, as events for the journal. Never waits."""
        while self._events:
            yield self._events.popleft()

    def finish(self, patience_s: float = PATIENCE_S) -> list[str]:
        """Wait until all is copied, or nothing has moved for so long; returns what is pending.

        The checkpoints' folders, newest first. It may be called again, to wait no more.
        """
        self._ending, self._moved_at = True, time.monotonic()
        self.wake()
        while self._thread.is_alive() and time.monotonic() < self._moved_at + patience_s:
            if self._idle.wait(0.1):
                break
        return [path.name for path in self._missing()]

    def seal(self) -> None:
        """Copy the record once more, with its end; one try, after `finish`."""
        if self._idle.is_set() and self._taken and not self._fenced:
            with suppress(DestinationError, OSError):
                self._copy_record()

    def copy_all(self) -> None:
        """Copy what is missing in this thread, in place of `start`.

        Raises:
            DestinationError: the store can't be read or written.
            Fenced: it holds another run of this name, or another copy of this one writes there.
        """
        while missing := self._missing():
            self._copy(missing[0])

    def _run(self) -> None:
        tries = 0
        while True:
            self._wake.clear()
            try:
                if missing := self._missing():
                    self._copy(missing[0])
                    tries, self._trouble = 0, None
                    continue
                self._idle.set()
                self._wake.wait()
                continue
            except Fenced as error:
                self._fenced = True
                self._events.append({"event": "copy_fenced", "url": self.url, "reason": str(error)})
                return
            except (DestinationError, OSError) as error:  # also one that exists already, once more
                if self._trouble != str(error):
                    self._trouble = str(error)
                    self._events.append(
                        {"event": "copy_failed", "url": self.url, "reason": self._trouble}
                    )
            tries += 1
            wait_s = min(2.0**tries, LAST_WAIT_S if self._ending else LONGEST_WAIT_S)
            self._wake.wait(wait_s)

    def _missing(self) -> list[Path]:
        """What the run folder has and the destination has not, newest first."""
        missing = []
        for path in reversed(published(self._folder / FOLDER)):
            try:
                own = read(path).manifest_sha256
            except CheckpointError:  # being deleted, or damaged
                continue
            if self._copied.get(path.name) != own and own not in self._bad:
                missing.append(path)
        return missing

    def _copy(self, path: Path) -> None:
        """Copy one checkpoint, and remove there what is not kept here any more."""
        try:
            held = hold(path)
        except CheckpointError:  # its retention was quicker
            return
        try:
            begun, own = time.monotonic(), read(path)
            self._take_fence()
            self._copy_record()
            if not self._is_there(own):
                self._upload(own)
                self._publish(path)
                seconds = round(time.monotonic() - begun, 3)
                self._events.append(
                    {"event": "copied", "url": self.url, "seconds": seconds, **own.record}
                )
            self._copied[path.name] = own.manifest_sha256
        except CheckpointError as error:  # damaged since it was written
            self._bad.add(own.manifest_sha256)
            self._there.remove(f"{FOLDER}/{path.name}")
            self._events.append({"event": "copy_failed", "url": self.url, "reason": str(error)})
        finally:
            release(path, held)
        self._remove_old()

    def _upload(self, own: Checkpoint) -> None:
        """Copy the files, never over those of another: what is published stays as it is."""
        there = self._there.below(FOLDER, own.path.name)
        try:
            upload_all(there, own.path, own.files, self._moved)
        except FileExistsError:  # of a try before, or of an attempt that was fenced off since
            if MANIFEST in there.names():
                raise Fenced(OTHER.format(own.path.name)) from None
            self._check_fence()
            self._there.remove(f"{FOLDER}/{own.path.name}")
            upload_all(there, own.path, own.files, self._moved)

    def _is_there(self, own: Checkpoint) -> bool:
        """Whether the very checkpoint is there; one of an earlier attempt makes room."""
        name = f"{FOLDER}/{own.path.name}"
        try:
            text = self._there.read(f"{name}/{MANIFEST}")
        except FileNotFoundError:
            return False
        if hashlib.sha256(text).hexdigest() == own.manifest_sha256:
            return True
        with suppress(ValueError, KeyError):  # of a damaged one, which makes room, too
            if json.loads(text)["writer"]["fence"] >= self._fence().number:
                raise Fenced(OTHER.format(own.path.name))
        self._check_fence()
        self._there.remove(f"{name}/{MANIFEST}")
        self._there.remove(name)
        return False

    def _publish(self, path: Path) -> None:
        """The manifest, unless another has taken the run: here, or there."""
        self._check_fence()
        name = f"{FOLDER}/{path.name}/{MANIFEST}"
        text = (path / MANIFEST).read_bytes()
        try:
            self._there.create(name, text)
        except FileExistsError:
            if self._there.read(name) != text:
                raise Fenced(OTHER.format(path.name)) from None

    def _take_fence(self) -> None:
        """Make the file of this attempt there, once.

        Raises:
            Fenced: another copy of this run has it, or a higher one, or it is another run.
        """
        number = self._fence().number
        if self._taken == number:
            self._check_fence()
            return
        with suppress(FileNotFoundError):
            if self._there.read(CODE) != (self._folder / CODE).read_bytes():
                raise Fenced("it holds another run of the same name")
        about = {"pid": os.getpid(), "host": os.uname().nodename, "token": self._token}
        about |= {"attempt": self._fence().attempt, "folder": str(self._folder.resolve())}
        with suppress(FileExistsError):  # maybe our own, of a try whose answer was lost
            self._there.create(_fence_name(number), json.dumps(about).encode())
        self._taken = number
        self._check_fence()

    def _check_fence(self) -> None:
        """Raise Fenced if another attempt has taken the run, here or there."""
        self._fence().check()
        newest = max(self._there.below(FENCE).names(), default="")
        about = json.loads(self._there.read(f"{FENCE}/{newest}")) if newest else {}
        if about.get("token") != self._token:
            self._taken = 0
            by = f"attempt {about.get('attempt')}, process {about.get('pid')}"
            raise Fenced(f"another copy of this run writes there: {by} on {about.get('host')}")

    def _copy_record(self) -> None:
        """What a run that goes on from there, or its reader, needs besides checkpoints."""
        settings = yaml.safe_load((self._folder / CONFIG).read_bytes())
        shown = yaml.safe_dump(self._redactor.settings(settings), sort_keys=False)
        self._there.write(CONFIG, shown.encode())
        for name in NAMES:
            if (self._folder / name).is_file():
                self._there.write(name, (self._folder / name).read_bytes())
            self._moved()

    def _remove_old(self) -> None:
        """Remove there what is not here, with what writers that are gone have left half-written."""
        kept = {path.name for path in published(self._folder / FOLDER)}
        there = {name.split("/")[0] for name in self._there.below(FOLDER).names()}
        for name in sorted(there - kept):
            self._check_fence()
            self._there.remove(f"{FOLDER}/{name}/{MANIFEST}")
            self._there.remove(f"{FOLDER}/{name}")
            self._copied.pop(name, None)

    def _moved(self) -> None:
        self._moved_at = time.monotonic()


def _fence_name(number: int) -> str:
    return f"{FENCE}/{number:06}.json"
