"""Beam search: the continuations that the model finds likeliest, instead of ones that it draws.

G texts that are written at once, W beams of each, V vocabulary.
"""

import heapq
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from models.cache import Cache
from models.decoding.generating import check, pad_left, prefill
from models.decoding.stepping import TextModel, stepping


class Writer(Protocol):
    """A model in the middle of texts, one in each of its rows."""

    def step(self, tokens: Tensor) -> Tensor:
        """The logits (rows, V) of the token after each of tokens (rows,), int64."""

    def select(self, rows: Tensor) -> None:
        """Let row i go on from what row rows[i] has seen, int64; some may be repeated or left."""


@dataclass(frozen=True, order=True)
class Hypothesis:
    """A continuation; they are ordered by score."""

    score: float
    """logprob / length^length_penalty, which beams are compared by."""
    logprob: float
    """Sum over the tokens, in nats."""
    tokens: tuple[int, ...]
    """New tokens, with the stop token if there is one."""


@torch.inference_mode()
def beam_search(
    model: TextModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    beams: int,
    best: int = 1,
    length_penalty: float = 1.0,
    stop_tokens: Collection[int] = (),
) -> list[Hypothesis]:
    """Return the `best` continuations of a prompt; the other arguments are those of `search`.

    Args:
        model: left in the mode in which it came.
        prompt: tokens to continue.
        max_new_tokens: most tokens to add.
        beams: see `search`.
        best: see `search`.
        length_penalty: see `search`.
        stop_tokens: see `search`.

    Raises:
        ValueError: as `stream`; or beams or best is out of range.
    """
    check_beams(beams, best)
    tokens, _ = pad_left([prompt], model.head_weight.device)  # (1, T0)
    check(model, tokens, max_new_tokens, stop_tokens)
    cache = model.new_cache(tokens.shape[1] + max_new_tokens - 1)
    logits = prefill(model, tokens, cache)  # (1, V)
    writer = _StepWriter(model, cache, max_new_tokens)
    (found,) = search(
        logits, writer, max_new_tokens,
        beams=beams, best=best, length_penalty=length_penalty, stop_tokens=stop_tokens,
    )  # fmt: skip
    return found


class _StepWriter:
    """The passes over one token per row, made fast for as many rows as there are."""

    def __init__(self, model: TextModel, cache: Cache, steps: int) -> None:
        self.model, self.cache, self.steps = model, cache, steps
        self.continued: Callable[[Tensor], Tensor] | None = None
        self.rows = 0

    def step(self, tokens: Tensor) -> Tensor:
        self.steps -= 1
        if self.continued is None or len(tokens) != self.rows:
            self.rows = len(tokens)
            self.continued = stepping(self.model, self.cache, self.rows, self.steps, selects=True)
        return self.continued(tokens)

    def select(self, rows: Tensor) -> None:
        self.cache.select(rows)


def check_beams(beams: int, best: int) -> None:
    """Raise ValueError for numbers of beams that make no sense."""
    if beams < 1 or not 1 <= best <= beams:
        raise ValueError(f"beams={beams} must be at least 1, and best={best} from 1 to {beams}")


@dataclass
class _Text:
    """One of the texts: its running beams and the best that have ended."""

    rows: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    """Tokens of each running beam."""
    sums: list[float] = field(default_factory=lambda: [0.0])
    """Their log-probabilities."""
    ended: list[Hypothesis] = field(default_factory=list)
    """A heap, the worst first."""

    def end(self, best: int, score: float, logprob: float, tokens: tuple[int, ...]) -> None:
        heapq.heappush(self.ended, Hypothesis(score, logprob, tokens))
        if len(self.ended) > best:
            heapq.heappop(self.ended)


def search(
    logits: Tensor,
    writer: Writer,
    max_new_tokens: int,
    *,
    beams: int,
    best: int = 1,
    length_penalty: float = 1.0,
    stop_tokens: Collection[int] = (),
) -> list[list[Hypothesis]]:
    """The `best` hypotheses of each text, best first; fewer only where there are fewer.

    In each step every beam is continued by every token, and the `beams` likeliest of its text stay.
    With beams >= V^(max_new_tokens - 1) none is ever dropped, and the result is that of trying all.
    Each text is written as it would be alone, but for the rounding of sums.

    Args:
        logits: (G, V) of the first token of each text.
        writer: has a row for each of them.
        max_new_tokens: most tokens of a text.
        beams: how many are kept of each.
        best: how many are returned of each, at most `beams`.
        length_penalty: power of the length by which a log-probability is divided; 0 favours
            short ones, for each token costs; above 1 favours long ones.
        stop_tokens: tokens that end a hypothesis.
    """
    texts = [_Text() for _ in logits]
    device, V = logits.device, logits.shape[1]
    # So many that the beams stay as many when stop tokens are the likeliest of all.
    looked_at = beams * (1 + len(stop_tokens))
    for length in range(1, max_new_tokens + 1):
        logprobs = logits.float().log_softmax(-1).double().cpu()  # (rows, V)
        origins: list[int] = []  # of each row that goes on
        first = 0  # row of the text at hand
        for text in texts:
            count = len(text.rows)
            if not count:
                continue
            sums = torch.tensor(text.sums, dtype=torch.float64)[:, None]
            totals = (logprobs[first : first + count] + sums).flatten()  # (W x V,)
            found = totals.topk(min(looked_at, len(totals)))
            candidates = zip(found.values.tolist(), found.indices.tolist(), strict=True)
            running: list[tuple[float, int, int]] = []  # (log-probability, beam, token)
            for number, (total, index) in enumerate(candidates):
                beam, token = divmod(index, V)
                if token in stop_tokens or length == max_new_tokens:
                    if number < beams:  # a less likely one would be no beam either
                        score = total / length**length_penalty
                        text.end(best, score, total, (*text.rows[beam], token))
                elif len(running) < beams:
                    running.append((total, beam, token))
            if running and _settled(
                text.ended, best, running[0][0], length, max_new_tokens, length_penalty
            ):
                running = []
            text.sums = [total for total, _, _ in running]
            text.rows = [(*text.rows[beam], token) for _, beam, token in running]
            origins += [first + beam for _, beam, _ in running]
            first += count
        if not origins:
            break
        writer.select(torch.tensor(origins, device=device))
        last = [row[-1] for text in texts for row in text.rows]
        logits = writer.step(torch.tensor(last, device=device))
    return [sorted(text.ended, reverse=True) for text in texts]


def _settled(
    ended: list[Hypothesis],
    best: int,
    logprob: float,
    length: int,
    longest: int,
    length_penalty: float,
) -> bool:
    """Whether no running beam can still get among the best.

    `logprob` is that of the likeliest beam, and falls with every token; what it is divided by may
    rise up to the longest.
    """
    if len(ended) < best:
        return False
    bound: float = max(logprob / n**length_penalty for n in (length + 1, longest))
    return bound <= ended[0].score
