"""Checkpoints behind a URL: fetched to the cache when somebody asks, and no more than is needed.

The cache: cache_root()/runs/KEY/ with KEY a hash of the run's URL
    lock            one process at a time fetches; the others wait and then find it
    DATE/NAME/      the run folder there: its config, its journal, and what was asked for of it
A file gets its name here once its size and hash are those of the manifest; a manifest comes last.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from data.files import cache_root, lock
from orchestrator.record.checkpoints.cached import RUNS
from orchestrator.record.checkpoints.content import look
from orchestrator.record.checkpoints.destination import Destination
from orchestrator.record.checkpoints.manifest import (
    FOLDER,
    MANIFEST,
    PARTIAL,
    Checkpoint,
    CheckpointError,
    parse,
)
from orchestrator.record.fencing import FOLDER as FENCE
from orchestrator.record.journal import goes_on
from orchestrator.record.lines import EVENTS, METRICS
from orchestrator.record.reading import CONFIG

STEP = "step_"


class RemoteRun:
    """A run folder behind a URL, and what of it is in the cache."""

    def __init__(self, url: str, setting: str) -> None:
        """Of the run, or of a checkpoint of it; reaches nothing yet.

        Raises:
            ValueError: the kind of URL is not known, or its package is not installed.
        """
        path = url.rstrip("/").split("/")
        self.step = path.pop() if path[-1].startswith(STEP) else None
        """The folder of the checkpoint that was named. None: the run was."""
        if path[-1] == FOLDER:
            path.pop()
        self.there = Destination("/".join(path), setting)
        key = hashlib.sha256(self.there.url.encode()).hexdigest()[:32]
        self.cached = cache_root() / RUNS / key
        self.folder = self.cached.joinpath(*path[-2:])
        """The run folder in the cache."""

    def fetch_config(self) -> Path:
        """Bring the config to the cache; returns its path there.

        Raises:
            ValueError: no run is there, or it can't be reached; names the runs that are.
        """
        with lock(self.cached / "lock"):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self.there.download(CONFIG, self.folder / CONFIG)
            except FileNotFoundError:
                raise CheckpointError(
                    f"{self.there} is no run folder: it has no {CONFIG}{self._hint()}"
                ) from None
            os.utime(self.cached)
        return self.folder / CONFIG

    def fetch_record(self) -> Path:
        """Bring config and journal to the cache; returns the run folder there.

        Raises:
            ValueError: no run is there, or it can't be reached; names the runs that are.
        """
        self.fetch_config()
        with lock(self.cached / "lock"):
            names = self.there.names()
            for name in (METRICS, EVENTS):
                file = self.folder / name
                if name in names and not (file.is_file() and file.stat().st_size == names[name]):
                    self.there.download(name, file)
        return self.folder

    def writer(self) -> Path | None:
        """The run folder on this host that still writes there. None: there is none to be seen."""
        newest = max(self.there.below(FENCE).names(), default=None)
        about = {} if newest is None else json.loads(self.there.read(f"{FENCE}/{newest}"))
        folder = Path(about.get("folder", ""))
        here = about.get("host") == os.uname().nodename
        return folder if here and goes_on(folder) else None

    def steps(self) -> dict[str, dict[str, int]]:
        """The checkpoints' folders, newest first, each with the sizes of its files."""
        found: dict[str, dict[str, int]] = {}
        for name, size in self.there.below(FOLDER).names().items():
            step, _, file = name.partition("/")
            if step.startswith(STEP) and file and not step.endswith(PARTIAL):
                found.setdefault(step, {})[file] = size
        return dict(sorted(found.items(), reverse=True))

    def read(self, step: str) -> Checkpoint:
        """A checkpoint by its manifest; its path is that in the cache. Raises CheckpointError."""
        try:
            text = self.there.read(f"{FOLDER}/{step}/{MANIFEST}")
        except FileNotFoundError:
            raise CheckpointError(f"{self._place(step)} is no checkpoint: no {MANIFEST}") from None
        path = self.folder / FOLDER / step
        try:
            return parse(path, text)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(path), self._place(step))) from None

    def verify(self, step: str) -> Checkpoint:
        """The checkpoint, every byte of it read there. Raises CheckpointError."""
        found = self.read(step)
        for name, expected in found.files.items():
            here = f"{FOLDER}/{step}/{name}"
            self._check(here, self.there.look(here, expected.bytes), expected.sha256)
        return found

    def fetch(self, step: str, *, weights_only: bool = False) -> Checkpoint:
        """Bring a checkpoint to the cache, each file verified.

        Raises:
            CheckpointError: it is not whole there, or holds numbers that are not finite.
        """
        found = self.read(step)
        if weights_only:
            found = found.weights_alone
        with lock(self.cached / "lock"):
            for name, expected in found.files.items():
                file, there = found.path / name, f"{FOLDER}/{step}/{name}"
                if file.is_file() and look(file) == (expected.sha256, True):
                    continue
                file.parent.mkdir(parents=True, exist_ok=True)
                partial = file.with_name(f".{file.name}")
                try:
                    self.there.download(there, partial)
                    self._check(there, look(partial), expected.sha256)
                    partial.rename(file)
                except FileNotFoundError:
                    raise CheckpointError(f"{self._place(step)}: {name} is missing") from None
                finally:
                    partial.unlink(missing_ok=True)
            (found.path / MANIFEST).write_bytes(self.there.read(f"{FOLDER}/{step}/{MANIFEST}"))
        return found

    def find(self, get: Callable[[str], Checkpoint]) -> Checkpoint:
        """The checkpoint that was named, or the newest that `get` does not refuse.

        Raises:
            CheckpointError: there is none.
        """
        if self.step is not None:
            return get(self.step)
        passed_over: list[str] = []
        for step in self.steps():
            try:
                return replace(get(step), passed_over=tuple(passed_over))
            except CheckpointError as error:
                passed_over.append(str(error))
        reason = "; ".join(passed_over) or f"no checkpoint is there{self._hint()}"
        raise CheckpointError(f"{self.there} holds no valid checkpoint: {reason}")

    def _check(self, name: str, found: tuple[str, bool], sha256: str) -> None:
        if found[0] != sha256:
            raise CheckpointError(
                f"{self._place(name)} is damaged: its sha256 is {found[0][:12]}, the manifest says "
                f"{sha256[:12]}"
            )
        if not found[1]:
            raise CheckpointError(f"{self._place(name)} holds numbers that are not finite")

    def _hint(self) -> str:
        runs = self.there.runs()
        return f"; it holds runs, such as {runs[-1]}" if runs else "; name a run folder"

    def _place(self, name: str) -> str:
        return f"{self.there} {name.removeprefix(f'{FOLDER}/')}"
