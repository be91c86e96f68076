"""GPUs as their makers describe them; imports no torch, for a plan is quick."""

import re
from dataclasses import dataclass

from models.configs.checks import did_you_mean


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    flops: float
    """Dense bf16 tensor-core FLOP/s: half of what data sheets give with sparsity."""
    memory: float
    """Bytes that a job can have of it: GiB as it is sold, less about 3% for the driver."""
    bandwidth: float
    """Bytes per second of its memory."""
    link: float
    """Bytes per second that it sends to others in its node; through PCIe where there is no other
    way."""
    watts: float
    """Most that it draws."""
    source: str


def _gb(size: float) -> float:
    return 0.97 * size * 2**30


GPUS = {
    "B200": Gpu(2250e12, _gb(180), 8e12, 900e9, 1000, "NVIDIA Blackwell data sheet, 2024"),
    "H200": Gpu(989e12, _gb(141), 4.8e12, 450e9, 700, "NVIDIA H200 data sheet, 2023"),
    "H100 PCIe": Gpu(756e12, _gb(80), 2e12, 64e9, 350, "NVIDIA H100 data sheet, 2022"),
    "H100 NVL": Gpu(835e12, _gb(94), 3.9e12, 300e9, 400, "NVIDIA H100 NVL data sheet, 2023"),
    "H100": Gpu(989e12, _gb(80), 3.35e12, 450e9, 700, "NVIDIA H100 SXM data sheet, 2022"),
    "A100": Gpu(312e12, _gb(80), 2.04e12, 300e9, 400, "NVIDIA A100 80GB SXM data sheet, 2020"),
    "L40S": Gpu(362e12, _gb(48), 0.864e12, 32e9, 350, "NVIDIA L40S data sheet, 2023"),
    "L4": Gpu(121e12, _gb(24), 0.3e12, 32e9, 72, "NVIDIA L4 data sheet, 2023"),
    "A10": Gpu(125e12, _gb(24), 0.6e12, 32e9, 150, "NVIDIA A10 data sheet, 2021"),
    "RTX 4090": Gpu(165e12, _gb(24), 1.01e12, 32e9, 450, "NVIDIA Ada white paper, 2022"),
    "MI300X": Gpu(1307e12, _gb(192), 5.3e12, 448e9, 750, "AMD MI300X data sheet, 2023"),
}
"""By the name in what the driver calls them; the first that is found in it counts."""


def named(name: str) -> Gpu:
    """The GPU that is called so. Raises ValueError, which lists all, if none is."""
    if name not in GPUS:
        raise ValueError(f"gpu={name}: known are {', '.join(GPUS)}{did_you_mean(name, GPUS)}")
    return GPUS[name]


def found(described: str) -> Gpu | None:
    """The GPU that a driver describes; None: not known."""
    return next((g for name, g in GPUS.items() if re.search(rf"\b{name}\b", described)), None)
