"""Target texts of an encoder-decoder: the sources in one pass, then a token of each at a time.

B texts, S source tokens, T target tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from models.cache import KeysValues, KVCache
from models.configs import TokenModelConfig
from models.decoding.beams import Hypothesis, check_beams, search
from models.decoding.generating import pad_right
from models.decoding.stepping import evaluating


class EncoderDecoder(Protocol):
    """A model that reads a source as a whole; see `Transformer`."""

    @property
    def config(self) -> TokenModelConfig:
        """Its sizes and choices."""

    @property
    def head_weight(self) -> Tensor:
        """The weights (V, D) of the output layer."""

    def encode(self, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """A vector for each token of source (B, S): (B, S, D)."""

    def memory(self, encoded: Tensor) -> list[KeysValues]:
        """What the decoder keeps of an encoded source."""

    def decode(
        self,
        target: Tensor,
        memory: list[KeysValues],
        source_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """What `logits` takes, of target (B, T), behind the tokens of a cache."""

    def logits(self, hidden: Tensor) -> Tensor:
        """The logits (B, T, V) of what `decode` gives."""


class TargetWriter:
    """A decoder in the middle of its texts; what it knows of the sources is computed once."""

    def __init__(self, model: EncoderDecoder, source: Tensor, mask: Tensor, longest: int) -> None:
        """Encode sources (B, S), padded where mask (B, S) is false, for `longest` target tokens."""
        self.model, self.mask = model, mask
        self.memory = model.memory(model.encode(source, mask))
        self.cache = KVCache(longest)

    def step(self, tokens: Tensor) -> Tensor:
        """The logits (B, V) of the token after each of tokens (B,)."""
        hidden = self.model.decode(tokens[:, None], self.memory, self.mask, self.cache)
        return self.model.logits(hidden[:, -1])

    def select(self, rows: Tensor) -> None:
        """Let row i go on from what row rows[i] has seen."""
        self.cache.select(rows)
        self.mask = self.mask[rows]
        self.memory = [(keys[rows], values[rows]) for keys, values in self.memory]


@torch.inference_mode()
def translate(
    model: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    end: int,
    beams: int = 1,
    best: int = 1,
    length_penalty: float = 1.0,
) -> list[list[Hypothesis]]:
    """The `best` translations of each source, best first.

    Args:
        model: left in the mode in which it came.
        sources: tokens of each, with the token that ends a text.
        max_new_tokens: most tokens of a translation, that token included.
        end: the token that ends a text; a target begins behind it, unless the model says another.
        beams: how many are kept of each source; 1: the likeliest token is taken each time, and
            the first end is the end.
        best: how many are returned of each source, at most `beams`.
        length_penalty: see `search`.

    Raises:
        ValueError: a source is empty or too long, more new tokens are asked for than the model has
            positions, or beams or best is out of range.
    """
    check_beams(beams, best)
    longest = model.config.max_positions
    if not 1 <= max_new_tokens <= longest:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} must be from 1 to model.max_positions={longest}"
        )
    source, mask = pad_right(sources, model.head_weight.device)  # (B, S)
    with evaluating(model):
        writer = TargetWriter(model, source, mask, max_new_tokens)
        start = model.config.target_start
        first = torch.full((len(sources),), end if start is None else start, device=source.device)
        logits = writer.step(first)  # (B, V)
        if beams == 1:
            return [[one] for one in _greedy(logits, writer, max_new_tokens, end, length_penalty)]
        return search(
            logits, writer, max_new_tokens,
            beams=beams, best=best, length_penalty=length_penalty, stop_tokens=(end,),
        )  # fmt: skip


def _greedy(
    logits: Tensor, writer: TargetWriter, max_new_tokens: int, end: int, length_penalty: float
) -> list[Hypothesis]:
    """The text of each row of logits (B, V), by its likeliest token each time."""
    texts: list[list[int]] = [[] for _ in logits]
    sums = [0.0] * len(texts)
    running = list(range(len(texts)))
    for length in range(1, max_new_tokens + 1):
        chosen = logits.float().log_softmax(-1).max(-1)
        pairs = zip(running, chosen.values.tolist(), chosen.indices.tolist(), strict=True)
        for row, logprob, token in pairs:
            texts[row].append(token)
            sums[row] += logprob
        going = [place for place, row in enumerate(running) if texts[row][-1] != end]
        if not going or length == max_new_tokens:
            break
        rows = torch.tensor(going, device=logits.device)
        if len(going) < len(running):
            writer.select(rows)
        running = [running[place] for place in going]
        logits = writer.step(chosen.indices[rows])
    return [
        Hypothesis(total / len(text) ** length_penalty, total, tuple(text))
        for text, total in zip(texts, sums, strict=True)
    ]
