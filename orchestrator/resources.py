"""What `auto` means in a config: the values that fit the machine or cluster the job will run on.

They are filled in when the config is composed, so a run folder's config.yaml holds plain numbers.
"""

import os
from functools import cache
from pathlib import Path

from cluster.nodes import Devices, devices

MOST_CPU_WORKERS = 2
MOST_THREADS = 8  # of one worker; small models get slower with more


def automatic(setting: str) -> int | str:
    """The value of `${auto:setting}` in a YAML file."""
    here = _devices(os.environ.get("RAY_ADDRESS"))
    gpus, cpus = here.gpus, here.cpus
    workers = gpus or min(MOST_CPU_WORKERS, cpus)
    if setting == "workers":
        return workers
    if setting == "cpus_per_worker":
        return min(MOST_THREADS, max(1, cpus // workers))
    if setting == "inline_cpus":
        return min(MOST_THREADS, max(1, cpus // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if setting == "gpus_per_worker":
        return 1 if gpus else 0
    if setting == "precision":
        return "bf16" if gpus or _cpu_multiplies_bf16() else "fp32"
    raise ValueError(f"${{auto:{setting}}} is not known")


def _cpu_multiplies_bf16() -> bool:
    """Whether this CPU has bf16 matrix instructions; without them bf16 is emulated, and slow."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@cache
def _devices(address: str | None) -> Devices:
    return devices(address)
