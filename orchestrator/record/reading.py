"""Reading a run folder, which may come from somebody else: all in it is data, never an instruction.

Nothing is unpickled, looked up in this process's environment, or followed out of the folder, and
what can't be read is an error of one sentence.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from data.files import DataError, read_utf8

CONFIG = "config.yaml"
MOST_CHARACTERS = 10**6  # of a config; those that are written have some thousands


class _Loader(yaml.SafeLoader):
    """Plain YAML without references, by which a small file can stand for a huge value."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has references (*name)")
        return super().compose_node(parent, index)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a YAML file of a run folder. Raises DataError, as `read_yaml`."""
    settings = read_yaml(path)
    if not isinstance(settings, dict):
        raise DataError(f"{path} is not of a run: it holds no settings")
    return settings


def read_yaml(path: Path) -> Any:
    """The value in a YAML file of a run folder.

    Raises:
        DataError: it can't be read; names the file.
    """
    return parse_yaml(read_utf8(path), path)


def parse_yaml(text: str, path: Path) -> Any:
    """The value of a YAML text; `path` names it in messages. Raises DataError, as `read_yaml`."""
    try:
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"it has more than {MOST_CHARACTERS:,} characters")
        return yaml.load(text, _Loader)
    except RecursionError:
        raise DataError(f"{path} is not of a run: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{path} is not of a run: {said}") from None


def newest_first(files: Iterable[Path]) -> list[Path]:
    """Files of run folders, DAY/TIME-NAME-ID, by when those were begun."""

    def begun(file: Path) -> tuple[str, str, int]:
        """Day, time to the second, and which of that second was first."""
        folder = file.parent
        return folder.parent.name, folder.name[: len("00-00-00")], file.stat().st_mtime_ns

    return sorted(files, key=begun, reverse=True)


def lies_in(folder: Path, path: Path) -> bool:
    """Whether a file is in the folder, links followed: nobody else's file goes out by its name."""
    return path.resolve().is_relative_to(folder.resolve())
