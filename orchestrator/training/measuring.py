"""What a machine does per second, measured by ranks that do what ranks of a job do.

`orchestrate doctor --calibrate` starts them; every rank runs `main`, and rank 0 writes the file.

1. Products of matrices by shape and precision, copies in memory, sums over ranks, writes to disk.
2. Steps of small models by the engine that jobs have: a micro-batch forward and backward, and the
   rest of a step.
3. Text that some of them write, token by token.

What a rank of one thread computes by itself is told in seconds of its processor, so that others on
the machine disturb it less; what waits for other ranks, or has several threads, by the clock.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

from models import build
from models.configs import GPTConfig
from models.decoding import generate
from models.gpt import GPT
from models.projection import MULTIPLIES_BF16
from orchestrator.config import EngineConfig, OptimConfig
from orchestrator.training import distributed, engine
from orchestrator.training.hardware import most_memory
from orchestrator.training.hostmemory import keep_freed_memory

SHAPES = ((256, 256, 256), (1024, 256, 1024), (1024, 512, 2048), (1024, 1024, 1024))
"""Of products (tokens, inputs) x (inputs, outputs)."""
MB = 10**6
ROUNDS, MOST_ROUNDS = 3, 20
SECONDS = 0.6  # of all ranks together, that steps of small models are taken for
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Sized:
    """A model and its micro-batch, small enough to measure and unlike enough to tell from."""

    layers: int
    width: int
    vocabulary: int
    sequences: int
    length: int
    style: str = "llama"
    """llama (RMS norms, turned positions, SwiGLU, no biases) or gpt2."""
    head_width: int = 32

    @property
    def config(self) -> GPTConfig:
        """The model."""
        return GPTConfig(
            **LLAMA if self.style == "llama" else {},
            vocab_size=self.vocabulary,
            max_positions=self.length,
            layers=self.layers,
            width=self.width,
            heads=self.width // self.head_width,
        )


LLAMA: dict[str, Any] = {
    "norm": "rmsnorm",
    "positions": "rotary",
    "activation": "swiglu",
    "bias": False,
}
TINY = Sized(1, 32, 64, 1, 8)
MODELS = (
    Sized(3, 256, 4096, 4, 256),  # the first is measured in every layout
    Sized(3, 128, 2048, 8, 128, head_width=64),
    Sized(2, 64, 512, 8, 64),
    Sized(6, 64, 256, 4, 32),
    Sized(2, 192, 8192, 2, 256),
    Sized(8, 192, 1024, 4, 64, "gpt2", 24),
    Sized(2, 256, 512, 2, 512, head_width=64),
    Sized(2, 384, 4096, 4, 128, "gpt2"),
    Sized(4, 384, 1024, 3, 256, head_width=64),
    Sized(2, 512, 2048, 4, 128, head_width=64),
    Sized(2, 64, 4096, 8, 128),
    Sized(4, 96, 4096, 6, 256),
    Sized(2, 128, 1024, 16, 64),
    Sized(2, 320, 1024, 2, 512, head_width=64),
    Sized(3, 160, 2048, 6, 256),
    Sized(1, 96, 257, 2, 512, "gpt2", 48),
    Sized(2, 320, 4096, 8, 128, head_width=64),
    Sized(6, 128, 512, 4, 384),
)
WRITERS = ((MODELS[0], 32), (MODELS[1], 8), (MODELS[2], 64), (MODELS[7], 16), (MODELS[10], 4))
"""Models that write, and how many texts at a time."""
PROMPT, NEW = 16, 24  # tokens of a text that one of them goes on with, and writes


def main() -> None:
    """Measure, and let rank 0 write what it found: FILE MODELS THREADS RATES.

    MODELS to take at most, THREADS of each rank, RATES 1 to measure more than steps.
    """
    file, models, threads, rates = Path(sys.argv[1]), *map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    keep_freed_memory()
    precisions = ("fp32", "bf16") if MULTIPLIES_BF16 else ("fp32",)
    with distributed.process_group(CPU):
        step(TINY, "fp32")
        found: dict[str, Any] = {"process_bytes": most_memory(CPU)}
        found["steps"] = [
            step(sized, precision) for precision in precisions for sized in MODELS[:models]
        ]
        if rates:
            found["writes"] = [
                {"tokens_s": write(sized, rows, precision), "rows": rows, "precision": precision}
                | asdict(sized)
                for precision in precisions
                for sized, rows in WRITERS[:models]
            ]
            found |= {
                "matmul": {precision: list(products(precision)) for precision in precisions},
                "memory_bytes_per_s": copies(),
                "sums": sums(),
                "disk_bytes_per_s": writes(file.parent),
            }
        if distributed.rank() == 0:
            file.write_text(json.dumps(found))


def timed(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Seconds of a call, the median of some; ranks begin together. Every rank calls it."""
    taken = []
    for _ in range(rounds + 1):
        dist.barrier()
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


