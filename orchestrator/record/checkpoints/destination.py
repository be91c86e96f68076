"""A folder behind an fsspec URL: what checkpoints are copied to, and fetched from.

fsspec is the transport alone. Bytes are hashed here on their way up, and size and hash are compared
with what the manifest says wherever they arrive. A file that must not replace another one is made
by `create`, which the store itself refuses if there is one (`If-None-Match` of S3).
"""

import hashlib
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data.addresses import hide
from data.sources.remote import file_system
from data.sources.urls import cause_of, credentials, first_line, is_refused
from orchestrator.record.checkpoints.content import look_at
from orchestrator.record.checkpoints.manifest import CheckpointError, FileRecord

CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 16 << 20  # that a store gets at once
MOST_BLOCKS = 9_000  # of a file; S3 takes 10,000
AT_ONCE = 4  # files on their way
MEMORY_BYTES = 2 * AT_ONCE * BLOCK_BYTES
"""That copying takes at most: of each file a block that is filled, and one that is sent."""


class DestinationError(ValueError):
    """A URL that can't be read or written now; says why, and what to do."""


class _Stopped(DestinationError):
    """Another file of the same checkpoint could not be copied."""


class Destination:
    """Files below a URL, by their names from there on."""

    def __init__(self, url: str, setting: str) -> None:
        """Reach nothing yet; `setting` is whose value the URL is, for messages.

        Raises:
            ValueError: the kind of URL is not known, or its package is not installed.
        """
        self.url, self._setting = url.rstrip("/"), setting
        self._files, root = file_system(self.url, setting)
        self._root = root.rstrip("/")
        self._on_disk = "file" in (self._files.protocol or ())
        if hasattr(self._files, "auto_mkdir"):  # the only kind with folders that must be made
            self._files.auto_mkdir = True

    def __str__(self) -> str:
        """The setting with the URL, as it may be shown."""
        return f"{self._setting}={hide(self.url)}"

    def below(self, *names: str) -> "Destination":
        """A folder in it."""
        return Destination("/".join((self.url, *names)), self._setting)

    def names(self) -> dict[str, int]:
        """The files in it and in folders of it, and their sizes in bytes."""
        with self._told():
            found = self._files.find(self._root, detail=True)
        start = len(self._root) + 1
        return {name[start:]: int(info["size"]) for name, info in found.items()}

    def runs(self) -> list[str]:
        """Run folders in it, as DATE/NAME, oldest first."""
        with self._told():
            found = self._files.glob(f"{self._root}/*/*/config.yaml")
        return sorted("/".join(str(name).split("/")[-3:-1]) for name in found)

    def read(self, name: str) -> bytes:
        """A small file. Raises FileNotFoundError if there is none of that name."""
        with self._told(missing=FileNotFoundError):
            content: bytes = self._files.cat_file(self._path(name))
            return content

    def write(self, name: str, content: bytes) -> None:
        """Make a small file, or replace it."""
        with self._told():
            self._files.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> None:
        """Make a small file. Raises FileExistsError if there is one of that name."""
        with self._told():
            if self._on_disk:
                Path(self._path(name)).parent.mkdir(parents=True, exist_ok=True)
                with Path(self._path(name)).open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            else:
                self._files.pipe_file(self._path(name), content, mode="create")

    def upload(self, file: Path, name: str, expected: FileRecord, sent: Callable[[], None]) -> None:
        """Copy a file to a name that is not taken; `sent` is called after every chunk.

        Raises:
            FileExistsError: somebody else was quicker, or a try before left a part of it.
            CheckpointError: its bytes are not those of the manifest; nothing is kept.
            OSError: it can't be read.
        """
        digest, block = hashlib.sha256(), max(BLOCK_BYTES, -(-expected.bytes // MOST_BLOCKS))
        with file.open("rb") as source, self._told():
            target = self._files.open(self._path(name), "xb", block_size=block)
            try:
                while chunk := source.read(CHUNK_BYTES):
                    digest.update(chunk)
                    target.write(chunk)
                    sent()
                if (found := digest.hexdigest()) != expected.sha256:
                    raise CheckpointError(
                        f"{file} is damaged: its sha256 is {found[:12]}, the manifest says "
                        f"{expected.sha256[:12]}"
                    )
                target.close()
                if self._on_disk:
                    with Path(self._path(name)).open("rb") as kept:
                        os.fsync(kept.fileno())
            except BaseException:
                _abandon(target)
                raise
            self._files.invalidate_cache()
            there = int(self._files.info(self._path(name))["size"])
        if there != expected.bytes:
            raise DestinationError(f"{self}: {name} has {there} bytes, {expected.bytes} were sent")

    def download(self, name: str, file: Path) -> None:
        """Copy a file from there, over what is here under that name."""
        with self._told(missing=FileNotFoundError):
            self._files.get_file(self._path(name), str(file))

    def look(self, name: str, size: int) -> tuple[str, bool]:
        """As `content.look`, of a file there that has so many bytes."""
        with self._told(), self._files.open(self._path(name), "rb", block_size=BLOCK_BYTES) as file:
            return look_at(file, size, numbers=name.endswith(".safetensors"))

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all in it; what is gone already is no matter."""
        with self._told(), suppress(FileNotFoundError):
            self._files.rm(self._path(name), recursive=True)

    def check(self) -> None:
        """Raise ValueError unless files can be made there, and only once each."""
        probe = f".probe-{secrets.token_hex(8)}"
        try:
            self.create(probe, b"")
            try:
                self.create(probe, b"")
            except FileExistsError:
                return
            raise DestinationError(
                f"{self}: it replaces a file that it was told not to, so two copies of a run could "
                "not be kept apart there; take a store that knows If-None-Match"
            )
        finally:
            with suppress(Exception):
                self.remove(probe)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _told(self, missing: type[Exception] | None = None) -> Iterator[None]:
        """Let what a file system raises, each its own kinds, be a sentence."""
        try:
            yield
        except (CheckpointError, DestinationError, FileExistsError):
            raise
        except Exception as caught:
            error = cause_of(caught) if self.url.startswith("http") else caught
            lacks = isinstance(error, FileNotFoundError)
            kind = missing if missing is not None and lacks else DestinationError
            raise kind(f"{self}: {_reason(self.url, error)}") from caught


def _reason(url: str, error: BaseException) -> str:
    """What happened, and what to do."""
    said = hide(first_line(error).replace(url, hide(url)))
    if isinstance(error, FileNotFoundError):
        return f"there is no such bucket, folder or file ({said}); check the address, or make it"
    if is_refused(error):
        return f"access refused ({said}); {credentials(url)}"
    if isinstance(error, NotImplementedError):
        return f"it can't be written to ({said}); take s3://, gs:// or file://"
    return f"{said}; check the address and the network"


def _abandon(target: Any) -> None:
    """Give up a file that is being written; a store then never has a part of it."""
    with suppress(Exception):
        target.discard()
    with suppress(Exception):
        target.closed = True  # or its end, at the latest when it is collected, would complete it
    if not target.closed:  # a file of this host: a part that no manifest names
        target.close()


def upload_all(
    destination: Destination,
    folder: Path,
    files: Mapping[str, FileRecord],
    sent: Callable[[], None],
) -> None:
    """Copy the files of a checkpoint, AT_ONCE at a time. Raises what `upload` does for the first
    that failed."""
    left, errors = deque(files), list[Exception]()

    def going_on() -> None:
        if errors:
            raise _Stopped
        sent()

    def work() -> None:
        while not errors:
            try:
                name = left.popleft()
            except IndexError:
                return
            try:
                destination.upload(folder / name, name, files[name], going_on)
            except Exception as error:
                errors.append(error)

    # Not those of a pool: the process can end while a store keeps one of them waiting.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
