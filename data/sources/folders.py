"""Which files of this machine a path stands for, and which it reaches that are not read."""

import errno
import fnmatch
import glob
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.files import DataError
from data.messages import cut, did_you_mean

HIDDEN, BROKEN, KIND, FOLDER, SEEN, SPECIAL = (
    "hidden: its name begins with a dot",
    "a link to nothing",
    "of another kind",
    "a folder that the pattern names, not what is in it",
    "a link to a folder that is read under another name",
    "no file but a pipe, socket or device",
)
WORDS = {
    HIDDEN: ("hidden name", "hidden names"),
    BROKEN: ("link to nothing", "links to nothing"),
    KIND: ("file of another kind", "files of other kinds"),
    FOLDER: ("folder", "folders"),
    SEEN: ("link to a folder already read", "links to folders already read"),
    SPECIAL: ("pipe or device", "pipes or devices"),
}
EXAMPLES = 3  # names or kinds in a line


@dataclass
class Found:
    """What a path yields, and what it reaches and does not yield."""

    files: list[Path] = field(default_factory=list)
    """Sorted."""
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of each, sorted; of a hidden folder only the folder."""


def find(path: Path, kinds: Sequence[str], asked: str) -> Found:
    """The files that a path of this machine stands for: itself, those in a folder, or of a pattern.

    A folder is read with all folders in it, links to folders too, as a pattern with ** is; hidden
    names are not, in neither. Characters of a pattern in a name that is there are no pattern.

    Args:
        path: file, folder or pattern.
        kinds: ends of the names that are read in a folder.
        asked: the setting, for messages.

    Raises:
        DataError: there is nothing, or it can't be looked at.
    """
    try:
        if path.is_dir():
            return _in_folder(path, kinds)
        if path.exists():
            _check_file(path, asked)
            return Found([path])
        if glob.has_magic(str(path)):
            found = _matching(path)
            if not found.files:
                raise DataError(
                    f"{asked}: no file matches this pattern in {Path.cwd()}{_instead(found)}"
                )
            return found
        raise DataError(f"{asked}: {_missing(path)}")
    except OSError as error:
        where = f" {cut(str(error.filename), 200)}" if error.filename else ""
        raise DataError(f"{asked}:{where} can't be read: {error.strerror}") from None


def summary(passed_over: Iterable[tuple[str, str]]) -> str:
    """How many of each kind were passed over, with some names or kinds; "" for none."""
    names: dict[str, list[str]] = {}
    for path, reason in passed_over:
        names.setdefault(reason, []).append(path)
    return ", ".join(_counted(reason, names[reason]) for reason in WORDS if reason in names)


def _counted(reason: str, paths: list[str]) -> str:
    if reason == KIND:
        kinds = Counter(Path(path).suffix.lower() or Path(path).name for path in paths)
        shown = [f"{cut(kind)}: {count:,}" for kind, count in kinds.most_common(EXAMPLES)]
        rest = len(kinds) - EXAMPLES
    else:
        shown = [cut(Path(path).name) for path in paths[:EXAMPLES]]
        rest = len(paths) - EXAMPLES
    one, several = WORDS[reason]
    what = f"{len(paths):,} {one if len(paths) == 1 else several}"
    return f"{what} ({', '.join(shown)}{', ...' if rest > 0 else ''})"


def _in_folder(folder: Path, kinds: Sequence[str]) -> Found:
    found = Found()
    visited: dict[tuple[int, int], str] = {}
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        here = Path(root)
        about = here.stat()
        first = visited.setdefault((about.st_dev, about.st_ino), root)
        if first != root:
            found.passed_over.append((root, SEEN))
            folders.clear()
            continue
        # Links last: a folder that is here has its own name, whatever links to it.
        folders.sort(key=lambda name: (Path(root, name).is_symlink(), name))
        hidden = [name for name in [*folders, *names] if name.startswith(".")]
        found.passed_over += [(str(here / name), HIDDEN) for name in hidden]
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                _sort_in(found, here / name, None if name.lower().endswith(tuple(kinds)) else KIND)
    return _sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _matching(pattern: Path) -> Found:
    found = Found()
    dotted = [part for part in pattern.parts if part.startswith(".")]
    for name in glob.iglob(str(_literal(pattern)), recursive=True, include_hidden=True):  # noqa: PTH207 - absolute patterns
        path = Path(name)
        if path.is_dir():
            if not name.endswith(os.sep) and "**" not in pattern.name:
                found.passed_over.append((name, FOLDER))
            continue
        _sort_in(found, path, HIDDEN if _is_hidden(path, dotted) else None)
    found.files = list(dict.fromkeys(found.files))
    return _sorted(found)


def _is_hidden(path: Path, dotted: Sequence[str]) -> bool:
    """Whether a part of the path begins with a dot where no part of the pattern does."""
    return any(
        part.startswith(".") and not any(fnmatch.fnmatchcase(part, own) for own in dotted)
        for part in path.parts
    )


def _literal(pattern: Path) -> Path:
    """The pattern; its first parts, as far as they are there by these very names, are names."""
    there = Path(pattern.anchor)
    parts = pattern.parts[1:] if pattern.anchor else pattern.parts
    for number, part in enumerate(parts):
        if not (there / part).exists():
            return Path(glob.escape(str(there)), *parts[number:])
        there /= part
    return Path(glob.escape(str(there)))


def _sort_in(found: Found, path: Path, reason: str | None) -> None:
    """Put a path among the files, or with its own reason or the one given among the others."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            raise
        found.passed_over.append((str(path), BROKEN))
        return
    if reason is None and not stat.S_ISREG(mode):
        reason = SPECIAL
    if reason is None:
        found.files.append(path)
    else:
        found.passed_over.append((str(path), reason))


def _sorted(found: Found) -> Found:
    return Found(sorted(found.files), sorted(found.passed_over))


def _check_file(path: Path, asked: str) -> None:
    if not path.is_file():
        raise DataError(f"{asked} is {SPECIAL}; give a file, a folder or a pattern")


def _instead(found: Found) -> str:
    said = summary(found.passed_over)
    return f"; it reaches only {said}" if said else ""


def _missing(path: Path) -> str:
    """Why there is nothing at a path, and what may be meant."""
    whole = path.absolute()
    missing = next(p for p in [*reversed(whole.parents), whole] if not p.exists())
    if missing.is_symlink():
        target = cut(str(missing.readlink()), 200)
        return f"{missing} is a link to {target}, where nothing is; bring that, or set another path"
    parent = missing.parent
    if not parent.is_dir():
        return f"{parent} is a file, not a folder; set data.path={parent}"
    names = [path.name for path in parent.iterdir()]
    for form in ("NFC", "NFD"):
        if (same := unicodedata.normalize(form, missing.name)) != missing.name and same in names:
            return (
                "there is no such file or folder, but one whose name looks the same, with its "
                f"accents written in another way ({form}); let the shell complete the name"
            )
    hint = did_you_mean(missing.name, names) or f" ({parent} exists)"
    return f"there is no such file or folder{hint}"
