"""Small pieces for everything on disk: strict reading, hashes, fsync, rename, locks.

A reader may trust whatever stands under its final name: files and folders are written beside it,
flushed to the disk and renamed, so a killed writer leaves a `.partial` thing and nothing else.
"""

import fcntl
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MOST_JSON = 2**28  # bytes of a file that is one JSON value; the largest tokenizers have 2**25


class DataError(ValueError):
    """Data that can't be used as asked; the message names the file or setting and the remedy."""


class NotOnThisHost(DataError):
    """What the driver has prepared is not there on the host of a rank, which only opens it."""


class DamagedData(DataError):
    """Stored data that is no longer what was written: no setting is wrong, a disk or a copy is."""


def decode_utf8(raw: bytes, offset: int = 0) -> str:
    """Bytes as text.

    Args:
        raw: the bytes.
        offset: where they begin in their file, for messages.

    Raises:
        DataError: they are of another encoding, or no text; the message begins with "is ...".
    """
    if offset == 0 and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError("is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 IN > OUT")
    if (nul := raw.find(b"\0")) >= 0:
        raise DataError(
            f"is a binary file: a NUL byte at offset {offset + nul}; text must be UTF-8 "
            "(leave this file out, or unpack or convert it)"
        )
    try:
        return raw.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"is not UTF-8: byte 0x{raw[error.start]:02x} at offset {offset + error.start}; "
            "convert it, for example: iconv -f LATIN1 -t UTF-8 IN > OUT"
        ) from None


def read_utf8(file: Path) -> str:
    """A file's text without a byte order mark.

    Raises:
        DataError: the file can't be read, is binary (says at which byte) or in another encoding.
    """
    try:
        return decode_utf8(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file} can't be read: {error.strerror}") from None
    except DataError as error:
        raise DataError(f"{file} {error}") from None


def parse_json(text: str | bytes, loads: Callable[[Any], Any] = json.loads) -> Any:
    """A JSON value, by `json.loads` or another that raises the same.

    Raises:
        DataError: it is none, or more than can be read; the message begins with "is ...".
    """
    try:
        return loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"is not JSON ({error.msg.removesuffix(' at')} at character {error.pos})"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"is not JSON (not UTF-8 at byte {error.start})") from None
    except RecursionError:
        raise DataError("is JSON nested too deep to be read") from None
    except ValueError:  # of int(): the digits of a number are limited, since that is quadratic
        digits = sys.get_int_max_str_digits()
        raise DataError(f"is JSON with a number of more than {digits:,} digits") from None


def read_json(path: Path, most_bytes: int = MOST_JSON) -> Any:
    """The JSON value in a file.

    Raises:
        DataError: the file can't be read, is no JSON, or larger than `most_bytes`; names it.
    """
    try:
        if (size := path.stat().st_size) > most_bytes:
            raise DataError(
                f"has {size:,} bytes, and at most {most_bytes:,} are read of such a file"
            )
        return parse_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from None
    except DataError as error:
        raise DataError(f"{path} {error}") from None


def json_sha256(value: Any) -> str:
    """Hex sha256 of a JSON value, the same whatever the order of the keys in its objects."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable: a rename survives a power cut only after this."""
    _fsync(path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError name the file: one of a call on an open file knows no path."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_text_atomic(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a UTF-8 file so that readers see the old text or the new one, never a part.

    `mode` says who may read and write it, less what the umask takes away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with naming(path), os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def publish(partial_folder: Path, final_folder: Path) -> None:
    """Give a finished folder its final name after all its files are on the disk.

    Raises:
        FileExistsError: the final name is taken by something that is not an empty folder.
    """
    if final_folder.exists() and (not final_folder.is_dir() or any(final_folder.iterdir())):
        raise FileExistsError(f"{final_folder} exists already; published folders never change")
    for folder, _, names in os.walk(partial_folder):
        for name in names:
            _fsync(Path(folder) / name)
        fsync_folder(Path(folder))
    partial_folder.rename(final_folder)
    fsync_folder(final_folder.parent)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, waiting for it; the kernel frees it when a holder dies.

    The lock file stays: removing it would let a third process lock a new file of the same name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # frees the lock


def expand_home(setting: str, path: str | None) -> str | None:
    """The path of a setting with `~` filled in; a folder that is called so is ./~.

    Raises:
        DataError: nobody knows the home folder.
    """
    if path is None or not path.startswith("~"):
        return path
    expanded = os.path.expanduser(path)  # noqa: PTH111 - pathlib's raises, and drops a last slash
    if expanded.startswith("~"):
        raise DataError(
            f"{setting}={path}: the home folder of {path.partition('/')[0]} is not known here; "
            f"write the whole path, or ./{path} for a folder of that name"
        )
    return expanded


@contextmanager
def in_use(folders: Iterable[Path]) -> Iterator[None]:
    """Mark folders of the cache as used now, and as being read until the caller ends or dies.

    Where the file system has no locks, or may not be written, that is left out.
    """
    held = []
    try:
        for folder in folders:
            with suppress(OSError):
                held.append(os.open(folder, os.O_RDONLY | os.O_CLOEXEC))
                fcntl.flock(held[-1], fcntl.LOCK_SH | fcntl.LOCK_NB)
                os.utime(folder)
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


def is_in_use(folder: Path) -> bool:
    """Whether a living process on this machine reads a folder under `in_use`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here
        return False
    finally:
        os.close(descriptor)
    return False


def cache_root() -> Path:
    """$ORCHESTRATE_CACHE, else $XDG_CACHE_HOME/orchestrate, else ~/.cache/orchestrate.

    Raises:
        DataError: none of them is known, as for a bare user id in a container.
    """
    if own := os.environ.get("ORCHESTRATE_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "orchestrate"
    try:
        return Path.home() / ".cache" / "orchestrate"
    except RuntimeError:
        raise DataError(
            f"user {os.getuid()} has no home folder for the cache; set ORCHESTRATE_CACHE=DIR"
        ) from None
