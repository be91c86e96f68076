"""Keyed dropout against torch's own: one call, and a training step of a model with dropout.

python tests/benchmarks/dropout.py [--rounds 20] [--device cpu]
"""

import argparse
import sys
import time
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor
from torch.nn import functional

from models import build
from models.configs import GPTConfig
from models.dropout import Dropout, keyed, number_dropouts
from tests.benchmarks.runs import spread

SHAPES = [(8, 256, 192), (8, 256, 768), (4, 4, 256, 256)]


def seconds(function, device: torch.device) -> float:
    """Of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def call(x: Tensor) -> None:
    """Forward and backward of one dropout."""
    dropout(x).backward(x)


def step() -> None:
    """Forward and backward of the model."""
    logits = model(tokens)
    functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()


def compare(name: str, function, seeds: Tensor, rounds: int) -> None:
    """Print the ratio of both, which take turns."""
    ratios = []
    for _ in range(rounds + 3):
        times = []
        for inside in (keyed(seeds), nullcontext()):
            with inside:
                times.append(seconds(function, seeds.device))
        ratios.append(times[0] / times[1])
    print(f"{name}: keyed / torch {spread(ratios[3:])}")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rounds", type=int, default=20)
parser.add_argument("--device", default="cpu")
options = parser.parse_args()
device = torch.device(options.device)
dropout = Dropout(0.1)
number_dropouts(dropout)
for shape in SHAPES:
    x = torch.randn(shape, device=device, requires_grad=True)
    seeds = torch.arange(shape[0], device=device)
    compare(f"dropout of {shape}", lambda x=x: call(x), seeds, options.rounds)
config = GPTConfig(vocab_size=4096, width=192, dropout=0.1, positions="rotary")
model = build(config).to(device)
tokens = torch.randint(4096, (8, 256), device=device)
compare("step of gpt, 4 x 192", step, torch.arange(8, device=device), options.rounds)