def products(precision: str) -> Iterator[tuple[int, int, int, float]]:
    """(tokens, inputs, outputs, FLOP/s) of each shape; all ranks at once."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    for n, k, m in SHAPES:
        x, w = torch.randn(n, k, dtype=dtype), torch.randn(m, k, dtype=dtype)
        yield n, k, m, 2 * n * k * m / timed(lambda x=x, w=w: x @ w.T)  # type: ignore[misc]


def copies() -> float:
    """Bytes per second that a rank reads and writes in memory, all ranks at once."""
    x = torch.zeros(16 * MB)
    y = torch.empty_like(x)
    return 2 * 4 * x.numel() / timed(lambda: y.copy_(x))


def sums() -> dict[str, float]:
    """Seconds of a sum over all ranks of next to nothing, and bytes per second of a large one."""
    little, much = torch.zeros(1), torch.zeros(4 * MB)
    latency = timed(lambda: dist.all_reduce(little), 20)
    return {
        "ranks": distributed.world_size(),
        "latency_s": latency,
        "bytes_per_s": 4 * much.numel() / timed(lambda: dist.all_reduce(much)),
    }


def writes(folder: Path) -> float:
    """Bytes per second that reach the disk of a folder, by rank 0 alone."""
    rate = 0.0
    if distributed.rank() == 0:
        content = os.urandom(64 * MB)
        begun = time.perf_counter()
        with tempfile.TemporaryFile(dir=folder) as target:
            target.write(content)
            target.flush()
            os.fsync(target.fileno())
        rate = len(content) / (time.perf_counter() - begun)
    dist.barrier()
    return rate


def step(
    sized: Sized, precision: str, device: torch.device = CPU, name: str = "deepspeed"
) -> dict[str, object]:
    """What a model takes: seconds of a micro-batch, and of what a step takes beside those."""
    own = engine.build(
        sized.config,
        EngineConfig(name=name, precision=precision),
        OptimConfig(),
        device=device,
        micro_batch=sized.sequences,
        accumulation_steps=2,
    )
    rows = torch.randint(sized.vocabulary, (sized.sequences, sized.length + 1), device=device)
    mask = torch.ones(sized.sequences, sized.length, dtype=torch.bool, device=device)
    passes: list[float] = []
    updates: list[float] = []
    spent = 0.0  # over all ranks, so that all of them stop at the same round
    clock, wall = computing(device), waiting(device)
    while len(passes) <= ROUNDS or (spent < SECONDS and len(passes) <= MOST_ROUNDS):
        begun, first = wall(), clock()
        for number in range(2):
            loss = own.forward(rows[:, :-1], targets=rows[:, 1:], loss_mask=mask)
            own.backward(loss / mask.numel() / 2)
            if not number:  # the second one begins what ranks send each other
                first, middle = clock() - first, wall()
        so_far = sum(passes) + sum(updates)
        for _ in range(2):  # as the loop does
            (spent,) = distributed.sum_over_ranks([so_far], device)
        own.step(1e-4)
        passes.append(first)
        updates.append(wall() - middle - (middle - begun))
    return {
        **asdict(sized),
        "precision": precision,
        "pass_s": statistics.median(passes[1:]),
        "update_s": max(0.0, statistics.median(updates[1:])),
    }


def computing(device: torch.device) -> Callable[[], float]:
    """The clock for what a rank computes by itself."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else waiting(device)


def waiting(device: torch.device) -> Callable[[], float]:
    """The clock for what a rank waits for; a GPU has done all that it was given when it is read."""
    if device.type == "cpu":
        return time.perf_counter

    def read() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def write(sized: Sized, rows: int, precision: str, device: torch.device = CPU) -> float:
    """Seconds in which a model writes one more token of each of so many texts."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = cast(GPT, build(sized.config).to(device, dtype).eval())
    clock, shape = computing(device), (rows, min(PROMPT, sized.length - NEW))
    prompts = torch.randint(sized.vocabulary, shape, device=device)
    taken: list[float] = []
    for _ in range(ROUNDS + 1):
        marks = []
        for new in (1, NEW):
            begun = clock()
            generate(model, prompts, new, logprobs=True)
            marks.append(clock() - begun)
        taken.append((marks[1] - marks[0]) / (NEW - 1))
    return statistics.median(taken[1:])


if __name__ == "__main__":
    main()
    # DeepSpeed keeps the group, so gloo's threads live on: one that came for the interpreter's lock
    # while that ends would abort the process, as one of three did. All is written by now.
    os._exit(0)
