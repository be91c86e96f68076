"""What the device is and could do at best, and what a process has had of its memory."""

from pathlib import Path

import torch

from orchestrator.training.gpus import found


def peak_flops(device: torch.device, precision: str) -> float | None:
    """FLOP/s of one device at best, or None where that is not known (CPUs, other GPUs, fp32)."""
    if device.type != "cuda" or precision != "bf16":
        return None
    gpu = found(torch.cuda.get_device_name(device))
    return None if gpu is None else gpu.flops


def device_name(device: torch.device) -> str:
    """The model of a GPU; "cpu" for the others."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def most_memory(device: torch.device) -> int | None:
    """The most bytes that this process has had: of the GPU, for tensors; on a CPU, of the host.

    None: this kernel does not tell.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return 1024 * int(line.split()[1])
