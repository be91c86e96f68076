"""A GPT-2 style training step: both engines, an eager loop as in nanoGPT, and transformers.

All have one size, batch, dtype, thread, optimizer, clipping and exact GELU, keep freed memory, and
take turns step by step in this process. Prints the CPU time of the eager loop's step over that of
each other (1 or more: as fast or faster), and in which part of the step the engines spend it.

    python tests/benchmarks/step.py [--size 10.8M] [--precision bf16] [--rounds 12]
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.nn.functional as F
from torch import nn

from cluster.host.network import free_port
from models.configs import GPTConfig
from orchestrator.config import EngineConfig, OptimConfig
from orchestrator.training import distributed, engine
from orchestrator.training.hostmemory import keep_freed_memory
from tests.benchmarks.runs import spread

T, VOCABULARY = 256, 256
SIZES = {"0.8M": (4, 128, 4, 12), "10.8M": (6, 384, 6, 8)}  # layers, width, heads, sequences
CPU = torch.device("cpu")
Step = Callable[[torch.Tensor], list[float]]
"""Trains on rows (B, T+1); the CPU seconds of forward pass, backward pass and the rest."""


class EagerBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        qkv = self.qkv(self.norm_1(x)).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2)
        y = F.scaled_dot_product_attention(*qkv.chunk(3, 1), is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class EagerGPT(nn.Module):
    def __init__(self, layers, width, heads):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(T, width)
        self.blocks = nn.Sequential(*(EagerBlock(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def eager(model: nn.Module, precision: str) -> Step:
    """The loop that everybody writes first."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step(rows):
        times = [time.process_time()]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(rows[:, :-1])
            logits = getattr(logits, "logits", logits)
            loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        times.append(time.process_time())
        loss.backward()
        times.append(time.process_time())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.process_time())
        return [end - begin for begin, end in pairwise(times)]

    return step


def ours(settings: EngineConfig, size: tuple[int, int, int, int]) -> Step:
    """A step of one of our engines."""
    layers, width, heads, sequences = size
    model = GPTConfig(
        layers=layers, width=width, heads=heads, vocab_size=VOCABULARY, max_positions=T,
        activation="gelu_erf",
    )  # fmt: skip
    trainer = engine.build(model, settings, OptimConfig(), device=CPU, micro_batch=sequences)
    counted = torch.ones(sequences, T, dtype=torch.bool)

    def step(rows):
        times = [time.process_time()]
        loss = trainer.forward(rows[:, :-1], targets=rows[:, 1:], loss_mask=counted)
        times.append(time.process_time())
        trainer.backward(loss / counted.numel())
        times.append(time.process_time())
        trainer.step(1e-3)
        times.append(time.process_time())
        return [end - begin for begin, end in pairwise(times)]

    return step


def hugging_face(layers: int, width: int, heads: int) -> nn.Module:
    """GPT-2 of transformers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=layers, n_embd=width, n_head=heads, vocab_size=VOCABULARY, n_positions=T,
            bos_token_id=None, eos_token_id=None, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            use_cache=False, activation_function="gelu",
        )
    )  # fmt: skip


def main() -> None:
    """Print a line per contender."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="10.8M")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    size, precision = SIZES[options.size], options.precision
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(free_port())
    with distributed.process_group(CPU):
        contenders = {
            "eager loop": eager(EagerGPT(*size[:3]), precision),
            "transformers": eager(hugging_face(*size[:3]), precision),
            "plain engine": ours(EngineConfig(name="torch", precision=precision), size),
            "ZeRO 1": ours(EngineConfig(zero_stage=1, precision=precision), size),
        }
        parts: dict[str, list[list[float]]] = {name: [] for name in contenders}
        for number in range(options.rounds + 2):
            rows = torch.randint(VOCABULARY, (size[3], T + 1))
            for name, step in contenders.items():
                spent = step(rows)
                if number >= 2:
                    parts[name].append(spent)
    loop = [sum(spent) for spent in parts["eager loop"]]
    for name, own in parts.items():
        ratios = [a / sum(b) for a, b in zip(loop, own, strict=True)]
        medians = (f"{1000 * statistics.median(column):.0f}" for column in zip(*own, strict=True))
        print(f"{options.size} {precision} {name:12} {spread(ratios)}; ms {' + '.join(medians)}")
    plain, zero = ([sum(spent) for spent in parts[name]] for name in ("plain engine", "ZeRO 1"))
    print(f"ZeRO 1 / plain engine {spread([a / b for a, b in zip(plain, zero, strict=True)])}")


if __name__ == "__main__":
    main()
