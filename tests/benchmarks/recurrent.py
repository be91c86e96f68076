"""A training step of the LSTM language model against the same model around torch.nn.LSTM.

Both have one size, batch, dtype, thread, optimizer, loss and clipping, keep freed memory, and take
turns step by step in this process. Prints the CPU time of theirs over ours (1 or more: as fast or
faster), of the whole step and of the layers alone.

    python tests/benchmarks/recurrent.py [--precision bf16] [--rounds 12] [--sequences 12]
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import nn

from models import build
from models.configs import LSTMConfig
from orchestrator.training.hostmemory import keep_freed_memory
from tests.benchmarks.runs import spread

T, V = 256, 4096


class Theirs(nn.Module):
    """torch.nn.LSTM in the place of our layers."""

    def __init__(self, ours, config):
        super().__init__()
        self.lstm = nn.LSTM(config.width, config.width, config.layers, batch_first=True)
        ours.layers = nn.ModuleList()
        ours.hidden = lambda tokens, *_: self.lstm(ours.embedding(tokens))[0]
        self.ours = ours

    def forward(self, tokens, **named):
        return self.ours(tokens, **named)


def stepper(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step(rows, counted):
        begun = time.process_time()
        loss = model(rows[:, :-1], targets=rows[:, 1:], loss_mask=counted)
        (loss.float() / counted.numel()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.process_time() - begun

    return step


def layers_of(run):
    """Time of forward and backward pass of the layers over inputs."""

    def step(x, by):
        begun = time.process_time()
        run(x).backward(by)
        return time.process_time() - begun

    return step


def main() -> None:
    """Print a line for the step and one for the layers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--sequences", type=int, default=12)
    parser.add_argument("--width", type=int, default=288)
    options = parser.parse_args()
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    config = LSTMConfig(vocab_size=V, width=options.width)
    ours, theirs = build(config).to(dtype), Theirs(build(config), config).to(dtype)
    layers, lstm, B = ours.layers, theirs.lstm, options.sequences

    def in_turn(x):
        for layer in layers:
            x, _ = layer(x, None, None)
        return x

    counted = torch.ones(B, T, dtype=torch.bool)
    steps, alone = (
        (stepper(theirs), stepper(ours)),
        (
            layers_of(lambda x: lstm(x)[0]),
            layers_of(in_turn),
        ),
    )
    found = {"step": [], "layers": []}
    for number in range(options.rounds + 2):
        rows = torch.randint(V, (B, T + 1))
        x, by = (torch.randn(B, T, options.width, dtype=dtype) for _ in range(2))
        x.requires_grad_()
        times = {
            "step": [step(rows, counted) for step in steps],
            "layers": [each(x, by) for each in alone],
        }
        for name, (a, b) in times.items():
            if number >= 2:
                found[name].append(a / b)
    for name, ratios in found.items():
        print(f"LSTM {options.precision} {B} x {T}, torch.nn.LSTM / ours, {name}: {spread(ratios)}")


if __name__ == "__main__":
    main()
