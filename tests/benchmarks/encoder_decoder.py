"""A training step of our encoder-decoder against the same around torch.nn.Transformer.

Both get the same embedding, positions, tied output layer and smoothed loss; theirs is written as
torch's tutorial has it, over whole logits.

python tests/benchmarks/encoder_decoder.py [--rounds 8] [--precision fp32] [--width 256]
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import build
from models.configs import TransformerConfig
from models.positions import sinusoidal_positions
from tests.benchmarks.runs import spread


class Theirs(nn.Module):
    """torch.nn.Transformer between an embedding and the output layer tied to it."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        D = config.width
        self.embedding = nn.Embedding(config.vocab_size, D)
        nn.init.normal_(self.embedding.weight, std=D**-0.5)
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = nn.Transformer(
            D, config.heads, config.layers, config.layers, config.feed_forward_width,
            dropout=config.dropout, batch_first=True, norm_first=config.norm_order == "pre",
        )  # fmt: skip
        self.register_buffer("places", sinusoidal_positions(torch.arange(512), D))

    def embed(self, tokens: Tensor) -> Tensor:
        """Vectors (B, T, D) of tokens (B, T)."""
        x = self.embedding(tokens) * self.embedding.embedding_dim**0.5
        return self.dropout(x + self.places[: tokens.shape[1]])

    def forward(self, source, target, mask, targets, counted, smoothing) -> Tensor:
        """The summed loss of the targets that count."""
        T = target.shape[1]
        causal = torch.ones(T, T, dtype=torch.bool).triu(1)
        hidden = self.transformer(
            self.embed(source), self.embed(target), tgt_mask=causal, tgt_is_causal=True,
            src_key_padding_mask=~mask, memory_key_padding_mask=~mask,
        )  # fmt: skip
        logits = functional.linear(hidden, self.embedding.weight)
        labels = torch.where(counted, targets, -100)
        return functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), reduction="sum",
            label_smoothing=smoothing,
        )  # fmt: skip


def step(model: nn.Module, batch: tuple, precision: str) -> float:
    """Processor seconds of a forward and a backward pass."""
    begun = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = model(*batch, 0.1)
    loss.backward()
    model.zero_grad()
    return time.process_time() - begun


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rounds", type=int, default=8)
parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
parser.add_argument("--width", type=int, default=256)
parser.add_argument("--tokens", type=int, default=48, help="of source and target")
options = parser.parse_args()
torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
B, S, V = 32, options.tokens, 8000
source, target = (torch.randint(V, (B, S), generator=draw) for _ in range(2))
lengths = torch.randint(S // 2, S + 1, (2, B, 1), generator=draw)
mask, counted = torch.arange(S) < lengths[0], torch.arange(S) < lengths[1]
batch = (source, target, mask, target.roll(-1, 1), counted)
for order in ("post", "pre"):
    for dropout in (0.0, 0.1):
        config = TransformerConfig(
            vocab_size=V, max_positions=512, layers=3, width=options.width,
            heads=options.width // 64, norm_order=order, dropout=dropout,
        )  # fmt: skip
        models = [build(config).train(), Theirs(config).train()]
        ratios = []
        for _ in range(options.rounds + 2):
            ours, theirs = (step(model, batch, options.precision) for model in models)
            ratios.append(theirs / ours)
        print(
            f"{options.precision} {order}-norm, dropout {dropout}: speed of ours / torch's "
            f"{spread(ratios[2:])}"
        )
