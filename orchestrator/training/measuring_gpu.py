"""What a GPU takes for steps and for text, by the engine that jobs have; one process runs `main`.

Small models tell what the host takes to launch kernels, large ones what the GPU takes to compute.
Which of the two a model waits for is seen in the numbers (`orchestrator/plan/gpu_calibration.py`).
"""

import gc
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from orchestrator.training import distributed
from orchestrator.training.hardware import most_memory
from orchestrator.training.measuring import TINY, Sized, step, write

LAUNCHED = (  # in which a GPU waits for its host
    Sized(2, 64, 512, 2, 64),
    Sized(8, 64, 512, 2, 64, "gpt2"),
    Sized(16, 64, 512, 2, 64),
    Sized(24, 64, 512, 2, 64, "gpt2"),
)
COMPUTED = (  # in which most GPUs are busy
    Sized(3, 768, 4096, 32, 1024, "gpt2", 64),
    Sized(2, 768, 50304, 16, 1024, "gpt2", 64),
    Sized(3, 1024, 4096, 16, 1024, "gpt2", 64),
    Sized(2, 1280, 8192, 16, 1024, "gpt2", 64),
    Sized(2, 1600, 4096, 8, 1024, "gpt2", 64),
    Sized(2, 2048, 4096, 8, 1024, head_width=128),
    Sized(2, 2048, 32768, 4, 2048, head_width=128),
    Sized(3, 512, 4096, 64, 512, head_width=64),
    Sized(6, 320, 4096, 128, 256, "gpt2", 64),
    Sized(4, 256, 4096, 256, 256, head_width=64),
    Sized(2, 1024, 4096, 8, 4096, head_width=128),
    Sized(3, 640, 2048, 32, 1024, head_width=64),
)
WRITERS = ((LAUNCHED[0], 8), (LAUNCHED[1], 64), (LAUNCHED[3], 16))
ENGINES = ("deepspeed", "torch")  # whose hosts take unlike long


def main() -> None:
    """Measure, and write what was found: FILE DEVICE MODELS, of each kind at most."""
    file, device = Path(sys.argv[1]), torch.device(sys.argv[2])
    most = int(sys.argv[3])
    with distributed.process_group(device):
        found: dict[str, Any] = {
            "tiny": _step(TINY, device),
            "launched": [
                _step(sized, device, name) for name in ENGINES for sized in LAUNCHED[:most]
            ],
            "computed": [_step(sized, device) for sized in COMPUTED[:most]],
        }
        found["writes"] = [
            {"token_s": write(sized, rows, "bf16", device), "rows": rows, **asdict(sized)}
            for sized, rows in WRITERS[:most]
        ]
        file.write_text(json.dumps(found))


def _step(sized: Sized, device: torch.device, name: str = ENGINES[0]) -> dict[str, object]:
    """As `step` has it, and the most bytes of tensors meanwhile."""
    gc.collect()  # the engine before this one
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return {**step(sized, "bf16", device, name), "engine": name, "bytes": most_memory(device)}


if __name__ == "__main__":
    main()
