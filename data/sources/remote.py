"""Files behind URLs: a cache of whole, verified copies. fsspec is only the transport.

The cache: cache_root()/remote/KEY/ with KEY a hash of the URL
    lock         one process at a time downloads or compares; the others wait and then find it
    NAME         the copy; it got this name by a rename, after all was on the disk and checked
    about.json   which version of the remote file it is; written last, so it never tells of another
fsspec's own file caches are not used: two processes that read through them get torn files
(fsspec/filesystem_spec#639).
"""

import base64
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from data.addresses import hide
from data.files import DataError, cache_root, fsync_folder, lock, write_text_atomic
from data.sources.urls import (
    cause_of,
    failure,
    first_line,
    is_own_disk,
    is_pattern,
    local_path,
    may_pass,
)

ATTEMPTS = 3
BACK_OFF = 0.5  # seconds before the second attempt; twice as long before each later one
CONNECT_SECONDS, SILENCE_SECONDS = 5, 20
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs"}
# What the file systems of fsspec call the things that change when the content does.
VERSION_FIELDS = (
    "ETag", "etag", "Last-Modified", "LastModified", "Content-MD5", "Digest", "md5Hash",
    "generation", "updated", "blob_id", "mtime", "created",
)  # fmt: skip


@dataclass(frozen=True)
class RemoteFile:
    """What a server says of a file without sending it."""

    url: str
    size: int | None
    """Bytes. None: not announced."""
    identity: str | None
    """Differs when the content does. None: the server says nothing that would."""


def listing(url: str) -> list[RemoteFile]:
    """The files that a URL stands for: itself, all below a folder, or all that fit a pattern.

    Raises:
        DataError: nothing is there, the server can't be reached, or a driver is missing.
    """
    files: list[RemoteFile] = _retried(url, lambda: _listing(url))
    return files


def fetch(url: str) -> Path:
    """A whole and verified local copy of a remote file; downloaded unless it is unchanged.

    Size, checksum (where the server announces one) and version are compared after the download.
    An S3 ETag is a version only: with KMS encryption it is no MD5. Any number of processes may ask
    at once; one downloads.

    Raises:
        DataError: it is not there, can't be reached, was cut, or changes while it is read.
    """
    if url.startswith("file://"):
        here = local_path(url)
        if not here.is_file():
            raise DataError(f"data.path={url}: there is no such file")
        return here
    folder = _folder(url)
    try:
        with lock(folder / "lock"):
            path: Path = _retried(url, lambda: _fetch(url, folder))
            return path
    except DataError as error:
        if known := _known(folder):
            raise DataError(f"{error}; an earlier copy: data.path={known[0]}") from None
        raise
    except OSError as error:  # of the lock
        raise failure(url, error, 1) from None


def _folder(url: str) -> Path:
    return cache_root() / "remote" / hashlib.sha256(url.encode()).hexdigest()[:32]


def _known(folder: Path) -> tuple[Path, str | None] | None:
    """The copy and its identity, if it is there and nobody changed it."""
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        path = folder / about["name"]
        stat = path.stat()
        same = [stat.st_size, stat.st_mtime_ns] == [about["size"], about["mtime_ns"]]
        return (path, about["identity"]) if same else None
    except (OSError, ValueError, KeyError):
        return None


def _fetch(url: str, folder: Path) -> Path:
    """One attempt; the caller holds the lock."""
    files, path = file_system(url)
    info = _info(files, path)
    remote = _remote(url, info)
    known = _known(folder)
    if known and remote.identity and known[1] == remote.identity:
        return known[0]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", unquote(urlsplit(url).path).rsplit("/", 1)[-1])
    final = folder / (name[-100:] or "data")
    partial = folder / f".{final.name}.partial"
    try:
        _download(files, path, partial, remote, info)
        if _remote(url, _info(files, path)).identity != remote.identity:
            raise OSError("it changed while it was downloaded")
        (folder / "about.json").unlink(missing_ok=True)
        partial.replace(final)
    finally:
        partial.unlink(missing_ok=True)
    fsync_folder(folder)
    stat = final.stat()
    about = {
        "url": hide(url),
        "name": final.name,
        "identity": remote.identity,
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
    }
    write_text_atomic(folder / "about.json", json.dumps(about, indent=1))
    return final


