"""Part `crash` of loader.py: windows repeated or missing in an epoch that was interrupted."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.contenders import How, T
from tests.benchmarks.loader_bench import Bench
from tests.benchmarks.loader_libraries import CONTENDERS

# An epoch for counting: 12 MiB in files of 1 MiB; 96 rows divide over 2, 3 and 4 ranks.
CRASH_BATCH, CRASH_BATCHES, CRASH_FILE = 96, 64, 1 << 20
Plan = list[tuple[int, int, int | None, int | None]]
"""Runs of an epoch, one after the other: ranks, loader workers, batches to the checkpoint or None
for all, batch after which it is killed or None."""
PLANS: dict[str, Plan] = {
    "not interrupted, 1 rank, 0 workers": [(1, 0, None, None)],
    "killed 5 batches after a checkpoint, 2 workers": [(1, 2, 10, 15), (1, 2, None, None)],
    "ranks 2 -> 4 -> 3": [(2, 0, 10, None), (4, 0, 10, None), (3, 0, None, None)],
    "loader workers 2 -> 4 -> 3": [(1, 2, 10, None), (1, 4, 10, None), (1, 3, None, None)],
}


def measure_segment(
    name: str,
    folder: Path,
    workers: int,
    state: Any,
    batches: int | None,
    killed_at: int | None,
    log: Path,
) -> Any:
    """Read a part of an epoch, note the windows, save the state after `batches`, maybe die."""
    own = CONTENDERS[name]
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if world > 1 and own.package in ("streaming", "litdata"):
        import torch.distributed

        torch.distributed.init_process_group("gloo")
    how = How(workers, state, rank, world, endless=False)
    feed = own.open(folder, CRASH_BATCH // world, how)
    with log.open("wb", buffering=0) as file:
        for number, batch in enumerate(feed.batches, 1):
            file.write(own.numbers(batch).tobytes())
            if number == batches:
                if rank == 0:
                    state_file(log).write_text(json.dumps(feed.state()))
                if killed_at is None:
                    break
            if number == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)


def state_file(log: Path) -> Path:
    """Where the state of a run is that notes its windows in `log`."""
    return log.with_suffix(".state")


def crash(bench: Bench) -> None:
    """Repeated and missing windows of an epoch that was interrupted."""
    count = CRASH_BATCH * CRASH_BATCHES
    made = bench.sets(count * 2 * T / 2**20, CRASH_FILE)
    print(f"crash: an epoch of {count} windows in {CRASH_BATCHES} batches")
    whole: dict[str, list[list[int]]] = {}
    for title, plan in PLANS.items():
        print(f"  {title}")
        for name, folder in made.items():
            try:
                steps = list(_epoch(bench, name, folder, plan))
            except RuntimeError as error:
                print(f"    {name:18} {str(error)[:150]}", flush=True)
                continue
            finally:
                bench.tidy(name)
            times = np.bincount(np.concatenate(steps), minlength=count)
            repeated, missing = int((times - 1).clip(0).sum()), int((times == 0).sum())
            line = f"    {name:18} repeated {repeated:4}, missing {missing:4}"
            own = [sorted(step) for step in steps]
            same = sum(a == b for a, b in zip(whole.setdefault(name, own), own, strict=False))
            print(f"{line}, batches as without interruption {same} of {CRASH_BATCHES}", flush=True)


def _epoch(bench: Bench, name: str, folder: Path, plan: Plan) -> Iterator[list[int]]:
    """The windows of each batch that counts: up to each checkpoint, and after the last one."""
    state = None
    for world, workers, batches, killed_at in plan:
        logs = [bench.folder / f"{rank}.log" for rank in range(world)]
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        running = [
            bench.start(
                measure_segment, _rank(rank, world, port), name=name, folder=folder,
                workers=workers, state=state, batches=batches, killed_at=killed_at, log=log,
            )
            for rank, log in enumerate(logs)
        ]  # fmt: skip
        failures = []
        for one in running:
            try:
                bench.finish(one, 60)
            except RuntimeError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        parts = [np.fromfile(log, dtype=np.int64) for log in logs]
        size = CRASH_BATCH // world
        read = max(len(part) for part in parts)
        for first in range(0, read if batches is None else batches * size, size):
            yield np.concatenate([part[first : first + size] for part in parts]).tolist()
        state = json.loads(state_file(logs[0]).read_text()) if batches else None


def _rank(rank: int, world: int, port: int) -> dict[str, str]:
    """The environment of one of several processes."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "GLOBAL_RANK": rank, "WORLD_SIZE": world}
    own |= {"LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    return {key: str(value) for key, value in own.items()} | {"MASTER_ADDR": "127.0.0.1"}
