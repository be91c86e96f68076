"""The CPUs and GPUs that a job can have on this machine.

The answer needs neither ray nor torch, so the command line can give it in milliseconds.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

NVIDIA_SMI_LIMIT_S = 5


@dataclass(frozen=True)
class Devices:
    """What a job can have; `note` says what is there but cannot be used, and what to do."""

    gpus: int
    cpus: int
    where: str
    note: str | None = None
    nodes: tuple[tuple[int, int], ...] = ()
    """GPUs and CPUs of each node; empty for one node, which has them all."""

    @property
    def rooms(self) -> list[dict[str, float]]:
        """What each node has, by Ray's names."""
        pairs = self.nodes or ((self.gpus, self.cpus),)
        return [{"GPU": float(gpus), "CPU": float(cpus)} for gpus, cpus in pairs]


def local_devices() -> Devices:
    """CPUs this process may use and GPUs that the installed torch can use, on this machine."""
    seen, note = _visible_gpus(), None
    gpus = seen
    if seen and _torch_is_cpu_build():
        gpus = 0
        note = (
            f"{seen} GPU(s) are here but the installed torch is a CPU build and cannot use them; "
            "reinstall torch from its CUDA wheels (pip install --force-reinstall torch)"
        )
    return Devices(gpus, local_cpus(), os.uname().nodename, note)


def local_cpus() -> int:
    """CPUs this process may use: its affinity, bounded by the quota of its container."""
    allowed = len(os.sched_getaffinity(0))
    quota = _cgroup_cpus(Path("/sys/fs/cgroup"))
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def _cgroup_cpus(root: Path) -> float | None:
    """CPU quota in CPUs under a cgroup v2 or v1 mount; None without a limit."""
    try:
        limit, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if limit == "max" or int(limit) <= 0:
        return None
    return int(limit) / int(period)


def _visible_gpus() -> int:
    """NVIDIA GPUs here that CUDA_VISIBLE_DEVICES leaves visible."""
    try:
        listing = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=NVIDIA_SMI_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    if listing.returncode:
        return 0
    uuids = re.findall(r"^GPU \d+:.*\(UUID: ([^)]+)\)", listing.stdout, re.MULTILINE)
    return count_visible(uuids, os.environ.get("CUDA_VISIBLE_DEVICES"))


def count_visible(uuids: list[str], visible: str | None) -> int:
    """How many of the GPUs CUDA_VISIBLE_DEVICES shows; CUDA stops at the first unknown name."""
    if visible is None:
        return len(uuids)
    shown = 0
    for name in (part.strip() for part in visible.split(",")):
        known = (
            int(name) < len(uuids)
            if name.isdigit()
            else bool(name) and any(uuid.startswith(name) for uuid in uuids)
        )
        # MIG slices are listed below their GPU with names of their own; take them at their word.
        if not known and not name.startswith("MIG-"):
            break
        shown += 1
    return shown


def _torch_is_cpu_build() -> bool:
    """Whether the installed torch has neither CUDA nor ROCm; read from its files, not imported."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).with_name("version.py")
    text = version.read_text(encoding="utf-8") if version.exists() else ""
    built_for = dict(re.findall(r"^(cuda|hip)\b[^=]*=\s*(\S+)", text, re.MULTILINE))
    return bool(built_for) and set(built_for.values()) == {"None"}
