"""Hugging Face datasets: by name, or in a local folder; whole, or read as they come."""

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.config import SourceConfig
from data.contract import ColumnError
from data.files import DataError
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
                return datasets.load_dataset(str(folder), split=split, streaming=streaming)
            saved = datasets.load_from_disk(str(folder))
        elif path.startswith((".", "/", "~")):
            raise DataError(f"data.path={path}: there is no such folder")
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
                f"data.split={split} is not a split of {path}; there are: {', '.join(saved)}"
            )
        saved = saved[split]
    return saved.to_iterable_dataset() if streaming else saved


def _failure(path: str, error: Exception) -> DataError:
    reason = f"{type(error).__name__}: {first_line(error)}"
    if Path(path).expanduser().is_dir():
        return DataError(
            f"data.path={path} can't be read as a dataset ({reason}); a file in it may be damaged "
            "or its download interrupted: fetch it again"
        )
    return DataError(
        f"data.path={path}: dataset not loaded ({reason}). Check the name; {OFFLINE_HELP}."
    )


def hub_state(config: SourceConfig) -> list[Any]:
    """Versions of the files of a local folder, or the revision of a name."""
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
