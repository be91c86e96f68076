"""The libraries that loader.py compares with ours, and the list of all contenders."""

import importlib.util
import itertools
import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.contenders import (
    ALONE,
    CHUNK,
    FILE_BYTES,
    SEED,
    Contender,
    Feed,
    How,
    Memmap,
    NoMechanism,
    Ours,
    OursBuffered,
    T,
    Tokens,
    windows,
)  # fmt: skip


class Mosaic(Contender):
    """mosaicml-streaming."""

    name = stored = "mosaicml"
    package = "streaming"
    setting = "MDS, StreamingDataset(shuffle, py1e), StreamingDataLoader, 0 workers"
    ahead = "1 worker process"

    def prepare(self) -> None:
        # `import streaming` imports torchvision for its image readers, which are not used here. On
        # a CPU build of torch the torchvision of PyPI, built for CUDA, can't be imported.
        try:
            import torchvision  # noqa: F401
        except (ImportError, RuntimeError):
            sys.modules["streaming.vision"] = types.ModuleType("streaming.vision")
        import streaming  # noqa: F401

    def tidy(self) -> None:
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()

    def write(self, folder: Path, count: int, file_bytes: int = FILE_BYTES) -> None:
        from streaming import MDSWriter

        columns = {"tokens": f"ndarray:uint16:{T + 1}"}
        with MDSWriter(out=str(folder), columns=columns, size_limit=file_bytes) as out:
            for chunk in windows(count, T + 1):
                for row in chunk:
                    out.write({"tokens": row})

    def open(self, folder: Path, batch: int, how: How = ALONE) -> Feed:
        from streaming import StreamingDataLoader, StreamingDataset

        dataset = StreamingDataset(
            local=str(folder), shuffle=True, shuffle_seed=SEED, batch_size=batch
        )
        loader = StreamingDataLoader(
            dataset, batch_size=batch, num_workers=how.workers, collate_fn=stack_column
        )
        if how.state is not None:
            loader.load_state_dict(how.state)
        return Feed(epochs(loader, how.endless), loader.state_dict)

    def state_at(self, folder: Path, batch: int, count: int, batches: int) -> Any:
        from streaming import StreamingDataset

        dataset = StreamingDataset(
            local=str(folder), shuffle=True, shuffle_seed=SEED, batch_size=batch
        )
        next(iter(dataset))
        return dataset.state_dict(batch * batches, from_beginning=True)


