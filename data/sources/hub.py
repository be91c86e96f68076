"""Hugging Face datasets: by name, or in a local folder; whole, or read as they come."""

import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.config import FORMATS, SourceConfig
from data.contract import ColumnError
from data.files import DataError
from data.messages import cut, listed
from data.sources import inputs
from data.sources.inputs import InputUnit, local_state
from data.sources.lines import Placed
from data.sources.tables import ROWS, Chosen
from data.sources.urls import first_line

OFFLINE_HELP = (
    "names of the hub need a network the first time; a dataset that is already in the local cache "
    "or a local folder (data.path=FOLDER) works without one"
)


def hub_units(config: SourceConfig) -> list[InputUnit]:
    """Ranges of rows; of a stream its shards, which are the files it consists of."""
    dataset = _dataset(config)
    path = str(config.path)
    if config.streaming:
        return [InputUnit((path,), n, n + 1) for n in range(dataset.num_shards)]
    rows = len(dataset)
    step = max(1, inputs.UNIT_BYTES * rows // max(1, dataset.data.nbytes))
    return [InputUnit((path,), n, min(n + step, rows)) for n in range(0, rows, step)]


def read_hub(config: SourceConfig, unit: InputUnit, chosen: Chosen) -> Iterator[Placed]:
    """The rows of a Hugging Face dataset by name (name or name:subset), or of a local folder."""
    path = str(config.path)
    dataset = _dataset(config)
    where, first = f"{path}: row", unit.start + 1
    if config.streaming:
        if dataset.num_shards > 1:
            where = f"{path}: shard {unit.start + 1}: row"
        dataset, first = dataset.shard(dataset.num_shards, unit.start), 1
    else:
        dataset = dataset.select(
            range(unit.start, len(dataset) if unit.stop is None else unit.stop)
        )
    try:
        names = dataset.column_names or list(next(iter(dataset), {}))
        try:
            wanted = chosen(names)
        except ColumnError as error:
            raise ColumnError(f"{path}: {error}") from None
        for batch in dataset.select_columns(wanted).iter(ROWS):
            for values in zip(*(batch[name] for name in wanted), strict=True):
                yield f"{where} {first}", dict(zip(wanted, values, strict=True))
                first += 1
    except DataError:
        raise
    except Exception as error:  # of the network, of pyarrow, of the dataset's format
        raise _failure(path, error) from error


def _dataset(config: SourceConfig) -> Any:
    """One split, loaded once in each process while its files stay the same.

    Raises:
        DataError: unknown name, no network, no such split, or a damaged file.
    """
    state = json.dumps(hub_state(config))
    return _loaded(str(config.path), config.split, config.streaming, state)


@lru_cache(maxsize=4)
def _loaded(path: str, split: str, streaming: bool, state: str) -> Any:
    _short_timeouts()
    import datasets

    folder = Path(path).expanduser()
    try:
        if folder.is_dir():
            if not any((folder / n).exists() for n in ("state.json", "dataset_dict.json")):
                _check_no_pattern(folder, path)
                return datasets.load_dataset(str(folder), split=split, streaming=streaming)
            saved = datasets.load_from_disk(str(folder))
        else:
            name, _, subset = path.partition(":")
            return datasets.load_dataset(name, subset or None, split=split, streaming=streaming)
    except DataError:
        raise
    except Exception as error:  # the library's many kinds become one
        raise _failure(path, error) from error
    if isinstance(saved, dict):
        if split not in saved:
            raise DataError(
                f"data.split={split} is not a split of {path}; there are: {listed(saved)}"
            )
        saved = saved[split]
    return saved.to_iterable_dataset() if streaming else saved


def _check_no_pattern(folder: Path, path: str) -> None:
    """Refuse a name that `datasets`, which can't be told otherwise, takes for a pattern."""
    if found := re.search(r"[\[\]*?]", str(folder.absolute())):
        raise DataError(
            f"data.path={path}: {found[0]} in the name of a folder is a pattern to Hugging Face "
            "datasets; rename the folder, or read its files with data.source=jsonl, csv or parquet"
        )


def _check_name(path: str) -> None:
    """Refuse what can't be a name on the hub, before the network is asked for it."""
    local = Path(path).expanduser()
    try:
        is_folder = local.is_dir()
    except OSError as error:  # a name too long, a folder that may not be looked into
        raise DataError(f"data.path={cut(path, 200)} can't be read: {error.strerror}") from None
    if local.is_file():
        name = local.name.lower().removesuffix(".gz").removesuffix(".zst")
        own = next((s for s, ends in FORMATS.items() if ends and name.endswith(ends)), "text")
        raise DataError(
            f"data.path={path} is a file, and data.source=hf reads datasets of the hub or of a "
            f"folder; set data.source={own}"
        )
    name = path.partition(":")[0]
    if not is_folder and not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name, re.ASCII):
        raise DataError(
            f"data.path={cut(path, 200)}: there is no such folder here, and a dataset of the hub "
            "is called OWNER/NAME, or OWNER/NAME:SUBSET"
        )


def _failure(path: str, error: Exception) -> DataError:
    reason = f"{type(error).__name__}: {first_line(error)}"
    if Path(path).expanduser().is_dir():
        return DataError(
            f"data.path={path} can't be read as a dataset ({reason}); is each file in it whole, "
            "and of a kind that Hugging Face datasets reads?"
        )
    return DataError(
        f"data.path={path}: dataset not loaded ({reason}). Check the name; {OFFLINE_HELP}."
    )


def hub_state(config: SourceConfig) -> list[Any]:
    """Versions of the files of a local folder, or the revision of a name."""
    _check_name(str(config.path))
    path = Path(str(config.path)).expanduser()
    if path.is_dir():
        return [local_state(p).version for p in sorted(path.rglob("*")) if p.is_file()]
    return [config.path, _revision(str(config.path).partition(":")[0])]


@lru_cache
def _revision(name: str) -> str | None:
    """The commit of a hub dataset: the newest one, or without a network the one in the cache."""
    _short_timeouts()
    from huggingface_hub import HfApi, constants

    try:
        return HfApi().dataset_info(name, timeout=5).sha
    except Exception:  # offline, or no such dataset: loading it tells which
        folder = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
        ref = folder / "refs" / "main"
        return ref.read_text(encoding="utf-8").strip() if ref.is_file() else None


def _short_timeouts() -> None:
    """Read once, when huggingface_hub is imported; without them a dead network takes minutes."""
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "10")
