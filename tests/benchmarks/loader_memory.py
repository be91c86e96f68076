"""Part `memory` of loader.py: what our readers hold over several epochs of a large set."""

import statistics
from pathlib import Path
from typing import Any

from data.shards.blocks import BLOCK_BYTES, HASH_BYTES
from data.shards.reader import CACHE_BLOCKS, GROUP
from tests.benchmarks.contenders import How, Ours
from tests.benchmarks.loader_bench import BATCH, Bench, windows_of
from tests.benchmarks.loader_libraries import CONTENDERS
from tests.benchmarks.loader_pages import memory_mib

EPOCHS = 4
REST = 32  # MiB: index, order, batches under way, stacks and what malloc keeps of threads
BOUND = (CACHE_BLOCKS * BLOCK_BYTES + GROUP * HASH_BYTES >> 20) + REST


def measure_memory(name: str, folder: Path, count: int, epochs: int) -> list[tuple[float, float]]:
    """`memory_mib` at the start and 20 times per epoch of `count` windows."""
    samples = [memory_mib()]
    batches = CONTENDERS[name].open(folder, BATCH, How(workers=1)).batches
    for number in range(1, epochs * count // BATCH + 1):
        next(batches)
        if number % (count // BATCH // 20) == 0:
            samples.append(memory_mib())
    return samples


def memory(bench: Bench) -> None:
    """Memory of our readers over several epochs."""
    size = bench.settings.cold_mib
    print(
        f"memory: MiB over {EPOCHS} epochs of {size} MiB, one thread ahead; stated bound of own "
        f"memory {BOUND} = cache {CACHE_BLOCKS} of a dataset + blocks in use "
        f"{GROUP * HASH_BYTES >> 20} + rest {REST}"
    )
    for name, folder in bench.sets(size).items():
        if not isinstance(CONTENDERS[name], Ours):
            continue
        settings: dict[str, Any] = {"name": name, "folder": folder, "count": windows_of(size)}
        samples = bench.attempt(f"memory of {name}", measure_memory, **settings, epochs=EPOCHS)
        for column, what in enumerate(("own memory", "mapped files") if samples else ()):
            values = [sample[column] - samples[0][column] for sample in samples[1:]]
            epoch = len(values) // EPOCHS
            medians = [statistics.median(values[i * epoch :][:epoch]) for i in range(EPOCHS)]
            shown = ", ".join(f"{median:.0f}" for median in medians)
            verdict = "" if column else f", within the bound: {max(values) <= BOUND}"
            print(
                f"  {name:14}{what:13} medians of epochs {shown}; peak {max(values):.0f}{verdict}",
                flush=True,
            )
