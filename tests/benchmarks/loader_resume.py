"""Part `resume` of loader.py: time from opening to the first batch, and size of the state."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.contenders import SEED, How, state_bytes
from tests.benchmarks.loader_bench import BATCH, Bench, windows_of
from tests.benchmarks.loader_libraries import CONTENDERS
from tests.benchmarks.runs import spread

POINTS = (0.0, 0.5, 0.95)  # of an epoch
SIMULATED = 10**9 + 7


def measure_state(name: str, folder: Path, count: int, part: float) -> Any:
    """The state at a part of the epoch, and its bytes."""
    state = CONTENDERS[name].state_at(folder, BATCH, count, int(count / BATCH * part))
    return {"state": state, "bytes": state_bytes(state)}


def measure_resume(name: str, folder: Path, state: Any) -> float:
    """Milliseconds from opening, with a state, to the first batch."""
    begun = time.perf_counter()
    next(CONTENDERS[name].open(folder, BATCH, How(state=state)).batches)
    return (time.perf_counter() - begun) * 1e3


def measure_simulated(samples: int, part: float) -> float:
    """The same of our order alone, for an index of any size: no data, only ids."""
    from data.order import Order

    begun = time.perf_counter()
    order = Order(samples, SEED, "simulated", block=512, lanes=64, window=1024)
    first = int(samples * part)
    order(np.arange(first, first + BATCH))
    return (time.perf_counter() - begun) * 1e3


def resume(bench: Bench) -> None:
    """Time to the first batch, and size of the state."""
    size = bench.settings.resume_mib
    count = windows_of(size)
    states: dict[tuple[str, float], Any] = {}
    found: dict[tuple[str, float], list[float]] = {}
    print(f"resume: ms from opening to the first batch of {size} MiB, {count} windows, hot")
    made = bench.sets(size)
    for name, folder in made.items():
        for part in POINTS:
            settings = {"name": name, "folder": folder, "count": count, "part": part}
            if state := bench.attempt(f"state of {name}", measure_state, **settings):
                states[name, part] = state
    for _ in range(bench.settings.rounds):
        for (name, part), state in states.items():
            settings = {"name": name, "folder": made[name], "state": state["state"]}
            if took := bench.attempt(f"resume {name} at {part:.0%}", measure_resume, **settings):
                found.setdefault((name, part), []).append(took)
        for part in POINTS if "ours" in made else ():
            took = bench.measure(measure_simulated, samples=SIMULATED, part=part)
            found.setdefault(("ours, 10^9+7 ids", part), []).append(took)
    for name in dict.fromkeys(name for name, _ in found):
        shown = [f"{p:.0%}: {spread(found[name, p]):26}" for p in POINTS if (name, p) in found]
        largest = max((s["bytes"] for (n, _), s in states.items() if n == name), default=None)
        print(f"  {name:18} {''.join(shown)}" + (f"state {largest} bytes" if largest else ""))