def _download(
    files: Any, path: str, partial: Path, remote: RemoteFile, info: dict[str, Any]
) -> None:
    """Bring the bytes to the disk and compare them with what was announced."""
    from fsspec.callbacks import Callback

    announced = Callback()
    try:
        files.get_file(path, str(partial), callback=announced)
    except Exception as error:  # each file system has its own kinds
        if is_own_disk(error) or not partial.exists() or not partial.stat().st_size:
            raise
        raise _cut(partial, remote.size, f" ({first_line(error)})") from None
    size = announced.size if remote.size is None else remote.size
    if size is None:
        raise DataError(
            f"data.path={hide(remote.url)}: the server announces no length, so a download "
            "that was cut can't be told from a whole one; fetch the file yourself and set "
            "data.path=FILE"
        )
    if partial.stat().st_size != size:
        raise _cut(partial, size, "")
    if checksum := _checksum(info):
        algorithm, expected_hex = checksum
        with partial.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if found != expected_hex:
            raise OSError(
                f"the bytes are not those of the server: {algorithm} {found}, not {expected_hex}"
            )
    with partial.open("rb") as file:
        os.fsync(file.fileno())


def _cut(partial: Path, size: int | None, reason: str) -> OSError:
    expected = "an unknown number of" if size is None else f"{size:,}"
    got = partial.stat().st_size
    return OSError(f"the connection was cut: {got:,} of {expected} bytes came{reason}")


def _checksum(info: dict[str, Any]) -> tuple[str, str] | None:
    """(algorithm, hex digest) of the content, where the server announces one."""
    lfs = info.get("lfs")  # Hugging Face, large files
    if sha256 := getattr(lfs, "sha256", None) or (isinstance(lfs, dict) and lfs.get("sha256")):
        return "sha256", str(sha256)
    for field in ("Content-MD5", "md5Hash"):  # http, Google; in base64
        if value := info.get(field):
            return "md5", base64.b64decode(value).hex()
    return None


def file_system(url: str, setting: str = "data.path") -> tuple[Any, str]:
    """The file system of a URL, with time limits, and the path in it.

    `setting` is whose value the URL is, for messages.

    Raises:
        DataError: the kind of URL is not known, or its driver is not installed.
    """
    import fsspec

    protocol = url.split("://", 1)[0].lower()
    settings: dict[str, Any] = {"use_listings_cache": False}
    if protocol in ("http", "https"):
        import aiohttp

        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
        )
        # Bytes as they are stored: neither packed for the way nor unpacked on arrival.
        settings["client_kwargs"] = {"timeout": limits, "trust_env": True, "auto_decompress": False}
        settings["headers"] = {"Accept-Encoding": "identity"}
    elif protocol in ("s3", "s3a"):
        settings["config_kwargs"] = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": SILENCE_SECONDS,
            "retries": {"max_attempts": 1},
        }
    try:
        files, path = fsspec.core.url_to_fs(url, **settings)
    except ImportError as error:
        package = PACKAGES.get(protocol)
        remedy = f"pip install {package}" if package else first_line(error)
        raise DataError(
            f"{setting}={hide(url)}: {protocol}:// needs a package that is not installed: {remedy}"
        ) from None
    except ValueError as error:
        raise DataError(
            f"{setting}={hide(url)}: {first_line(error)}; known are http(s)://, s3://, "
            "gs://, hf:// and file://"
        ) from None
    return files, path


def _info(files: Any, path: str) -> dict[str, Any]:
    files.invalidate_cache()
    info: dict[str, Any] = files.info(path)
    return info


def _remote(url: str, info: dict[str, Any]) -> RemoteFile:
    version = {name: str(info[name]) for name in VERSION_FIELDS if info.get(name)}
    size = info.get("size")
    identity = json.dumps([size, version], sort_keys=True) if version else None
    return RemoteFile(url, size, identity)


def _listing(url: str) -> list[RemoteFile]:
    files, path = file_system(url)
    files.invalidate_cache()
    http = url.lower().startswith(("http://", "https://"))
    if is_pattern(url):
        found = files.glob(path, detail=True)
    elif http and not path.endswith("/"):
        return [_remote(url, _info(files, path))]
    else:
        if not http and (info := _info(files, path))["type"] == "file":
            return [_remote(url, info)]
        found = files.find(path, detail=True)
    names = sorted(name for name, info in found.items() if info["type"] == "file")
    if http:  # its listings are pages of links, which say nothing of the files
        return [_remote(name, _info(files, name)) for name in names if not name.endswith("/")]
    return [_remote(files.unstrip_protocol(name), found[name]) for name in names]


def _retried(url: str, attempt: Callable[[], Any]) -> Any:
    """Try again what may pass, up to ATTEMPTS times; every failure becomes a DataError."""
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except DataError:
            raise
        except Exception as error:  # each file system has its own kinds
            if number == ATTEMPTS or not may_pass(cause_of(error)):
                raise failure(url, cause_of(error), number) from None
        time.sleep(BACK_OFF * 2 ** (number - 1))
    raise AssertionError("the last attempt returns or raises")
