"""Parts `hot`, `first` and `cold` of loader.py: tokens per second from page cache and device."""

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.contenders import How, T, Tokens
from tests.benchmarks.loader_bench import BATCH, Bench, windows_of
from tests.benchmarks.loader_libraries import CONTENDERS
from tests.benchmarks.loader_pages import bring_pages, device_bytes, drop_pages
from tests.benchmarks.runs import spread

WARM_UP_S = 2.0  # of hot: an epoch, but not longer
LOOKED_AT = 20  # batches, for how well they are mixed


def measure_hot(name: str, folder: Path, workers: int, count: int, seconds: float) -> Any:
    """Tokens per second after an epoch or WARM_UP_S, and how well its batches are mixed."""
    own = CONTENDERS[name]
    batches = own.open(folder, BATCH, How(workers)).batches
    begun = time.perf_counter()
    numbers = [own.numbers(batch) for batch in itertools.islice(batches, LOOKED_AT)]
    for _ in range(count // BATCH):
        next(batches)
        if time.perf_counter() - begun > WARM_UP_S:
            break
    begun, rows = time.perf_counter(), 0
    while (took := time.perf_counter() - begun) < seconds:
        rows += len(_checked(next(batches)))
    return {"rate": rows * T / took, "mixed": mixed(numbers, count)}


def measure_first(name: str, folder: Path, workers: int, count: int) -> Any:
    """Tokens per second of a process's first epoch, from opening on, and the mixing."""
    own, begun = CONTENDERS[name], time.perf_counter()
    batches = own.open(folder, BATCH, How(workers)).batches
    numbers, rows = [], 0
    for batch in itertools.islice(batches, count // BATCH):
        rows += len(_checked(batch))
        if len(numbers) < LOOKED_AT:
            numbers.append(own.numbers(batch))
    return {"rate": rows * T / (time.perf_counter() - begun), "mixed": mixed(numbers, count)}


def measure_cold(
    name: str, folder: Path, workers: int, count: int, seconds: float, useful: int
) -> Any:
    """Tokens per second from opening on, device bytes per useful byte, and the mixing."""
    own = CONTENDERS[name]
    before, begun, used = device_bytes(), time.perf_counter(), 0
    numbers: list[NDArray[np.int64]] = []
    batches = own.open(folder, BATCH, How(workers)).batches
    while used < useful and time.perf_counter() - begun < seconds:
        batch = _checked(next(batches))
        used += len(batch) * T * 2
        if len(numbers) < LOOKED_AT:
            numbers.append(own.numbers(batch))
    took = time.perf_counter() - begun
    device = (device_bytes() - before) / used
    return {
        "rate": used / 2 / took, "device": device, "used": used, "mixed": mixed(numbers, count)
    }  # fmt: skip


def mixed(numbers: list[NDArray[np.int64]], count: int) -> float:
    """How far apart neighbours in a batch lie in the set: 1 an even shuffle, 0 in order."""
    # Two numbers drawn evenly from 0..1 are 1/3 apart.
    return 3 * float(np.mean([np.abs(np.diff(row)).mean() / count for row in numbers]))


def _checked(batch: Tokens) -> Tokens:
    assert batch.shape == (BATCH, T + 1)
    return batch


def hot(bench: Bench) -> None:
    """Tokens per second from the page cache."""
    size = bench.settings.hot_mib
    print(f"hot: batches ({BATCH}, {T + 1}) of a set of {size} MiB in the page cache")
    settings = {"count": windows_of(size), "seconds": bench.settings.hot_s}
    _compare(bench, measure_hot, bring_pages, size, settings)


def first(bench: Bench) -> None:
    """Tokens per second of the first epoch of a process, as training reads it."""
    size = bench.settings.hot_mib
    print(f"first: an epoch of a new process, a set of {size} MiB in the page cache")
    _compare(bench, measure_first, bring_pages, size, {"count": windows_of(size)})


def cold(bench: Bench) -> None:
    """Tokens per second from the device."""
    size, seconds = bench.settings.cold_mib, bench.settings.cold_s
    useful = size * 2**20 // 4
    print(f"cold: {size} MiB, pages dropped; until {useful >> 20} MiB were used or {seconds:.0f} s")
    settings = {"count": windows_of(size), "seconds": seconds, "useful": useful}
    _compare(bench, measure_cold, drop_pages, size, settings)


def _compare(
    bench: Bench,
    measure: Callable[..., Any],
    before: Callable[[Path], None],
    size: int,
    settings: dict[str, Any],
) -> None:
    """Measure in turns and print tokens per second, beside np.memmap of the same round."""
    made = bench.sets(size)
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    modes = [(n, w) for n in made for w in (0, 1) if not w or CONTENDERS[n].ahead]
    for number in range(bench.settings.rounds):
        for name, workers in modes:
            before(made[name])
            own = {"name": name, "folder": made[name], "workers": workers}
            what = f"{measure.__name__}, {name}, workers {workers}"
            if result := bench.attempt(what, measure, **own, **settings):
                found.setdefault((name, workers), []).append(result | {"round": number})
    ceiling = {r["round"]: r["rate"] for r in found.get(("np.memmap", 0), [])}
    print(f"  {'':20}{'Mtoken/s':29}{'/ np.memmap':31}mixed")
    for (name, workers), results in found.items():
        contender = CONTENDERS[name]
        ratios = [r["rate"] / ceiling[r["round"]] for r in results if r["round"] in ceiling]
        line = f"  {name:20}{spread([r['rate'] / 1e6 for r in results]):29}"
        line += f"{spread(ratios) if ratios else '':31}"
        shuffles = statistics.median(r["mixed"] for r in results)
        line += "    -" if name == "np.memmap" else f"{shuffles:5.2f}"  # its windows have no number
        if "device" in results[0]:
            line += f"   device/useful {spread([r['device'] for r in results]):22}"
            line += f" of {statistics.median(r['used'] for r in results) / 2**20:3.0f} MiB"
        print(f"{line}   {contender.ahead if workers else contender.setting}", flush=True)
