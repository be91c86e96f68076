"""`sweep=NAME`: the words of a file of conf/sweep, which together make a job for each value."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from data.messages import did_you_mean
from orchestrator.compose.schema import PRESETS, conf_folder


def expanded(words: Sequence[str], own: str | None) -> tuple[list[str], bool]:
    """The words with those of a sweep in its place, and whether there was one.

    What is typed beside it has the last word: a setting of the sweep that is typed, too, is left
    out of it.

    Args:
        words: overrides as typed.
        own: a folder of the user's with more choices, whose sweeps come first.

    Raises:
        ValueError: there is no such sweep, there are several, or its file is no list of overrides.
    """
    named = [word for word in words if word.partition("=")[0] == PRESETS]
    if not named:
        return list(words), False
    if len(named) > 1:
        raise ValueError(f"{' '.join(named)} are several sweeps; run one after the other")
    typed = [word for word in words if word not in named]
    names = {_name(word) for word in typed}
    listed = _words(named[0].partition("=")[2], own)
    return [*(word for word in listed if _name(word) not in names), *typed], True


def _words(name: str, own: str | None) -> list[str]:
    folders = [Path(folder) / PRESETS for folder in (own, conf_folder()) if folder is not None]
    known = {file.stem: file for folder in folders[::-1] for file in folder.glob("*.yaml")}
    if name not in known:
        raise ValueError(
            f"{PRESETS}={name}: there is no such choice{did_you_mean(name, known)}; choices: "
            f"{', '.join(sorted(known))}"
        )
    words = yaml.safe_load(known[name].read_text(encoding="utf-8"))
    if not isinstance(words, list) or not all(isinstance(w, str) and "=" in w for w in words):
        raise ValueError(
            f"{known[name]} must be a list of overrides, such as - optim=sgd,adam; write it so"
        )
    return words


def _name(word: str) -> str:
    return word.partition("=")[0].lstrip("+")
