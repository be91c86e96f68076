"""Paths of SQLite databases as the URLs that MLflow takes, and back."""

import re
from pathlib import Path
from urllib.parse import quote, unquote

_URL = re.compile(r"sqlite(?:\+pysqlite)?:///([^?]*)(\?.*)?", re.DOTALL)
_QUOTED = str.maketrans({special: quote(special) for special in "%?#"})


def sqlite_url(path: Path, query: str = "") -> str:
    """The URL of a database at an absolute path, whatever characters its folders have.

    With the driver in its scheme where anything is quoted: of a bare sqlite:/// MLflow would make
    the folders by their quoted names, beside the real ones.
    """
    text = str(path)
    quoted = text.translate(_QUOTED)
    return f"sqlite{'' if quoted == text else '+pysqlite'}:///{quoted}{query}"


def sqlite_path(url: str) -> Path | None:
    """The path in the URL of a SQLite database; None: it is of another kind."""
    found = _URL.fullmatch(url)
    return Path(unquote(found[1])) if found else None


def absolute(url: str) -> str:
    """The URL of a store with the path of a SQLite database made absolute."""
    found, path = _URL.fullmatch(url), sqlite_path(url)
    return url if found is None or path is None else sqlite_url(path.resolve(), found[2] or "")


def moved(url: str, old: str, new: str) -> str:
    """The URL with the beginning of its path exchanged; one that begins otherwise as it is."""
    found, path = _URL.fullmatch(url), sqlite_path(url)
    if found is None or path is None or not str(path).startswith(old):
        return url
    return sqlite_url(Path(new + str(path).removeprefix(old)), found[2] or "")
