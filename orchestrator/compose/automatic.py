"""What `auto` means in a config; filled in when it is composed, so config.yaml holds plain numbers.

Every GPU there is, one worker each; without GPUs up to two CPU workers. A process without Ray takes
as many threads as OMP_NUM_THREADS says, or the cores there are.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.inline import given_world_size
from orchestrator.plan.devices import available, ranks_here

MOST_CPU_WORKERS = 2
LEAST_BATCH = 12  # sequences per step that `auto` rounds up to a multiple of the workers
MOST_THREADS = 8  # of one worker; small models get slower with more


def automatic(setting: str, of: Any = None) -> int | str:
    """The value of `${auto:setting,of}` in a YAML file.

    Args:
        setting: what is asked for.
        of: for `precision` the GPUs per worker, for `global_batch_size` the number of
            workers or its range, for the others the address of the cluster.
    """
    if setting == "precision":
        return "bf16" if of or _cpu_multiplies_bf16() else "fp32"
    if setting == "global_batch_size":
        most = max(of, default=1) if isinstance(of, Sequence) and not isinstance(of, str) else of
        # What is no number of workers is refused by its own section.
        workers = most if isinstance(most, int) and most > 0 else 1
        return math.ceil(LEAST_BATCH / workers) * workers
    if setting == "inline_workers":
        return given_world_size() or 1
    here = available(str(of) if of else None)
    workers = here.gpus or max(1, min(MOST_CPU_WORKERS, here.cpus))
    if setting == "workers":
        return workers
    if setting == "cpus_per_worker":
        # What the tightest node leaves for each of its GPUs; without GPUs, a share of all cores.
        shares = [room["CPU"] // room["GPU"] for room in here.rooms if room["GPU"]]
        return min(MOST_THREADS, max(1, int(min(shares, default=here.cpus // workers))))
    if setting == "inline_cpus":
        share = min(MOST_THREADS, max(1, here.cpus // ranks_here()))
        # torchrun sets the variable itself, to 1, whatever the host has.
        return _threads_asked_for() or share if given_world_size() is None else share
    if setting == "gpus_per_worker":
        return 1 if here.gpus else 0
    raise ValueError(f"${{auto:{setting}}} is not known")


def _threads_asked_for() -> int | None:
    """What OMP_NUM_THREADS says; None if that is nothing that OpenMP reads."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def _cpu_multiplies_bf16() -> bool:
    """Whether this CPU has bf16 matrix instructions; without them bf16 is emulated, and slow."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
