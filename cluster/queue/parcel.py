"""Files that travel with a job: an archive that is named by the hash of what is in it.

Equal files make an equal parcel, whoever packs them and when: names in order, no times, no owners,
of modes only whether a file may be executed. A parcel comes from somebody else, so unpacking trusts
nothing in it: ordinary files under relative names, as many bytes as a parcel may have, and the hash
that it was asked for by.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import zstandard

MOST_BYTES = 64 * 2**20  # of all files together, unpacked
MOST_FILES = 20_000
NAMED = 3  # of the largest files, in a message
ID = re.compile(r"[0-9a-f]{64}")
# Where people keep passwords, keys and tokens, by the whole name or its end.
SECRET_NAMES = {".env", ".netrc", ".pgpass", ".htpasswd", ".pypirc", "credentials", "kubeconfig"}
SECRET_ENDS = (".pem", ".key", ".p12", ".pfx", ".keystore", ".jks", ".kdbx", ".env")
SECRET_STARTS = (".env.", "id_rsa", "id_ed25519", "id_ecdsa", "id_dsa", "credentials.", "secrets.")


class ParcelRefused(ValueError):
    """A parcel that is too large, or not one that we have made; the message says why."""


@dataclass(frozen=True)
class Parcel:
    """An archive and its name."""

    id: str
    """Hex sha256 of the archive before it was compressed."""
    data: bytes
    """The archive, compressed."""


def keeps_secrets(name: str) -> bool:
    """Whether a file of this name is one in which people keep secrets; it must not travel."""
    last = PurePosixPath(name).name.lower()
    return last in SECRET_NAMES or last.endswith(SECRET_ENDS) or last.startswith(SECRET_STARTS)


def pack(files: Mapping[str, Path | bytes]) -> Parcel:
    """Put files into a parcel.

    Args:
        files: the content, or where it is, by relative name. Links are followed.

    Raises:
        ParcelRefused: they are too many or too large, or a name is none that can be unpacked.
        OSError: a file can't be read.
    """
    sizes = {name: _size(content) for name, content in files.items()}
    if sum(sizes.values()) > MOST_BYTES or len(files) > MOST_FILES:
        raise ParcelRefused(_too_large(sizes))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in sorted(files.items()):
            _check_name(name)
            entry = tarfile.TarInfo(name)
            data = content if isinstance(content, bytes) else content.read_bytes()
            runs = not isinstance(content, bytes) and os.access(content, os.X_OK)
            entry.size, entry.mode = len(data), 0o755 if runs else 0o644
            tar.addfile(entry, io.BytesIO(data))
    plain = archive.getvalue()
    return Parcel(hashlib.sha256(plain).hexdigest(), zstandard.compress(plain))


def unpack(data: bytes, name: str, parent: Path) -> Path:
    """The folder `parent/name` with the files of a parcel; it is whole or not there.

    One that is there already is used again. Several processes may unpack the same parcel at once.

    Raises:
        ParcelRefused: it is damaged, too large, or holds what a parcel never holds.
    """
    if not ID.fullmatch(name):
        raise ParcelRefused(f"{name!r} is no name of a parcel: it has 64 characters of 0-9 and a-f")
    folder = parent / name
    if folder.is_dir():
        return folder
    plain = _decompressed(data)
    if hashlib.sha256(plain).hexdigest() != name:
        raise ParcelRefused(f"the parcel {name[:12]} is damaged: its hash is another one")
    partial = parent / f".{name}.{secrets.token_hex(4)}"
    try:
        _extract(plain, partial)
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _extract(plain: bytes, folder: Path) -> None:
    """Write the files below a new folder, each of a name of its own."""
    folder.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
            for number, entry in enumerate(tar):
                _check_name(entry.name)
                if not entry.isreg():
                    raise ParcelRefused(f"{entry.name!r} in the parcel is no ordinary file")
                if number >= MOST_FILES:
                    raise ParcelRefused(f"the parcel has more than {MOST_FILES:,} files")
                path = folder / entry.name
                path.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(entry)
                assert content is not None  # of an ordinary file
                mode = 0o755 if entry.mode & 0o100 else 0o644
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                with os.fdopen(os.open(path, flags, mode), "wb") as file:
                    shutil.copyfileobj(content, file)
    except tarfile.TarError as error:
        raise ParcelRefused(f"the parcel is no archive: {error}") from None
    except (FileExistsError, NotADirectoryError) as error:
        raise ParcelRefused(f"the parcel has a name twice: {error.filename}") from None


def _check_name(name: str) -> None:
    parts = PurePosixPath(name).parts
    odd = not name or name.startswith("/") or "\\" in name or not name.isprintable()
    if odd or not parts or ".." in parts or str(PurePosixPath(name)) != name:
        raise ParcelRefused(f"{name!r} in the parcel does not stay inside its folder")


def _decompressed(data: bytes) -> bytes:
    """The archive, of which no more is unpacked than a parcel may have."""
    most = MOST_BYTES + 1024 * (2 + 3 * MOST_FILES)  # with the headers
    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            plain = reader.read(most + 1)
    except zstandard.ZstdError as error:
        raise ParcelRefused(f"the parcel can't be unpacked: {error}") from None
    if len(plain) > most:
        raise ParcelRefused(f"the parcel has more than {MOST_BYTES / 2**20:.0f} MiB")
    return plain


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _too_large(sizes: Mapping[str, int]) -> str:
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:NAMED]
    named = ", ".join(f"{name} {sizes[name] / 2**20:.1f} MiB" for name in largest)
    return (
        f"the code that would travel with the job has {len(sizes):,} files and "
        f"{sum(sizes.values()) / 2**20:.1f} MiB, more than {MOST_FILES:,} files or "
        f"{MOST_BYTES / 2**20:.0f} MiB; the largest: {named}; name what is no code in .gitignore"
    )