class LitData(Contender):
    """litdata with its loader for tokens."""

    name = stored = "litdata"
    package = "litdata"
    setting = "StreamingDataset(item_loader=TokensLoader, shuffle), StreamingDataLoader, 0 workers"
    ahead = "1 worker process"

    def prepare(self) -> None:
        import litdata  # noqa: F401

    def write(self, folder: Path, count: int, file_bytes: int = FILE_BYTES) -> None:
        from litdata.streaming.cache import Cache
        from litdata.streaming.item_loader import TokensLoader

        cache = Cache(str(folder), chunk_bytes=file_bytes, item_loader=TokensLoader(T + 1))
        item = 0
        for chunk in windows(count, T + 1):
            for rows in np.array_split(chunk, -(-len(chunk) // 16)):
                cache[item] = rows.ravel()
                item += 1
        cache.done()
        cache.merge()

    def open(self, folder: Path, batch: int, how: How = ALONE) -> Feed:
        from litdata import StreamingDataLoader, StreamingDataset
        from litdata.streaming.item_loader import TokensLoader

        dataset = StreamingDataset(
            str(folder), item_loader=TokensLoader(T + 1), shuffle=True, seed=SEED, drop_last=False
        )
        loader = StreamingDataLoader(
            dataset, batch_size=batch, num_workers=how.workers, collate_fn=stack
        )
        if how.state is not None:
            loader.load_state_dict(how.state)
        return Feed(epochs(loader, how.endless), loader.state_dict)

    def state_at(self, folder: Path, batch: int, count: int, batches: int) -> Any:
        feed = self.open(folder, batch)
        next(feed.batches)
        state = feed.state()  # of a real run; only its cursor is moved
        state["num_samples_yielded"] = batch * batches
        state["dataset"]["num_samples_yielded"] = batch * batches
        state["dataset"]["sample_in_epoch"] = batch * batches
        return state


class Columns(Contender):
    """Arrow files of `datasets`, rows of a fixed-size list, 1000 rows to a record batch."""

    stored = "arrow"
    package = "datasets"

    def write(self, folder: Path, count: int, file_bytes: int = FILE_BYTES) -> None:
        from datasets import Features, Sequence, Value
        from datasets.arrow_writer import ArrowWriter

        features = Features({"tokens": Sequence(Value("uint16"), length=T + 1)})
        chunks = windows(count, T + 1)
        per_file = max(1, file_bytes // (CHUNK * 2 * T))
        for number in itertools.count():
            group = list(itertools.islice(chunks, per_file))
            if not group:
                return
            path = str(folder / f"part-{number:05d}.arrow")
            with ArrowWriter(features=features, path=path) as out:
                for rows in group:
                    out.write_table(_table(rows, features))
                out.finalize()

    def prepare(self) -> None:
        import datasets
        import torch.utils.data  # noqa: F401

        datasets.disable_progress_bars()

    def dataset(self, folder: Path) -> Any:
        from datasets import Dataset, concatenate_datasets

        parts = [Dataset.from_file(str(path)) for path in sorted(folder.glob("part-*.arrow"))]
        return concatenate_datasets(parts)


class MapStyle(Columns):
    """`datasets`, rows by shuffled indices that the user keeps."""

    name = "datasets map"
    setting = "numpy format, DataLoader over lists of shuffled indices, 0 workers"
    ahead = "1 worker process"

    def open(self, folder: Path, batch: int, how: How = ALONE) -> Feed:
        from torch.utils.data import DataLoader

        dataset = self.dataset(folder).with_format("numpy")
        first = (how.state or {"sample": 0})["sample"]
        size, reached = batch * how.world, [first]

        def batches() -> Iterator[Tokens]:
            begin = first
            for epoch in itertools.count() if how.endless else [0]:
                order = np.random.default_rng([SEED, epoch]).permutation(len(dataset))
                last = len(dataset) - size + 1
                steps = (
                    order[i + how.rank * batch :][:batch].tolist() for i in range(begin, last, size)
                )
                loader: Iterable[Tokens] = DataLoader(
                    dataset, sampler=steps, batch_size=None, num_workers=how.workers,
                    collate_fn=column,
                )  # fmt: skip
                for rows in loader:
                    reached[0] += size
                    yield rows
                begin = 0

        return Feed(batches(), lambda: {"sample": reached[0]})

    def state_at(self, folder: Path, batch: int, count: int, batches: int) -> Any:
        return {"sample": batch * batches}


class IterableStyle(Columns):
    """`datasets`, files in a shuffled order through a shuffle buffer."""

    name = "datasets iterable"
    package = "torchdata"
    setting = "to_iterable_dataset(64 shards).shuffle(buffer 1000), numpy format, 0 workers"
    ahead = "1 worker process"

    def prepare(self) -> None:
        super().prepare()
        import torchdata.stateful_dataloader  # noqa: F401

    def open(self, folder: Path, batch: int, how: How = ALONE) -> Feed:
        from torchdata.stateful_dataloader import StatefulDataLoader

        if how.world > 1:
            raise NoMechanism(
                "refuses: a state belongs to one rank of split_dataset_by_node, and no way is "
                "documented to give it to another number of ranks"
            )
        dataset = self.dataset(folder).to_iterable_dataset(num_shards=64)
        dataset = dataset.shuffle(seed=SEED, buffer_size=1000).with_format("numpy")
        loader = StatefulDataLoader(
            dataset, batch_size=batch, num_workers=how.workers, collate_fn=stack_column
        )
        if how.state is not None:
            loader.load_state_dict(how.state)
        return Feed(epochs(loader, how.endless), loader.state_dict)


def epochs(loader: Iterable[Tokens], endless: bool) -> Iterator[Tokens]:
    """The batches of one epoch, or of one after the other."""
    if not endless:
        return iter(loader)
    return itertools.chain.from_iterable(loader for _ in itertools.count())


def stack(rows: list[Any]) -> Any:
    """Rows (T+1,) of tokens as a batch; a tensor, which a worker can give away without a copy."""
    import torch

    return torch.from_numpy(np.stack(rows).astype(np.int64))


def stack_column(rows: list[dict[str, Any]]) -> Any:
    """The same of rows with a name."""
    return stack([row["tokens"] for row in rows])


def column(rows: Any) -> Any:
    """The same of a batch, {"tokens": (B, T+1)}, that is an array already."""
    import torch

    return torch.from_numpy(rows["tokens"].astype(np.int64))


def _table(rows: NDArray[np.uint16], features: Any) -> Any:
    import pyarrow as pa

    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    return pa.table({"tokens": values}, schema=features.arrow_schema)


_ALL = (Ours(), OursBuffered(), Memmap(), Mosaic(), LitData(), MapStyle(), IterableStyle())
CONTENDERS: dict[str, Contender] = {own.name: own for own in _ALL}


def is_installed(own: Contender) -> bool:
    """Whether a contender can be measured here."""
    return own.package is None or importlib.util.find_spec(own.package) is not None
