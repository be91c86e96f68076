"""`sweep=NAME`: the words of a file of conf/sweep, which together make a job for each value.

The file is a list. A text in it is an override, of one value or several; a list in it is one of
alternatives, each a text of one or more overrides:

    - stage=classify
    - optim.learning_rate=1e-3,1e-2
    - [optim=adam, optim=adam optim.l1=1e-3, optim=sgd optim.momentum=0]
"""

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from data.messages import did_you_mean
from orchestrator.compose.schema import PRESETS, conf_folder

ALTERNATIVES = list[list[str]]


def expanded(words: Sequence[str], own: str | None) -> list[list[str]] | None:
    """The words with those of a sweep in its place, once for each of its alternatives.

    What is typed beside it has the last word: a setting of the sweep that is typed, too, is left
    out of it. None: there is no sweep among them.

    Args:
        words: overrides as typed.
        own: a folder of the user's with more choices, whose sweeps come first.

    Raises:
        ValueError: there is no such sweep, there are several, or its file is no list of overrides.
    """
    found = entries(words, own)
    if found is None:
        return None
    return [[word for part in parts for word in part] for parts in itertools.product(*found)]


def entries(words: Sequence[str], own: str | None) -> list[ALTERNATIVES] | None:
    """As `expanded`, not multiplied out: of each entry its alternatives, what is typed behind."""
    named = [word for word in words if word.partition("=")[0] == PRESETS]
    if not named:
        return None
    if len(named) > 1:
        raise ValueError(f"{' '.join(named)} are several sweeps; run one after the other")
    typed = [word for word in words if word not in named]
    names = {_name(word) for word in typed}
    of_file = [
        [[word for word in part if _name(word) not in names] for part in alternatives]
        for alternatives in _read(named[0].partition("=")[2], own)
    ]
    return [*of_file, *([[word]] for word in typed)]


def _read(name: str, own: str | None) -> list[ALTERNATIVES]:
    """Of each entry of the file, its alternatives: one, or those of a list."""
    folders = [Path(folder) / PRESETS for folder in (own, conf_folder()) if folder is not None]
    known = {file.stem: file for folder in folders[::-1] for file in folder.glob("*.yaml")}
    if name not in known:
        raise ValueError(
            f"{PRESETS}={name}: there is no such choice{did_you_mean(name, known)}; choices: "
            f"{', '.join(sorted(known))}"
        )
    entries = yaml.safe_load(known[name].read_text(encoding="utf-8"))
    try:
        return [_alternatives(entry) for entry in entries]
    except TypeError:
        raise ValueError(
            f"{known[name]} must be a list of overrides, such as - optim=sgd,adam; write it so"
        ) from None


def _alternatives(entry: object) -> ALTERNATIVES:
    """Of an entry of the file. Raises TypeError for what is neither a text nor a list of them."""
    if isinstance(entry, str) and "=" in entry:
        return [[entry]]
    if isinstance(entry, list) and all(isinstance(text, str) for text in entry):
        return [shlex.split(text) for text in entry]
    raise TypeError


def _name(word: str) -> str:
    return word.partition("=")[0].lstrip("+")
