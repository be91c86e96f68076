"""gzip and Zstandard files as streams of bytes; a cut file is an error, not a shorter one."""

import io
import shlex
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from data.files import DamagedData, DataError
from data.sources.recognise import HEAD, is_compressed, packing, placeholder

# Compressed bytes that are unpacked at once. Text grows 3 to 20 times, but nothing bounds how much
# a hostile Zstandard file grows, so the piece is small.
CHUNK = 2**12
# Text grows 3 to 20 times, a bomb a thousand times and more. A file that unpacks to less than LARGE
# may be anything.
LARGE, MOST_GROWTH = 2**28, 200
SHORT = 4  # bytes from which on it shows whether a file is packed


def open_bytes(path: Path, name: str) -> BinaryIO:
    """The bytes of a file, unpacked where its name ends in .gz or .zst.

    Args:
        path: the file on this machine.
        name: what messages call it: a path or a URL.

    Raises:
        DataError: the file can't be opened, or is not packed as its name says; while reading: it is
            damaged, not whole, or unpacks to far more than its size (LARGE, MOST_GROWTH).
    """
    try:
        file = path.open("rb")
        if not is_compressed(path.name):
            return file
        head = file.read(HEAD)
        file.seek(0)
    except OSError as error:
        raise DataError(f"{name} can't be read: {error.strerror}") from None
    suffix = path.suffix.lower()
    found = packing(head)
    if len(head) >= SHORT and (found is None or found[1] != suffix):
        file.close()
        what = "is not compressed" if found is None else f"is {found[0]}"
        bare = path.with_suffix("" if found is None else found[1])
        rename = f"mv {shlex.quote(str(path))} {shlex.quote(str(bare))}"
        said = (
            placeholder(head, path)
            or f"{what}, though its name ends in {suffix}; rename it: {rename}"
        )
        raise DataError(f"{name} {said}")
    return io.BufferedReader(_Unpacked(file, suffix, name), buffer_size=2**18)


def head_of(path: Path, name: str) -> bytes:
    """The first HEAD bytes of a file, unpacked; b"" where they can't be read."""
    try:
        with open_bytes(path, name) as opened:
            return opened.read(HEAD)
    except (DataError, OSError):
        return b""


def growth(path: Path, name: str, most: int) -> float:
    """How many bytes come out of each that goes in, by about the first `most` that come out.

    Raises:
        DataError: the file can't be opened or is damaged.
    """
    unpacked = 0
    with path.open("rb") as file:
        stream = _Unpacked(file, path.suffix.lower(), name)
        buffer = bytearray(CHUNK)
        while unpacked < most and (count := stream.readinto(buffer)):
            unpacked += count
        return unpacked / max(1, file.tell())


def damaged(name: str, size: int, reason: str) -> DamagedData:
    """The error of a file of so many bytes that ends too early or breaks in the middle."""
    return DamagedData(
        f"{name} can't be read to its end ({size} bytes): it is damaged, or its download was "
        f"interrupted or is not finished; fetch or make it again ({reason})"
    )


class _Unpacked(io.RawIOBase):
    """Raw stream of the unpacked bytes. Both formats may hold several members one after another.

    The readers of gzip and zstandard are not used because the latter takes a file that was cut
    for a shorter one.
    """

    def __init__(self, file: BinaryIO, suffix: str, name: str) -> None:
        self._file, self._suffix, self._name = file, suffix, name
        self._member = self._new_member()
        self._begun = False  # whether the member has bytes; a file may end only between members
        self._members = 0
        self._ready = memoryview(b"")
        self._read = self._made = 0  # bytes, packed and unpacked

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            chunk = self._file.read(CHUNK)
            if not chunk:
                if self._begun or not self._members:
                    raise self._damaged("the end of the compressed stream is missing")
                return 0
            self._ready = memoryview(self._unpack(chunk))
            self._count(len(chunk), len(self._ready))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _count(self, read: int, made: int) -> None:
        self._read += read
        self._made += made
        if self._made > max(LARGE, MOST_GROWTH * self._read):
            raise DataError(
                f"{self._name} unpacks to more than {MOST_GROWTH} times its size: {self._made:,} "
                f"bytes come of its first {self._read:,}; is it made to fill a disk? If it is "
                "right, unpack it and read what comes out"
            )

    def _unpack(self, chunk: bytes) -> bytes:
        parts = []
        while chunk:
            if self._members and not self._begun and self._suffix == ".gz":
                chunk = chunk.lstrip(b"\0")  # padding after a member is allowed, as gzip does
                if not chunk:
                    break
            try:
                parts.append(self._member.decompress(chunk))
            except Exception as error:  # zlib.error or ZstdError
                raise self._damaged(str(error)) from None
            self._begun = not self._member.eof
            chunk = b""
            if self._member.eof:
                chunk = self._member.unused_data
                self._member = self._new_member()
                self._members += 1
        return b"".join(parts)

    def _new_member(self) -> Any:
        if self._suffix == ".gz":
            return zlib.decompressobj(wbits=31)  # 31: with gzip's header and checksum
        import zstandard

        # Dumps made with `zstd --long=31` need a window of 2 GiB; others use what they need.
        return zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()

    def _damaged(self, reason: str) -> DamagedData:
        return damaged(self._name, Path(self._file.name).stat().st_size, reason)
