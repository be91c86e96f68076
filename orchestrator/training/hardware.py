"""What the device could do at best, to say what part of it is used (MFU)."""

import re

import torch

# Dense bf16 tensor-core FLOP/s, from the vendors' data sheets; the first name found counts.
PEAK_BF16_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "MI300X": 1307e12,
}


def peak_flops(device: torch.device, precision: str) -> float | None:
    """FLOP/s of one device at best, or None where that is not known (CPUs, other GPUs, fp32)."""
    if device.type != "cuda" or precision != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next(
        (flops for key, flops in PEAK_BF16_FLOPS.items() if re.search(rf"\b{key}\b", name)), None
    )


def device_name(device: torch.device) -> str:
    """The model of a GPU; "cpu" for the others."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
