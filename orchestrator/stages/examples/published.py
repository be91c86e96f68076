"""Arrays of a job's examples: published once under the cache, named by what is in them."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from data.files import NotOnThisHost, publish

FOLDER = "examples"  # under the root of the cache
ABOUT = "about.json"
Arrays = Mapping[str, NDArray[Any]]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Published:
    """Names the published examples of a job; it pickles, and says nothing of where a cache is."""

    fingerprint: str
    """sha256 of all that is in the folder of this name."""
    train: int
    """Examples to train on."""
    validation: int

    def folder(self, cache: Path) -> Path:
        """Where they are under the root of a cache."""
        return folder_of(self.fingerprint, cache)


def folder_of(fingerprint: str, cache: Path) -> Path:
    """Where the arrays of this fingerprint are under the root of a cache."""
    return cache / FOLDER / fingerprint


def publish_arrays(
    arrays: Arrays, about: object, cache: Path | None, files: Mapping[str, str] | None = None
) -> str:
    """Publish arrays and what is to be said of them, unless that has been done.

    Args:
        arrays: by name.
        about: plain data that goes into the fingerprint, too.
        cache: root of the cache to publish in. None: only say what would be published.
        files: texts that stand beside them, by the name of the file.

    Returns:
        sha256 of all that is in the folder of this name.
    """
    digest = sha256(json.dumps(about).encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.shape}".encode())
        digest.update(array.tobytes())
    texts = {name: text.encode() for name, text in (files or {}).items()}
    for name, content in texts.items():
        digest.update(f"{name} {len(content)}".encode() + content)
    fingerprint = digest.hexdigest()
    if cache is not None:
        texts[ABOUT] = json.dumps(about).encode()
        _write(folder_of(fingerprint, cache), arrays, texts)
    return fingerprint


def keep_arrays(name: str, arrays: Arrays, cache: Path) -> None:
    """Publish what has been worked out from published arrays, unless that has been done.

    Args:
        name: sha256 of all that it follows from, by which `open_arrays` finds it.
        arrays: by name.
        cache: root of the cache.
    """
    _write(folder_of(name, cache), arrays, {})


def _write(folder: Path, arrays: Arrays, files: Mapping[str, bytes]) -> None:
    if folder.is_dir():
        return
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(partial / f"{name}.npy", array)
    for name, content in files.items():
        (partial / name).write_bytes(content)
    try:
        publish(partial, folder)
    except OSError:
        if not folder.is_dir():  # unless another job has published the same meanwhile
            raise
        shutil.rmtree(partial)


def open_splits(
    make: Callable[..., Made],
    arrays: Sequence[str],
    published: Published,
    cache: Path,
    splits: Sequence[str] = ("train", "validation"),
    **more: int,
) -> list[Made]:
    """The splits of a job, mapped into memory; every rank calls it.

    Args:
        make: a split of its arrays, in their order, and of `more`.
        arrays: their names behind that of the split: `train-tokens`, `validation-tokens` ...
        published: of the job.
        cache: root of the cache.
        splits: their names.
        more: what a split knows besides.

    Raises:
        NotOnThisHost: the folder is not there.
    """
    names = [[f"{split}-{name}" for name in arrays] for split in splits]
    return [make(*open_arrays(published.fingerprint, cache, *own), **more) for own in names]


def open_arrays(fingerprint: str, cache: Path, *names: str) -> list[NDArray[Any]]:
    """Published arrays, mapped into memory; every rank calls it.

    Raises:
        NotOnThisHost: the folder is not there.
    """
    folder = folder_of(fingerprint, cache)
    if not folder.is_dir():
        raise NotOnThisHost(
            f"{folder} is not there on {os.uname().nodename}; workers only open what the driver "
            "has prepared: copy that folder here, or set ORCHESTRATE_CACHE=DIR to a folder that "
            "all hosts see"
        )
    return [np.load(folder / f"{name}.npy", mmap_mode="r") for name in names]
