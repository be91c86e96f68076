"""What a file plainly is, by its first bytes, where it is not what its source reads.

Looked at before a text file is taken for text, and wherever a file could not be read: the remedy
for a Git LFS pointer is another one than for a download that was cut.
"""

import json
import re
import shlex
from pathlib import Path

COMPRESSED = (".gz", ".zst")
HEAD = 2**16  # bytes that are looked at
MAGIC = (
    (re.compile(rb"\x1f\x8b"), "gzip", ".gz"),
    (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), "Zstandard", ".zst"),
)
OTHERS = (
    (b"BZh", "packed with bzip2", "unpack it: bunzip2"),
    (b"\xfd7zXZ\0", "packed with xz", "unpack it: unxz"),
    (b"PK\x03\x04", "a zip archive", "unpack it: unzip"),
)
PAGE = re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE)
LFS, ANNEX = b"version https://git-lfs.github.com/spec/", b"/annex/objects/"
JSON_LINES = (".jsonl", ".ndjson")
# Records of an array, one a line; what everybody has who has this program.
FROM_ARRAY = "import json,sys; [print(json.dumps(r)) for r in json.load(sys.stdin)]"


def is_compressed(name: str) -> bool:
    """Whether the name says so; what the bytes say must agree, else reading fails."""
    return name.lower().endswith(COMPRESSED)


def packing(head: bytes) -> tuple[str, str] | None:
    """Name and suffix of the compression that a file is in; None: of neither that is read here."""
    return next(((name, end) for magic, name, end in MAGIC if magic.match(head)), None)


def placeholder(head: bytes, path: Path) -> str | None:
    """What a file is that only stands for another one; the message begins with "is ..."."""
    where = shlex.quote(str(path.parent))
    if head.startswith(LFS):
        return f"is a Git LFS pointer, not the data; fetch that: git -C {where} lfs pull"
    if head.startswith(ANNEX):
        file = shlex.quote(path.name)
        return (
            f"is a pointer of git-annex, not the data; fetch that: git -C {where} annex get {file}"
        )
    return None


def misfit(head: bytes, path: Path, source: str) -> str | None:
    """What a file is instead of what its source reads, with the remedy; None: nothing plain.

    Args:
        head: its first bytes, unpacked where its name says that it is packed.
        path: of the file, for commands.
        source: data.source.

    Returns:
        The end of a message about the file: "is ...".
    """
    if said := placeholder(head, path):
        return said
    file = shlex.quote(str(path))
    for magic, what, remedy in OTHERS:
        if head.startswith(magic):
            return f"is {what}, which is not read here; {remedy} {file}"
    if packed := packing(head):
        return f"is {packed[0]}, but its name does not say so; add {packed[1]} to it"
    if source != "parquet" and head.startswith((b"PAR1", b"ARROW1")):
        return "is a table in Parquet or Arrow; set data.source=parquet"
    if source != "text" and PAGE.match(head):
        return "is an HTML page, perhaps an error of the server it came from; look into it"
    if source in ("text", "csv", "parquet") and is_json_lines(head, path):
        return "holds JSON lines; set data.source=jsonl"
    if source == "jsonl":
        return _no_lines(head, path)
    if source == "csv" and _has_cr_ends(head):
        return _cr_ends(path)
    return None


def is_json_lines(head: bytes, path: Path) -> bool:
    """Whether two lines in a row are JSON objects of the same keys; one, if the name says so."""
    lines = [line for line in head.removeprefix(b"\xef\xbb\xbf").splitlines()[:50] if line.strip()]
    named = any(suffix.lower() in JSON_LINES for suffix in path.suffixes[-2:])
    keys = []
    for line in lines[: 1 if named else 2]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return False
        if not isinstance(record, dict) or not record:
            return False
        keys.append(record.keys())
    return len(keys) == (1 if named else 2) and keys[0] == keys[-1]


def mend(command: str, path: Path, ending: str | None = None) -> str:
    """What to type so that a command makes a good file, with that ending, beside a bad one."""
    packed = is_compressed(path.name)
    plain = path.with_suffix("") if packed else path
    ending = ending if ending and ending != plain.suffix else f".lines{plain.suffix}"
    file, out = shlex.quote(str(path)), shlex.quote(str(plain.with_name(plain.stem + ending)))
    if packed:
        tool = "gzip" if path.suffix.lower() == ".gz" else "zstd"
        return f"{tool} -dc {file} | {command} > {out}"
    return f"{command} < {file} > {out}"


def _no_lines(head: bytes, path: Path) -> str | None:
    """Why a file is no JSON lines, if that shows."""
    if _has_cr_ends(head):
        return _cr_ends(path)
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    if text.startswith("["):
        command = mend(f"python -c {shlex.quote(FROM_ARRAY)}", path, ".jsonl")
        return f"is one JSON array, not an object in each line; convert it: {command}"
    if text.startswith("{") and _over_lines(text):
        command = mend("jq -c .", path, ".jsonl")
        return f"holds JSON objects over several lines, not one in each; convert it: {command}"
    return None


def _over_lines(text: str) -> bool:
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return re.match(r'\{\s*\n\s*"', text) is not None
    return "\n" in text[:end]


def _has_cr_ends(head: bytes) -> bool:
    return b"\r" in head.rstrip(b"\r") and b"\n" not in head


def _cr_ends(path: Path) -> str:
    command = mend(r"tr '\r' '\n'", path)
    return f"ends its lines with CR alone, as old Macs did; convert it: {command}"
