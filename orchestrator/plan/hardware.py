"""What a job is taken to run on: this machine, or what the words of `orchestrate plan` name."""

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

from cluster.host.memory import memory_group
from cluster.nodes import NVIDIA_SMI_LIMIT_S
from orchestrator.config import JobConfig
from orchestrator.plan import gpu_calibration, lessons, prices
from orchestrator.plan.calibration import load
from orchestrator.plan.timing import Hardware
from orchestrator.training.gpus import GPUS, found, named


def here(config: JobConfig) -> Hardware:
    """This machine, as far as it is known."""
    gpu = gpu_here() if config.resources.gpus_per_worker else None
    facts = None if gpu is None else GPUS[gpu]
    return Hardware(
        gpu, facts, None, gpu_calibration.load(gpu), load(), lessons.load(), host_bytes(),
        prices.read(None),
    )  # fmt: skip


def asked(config: JobConfig, gpu: str | None, mfu: str | None, table: str | None) -> Hardware:
    """What the words gpu=, mfu= and prices= name; this machine where there is no such word.

    Raises:
        ValueError: a word names what is not known or can't be.
    """
    share = None if mfu is None else _share(mfu)
    if share is not None and not config.resources.gpus_per_worker:
        raise ValueError(
            f"mfu={mfu} is a share of a GPU's peak, and resources.gpus_per_worker=0; try "
            "resources=gpu8, or leave it out: times on CPUs are measured"
        )
    own = prices.read(None if table is None else Path(table))
    if gpu is None:
        at_hand = here(config)
        return replace(at_hand, mfu=share, prices=own)
    facts = named(gpu)
    if not config.resources.gpus_per_worker:
        raise ValueError(
            f"gpu={gpu} is for workers with a GPU, and resources.gpus_per_worker=0; try "
            "resources=gpu8"
        )
    known = gpu_calibration.load(gpu)
    return Hardware(gpu, facts, share, known, lessons=lessons.load(), prices=own)


def _share(mfu: str) -> float:
    try:
        share = float(mfu)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError(f"mfu={mfu} must be above 0 and at most 1, a share of the GPU's peak")
    return share


def host_bytes(root: Path = Path("/")) -> float:
    """Memory that processes here can have: of this machine, or of the container around them.

    Args:
        root: where /proc and /sys are.
    """
    whole = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    group = memory_group(root)
    limit = None if group is None else group.limit_bytes
    return whole if limit is None else min(whole, limit)


def gpu_here() -> str | None:
    """The name in GPUS of the first GPU of this machine. None: there is none, or not known."""
    try:
        listing = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=NVIDIA_SMI_LIMIT_S
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    described = re.search(r"GPU \d+: (.+?) \(", listing)
    facts = found(described[1]) if described else None
    return next((name for name, own in GPUS.items() if own is facts), None)
