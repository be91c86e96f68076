"""Text from a model: the prompts in one pass, then one token at a time over cached keys and values.

B rows, T0 tokens of the longest prompt, n new tokens, V vocabulary.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.cache import Cache
from models.decoding.sampling import Sampling, chosen_logprobs, draw, penalised, row_seeds
from models.decoding.stepping import TextModel, evaluating, stepping

PADDING = 0  # stands before shorter prompts; any token would do, for nothing looks at it
Prompts = Tensor | Sequence[Sequence[int]]
Halt = Callable[[int, int], bool]


@dataclass(frozen=True)
class Generated:
    """What was written behind the prompts."""

    tokens: Tensor
    """int64 (B, n): new tokens; behind the end of a row stands its last one again."""
    mask: Tensor
    """bool (B, n): which of them belong to their row, the one that ended it too."""
    logprobs: Tensor | None
    """fp32 (B, n), in nats, by the model itself: before penalty, filters and, unless it was asked
    for with `tempered`, temperature."""

    def rows(self) -> list[list[int]]:
        """The new tokens of each row, as far as it goes."""
        return [row[kept].tolist() for row, kept in zip(self.tokens, self.mask, strict=True)]


@dataclass(frozen=True)
class Written:
    """One more token for each row."""

    tokens: Tensor
    """int64 (B,)."""
    running: Tensor
    """bool (B,), on the CPU: rows that had not ended before, to which it belongs."""
    logprobs: Tensor | None
    """fp32 (B,)."""


def generate(
    model: TextModel,
    prompts: Prompts,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    *,
    seeds: Sequence[int] | None = None,
    stop_tokens: Collection[int] = (),
    halt: Halt | None = None,
    logprobs: bool = False,
    tempered: bool = False,
    copies: Sequence[int] | None = None,
) -> Generated:
    """Continue prompts; the arguments are those of `stream`. The result may be trained on."""
    steps = list(
        stream(
            model, prompts, max_new_tokens, sampling,
            seeds=seeds, stop_tokens=stop_tokens, halt=halt,
            logprobs=logprobs, tempered=tempered, copies=copies,
        )
    )  # fmt: skip
    # Stacked outside of inference mode: autograd refuses tensors that were born in it.
    return Generated(
        torch.stack([step.tokens for step in steps], 1),
        torch.stack([step.running for step in steps], 1).to(steps[0].tokens.device),
        torch.stack([s.logprobs for s in steps if s.logprobs is not None], 1) if logprobs else None,
    )


@torch.inference_mode()
def stream(
    model: TextModel,
    prompts: Prompts,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    *,
    seeds: Sequence[int] | None = None,
    stop_tokens: Collection[int] = (),
    halt: Halt | None = None,
    logprobs: bool = False,
    tempered: bool = False,
    copies: Sequence[int] | None = None,
) -> Iterator[Written]:
    """Continue prompts, one token for each row at a time, until all rows have ended.

    Each row is continued as it would be alone, whatever the others are, but for the rounding of
    sums, which changes a choice between equals.

    Args:
        model: the model; each pass leaves it in the mode, training or not, in which it came.
        prompts: B rows of tokens, a tensor (B, T0) or lists of any lengths.
        max_new_tokens: most tokens to add to each.
        sampling: how a token is chosen; None: drawn as the model says.
        seeds: one for each row, from which its draws follow; None: `row_seeds` of 0.
        stop_tokens: tokens that end a row.
        halt: called with the number and the new token of each row that goes on; true ends it.
        logprobs: also tell how likely each token was.
        tempered: tell it of the logits divided by the temperature, which must be above 0.
        copies: how many rows continue each prompt, which is read once; B counts all of them. None:
            one each.

    Raises:
        ValueError: a prompt is empty or has no token of the model, prompt and new tokens exceed
            `max_positions`, a stop token is unknown, or seeds are too few or many.
    """
    sampling = sampling or Sampling()
    device = model.head_weight.device
    tokens, starts = pad_left(prompts, device)  # (B, T0), (B,) or None
    T0 = tokens.shape[1]
    B = len(tokens) if copies is None else sum(copies)
    check(model, tokens, max_new_tokens, stop_tokens)
    seeds = row_seeds(0, B) if seeds is None else seeds
    if len(seeds) != B:
        raise ValueError(f"there are {len(seeds)} seeds for {B} prompts; give one for each")
    cache = model.new_cache(T0 + max_new_tokens - 1, starts)  # the last token is never fed back
    logits = prefill(model, tokens, cache)
    if copies is not None:
        again = torch.arange(len(tokens)).repeat_interleave(torch.tensor(copies)).to(device)
        cache.select(again)
        logits, tokens = logits[again], tokens[again]  # (B, V), (B, T0)
    step = stepping(model, cache, B, max_new_tokens - 1)
    seen = None
    if sampling.repetition_penalty != 1:
        seen = _tokens_of(tokens, cache.starts, logits.shape[-1])  # (B, V)
    stops = torch.tensor(sorted(stop_tokens), dtype=tokens.dtype, device=device)
    running = torch.ones(B, dtype=torch.bool)
    last = tokens[:, -1]
    for place in range(max_new_tokens):
        ready = logits
        if seen is not None:
            # A stop token is exempt: the one that begins a text would put off its end.
            seen[:, stops] = False
            ready = penalised(logits.float(), seen, sampling.repetition_penalty)
        drawn = draw(ready, sampling, seeds, place)  # (B,)
        # A row that has ended repeats its last token.
        last = torch.where(running.to(device), drawn, last) if not running.all() else drawn
        likely = None
        if logprobs:
            likely = chosen_logprobs(logits / sampling.temperature if tempered else logits, last)
        yield Written(last, running, likely)
        if len(stops):
            running = running & ~torch.isin(last, stops).cpu()
        if halt is not None:
            rows = zip(running.tolist(), last.tolist(), strict=True)
            more = [on and not halt(b, token) for b, (on, token) in enumerate(rows)]
            running = torch.tensor(more)
        if place + 1 == max_new_tokens or not running.any():
            return
        if seen is not None:
            seen[torch.arange(B, device=device), last] = True
        logits = step(last)


def prefill(model: TextModel, tokens: Tensor, cache: Cache) -> Tensor:
    """Read prompts (B, T0) into an empty cache: the logits (B, V) behind them, and no others."""
    with evaluating(model):
        return model.next_logits(tokens, cache)


def pad_left(prompts: Prompts, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Rows that end together, int64 (B, T0), and where each starts, (B,); None if all at 0.

    Raises:
        ValueError: there is no prompt, or an empty one.
    """
    if isinstance(prompts, Tensor):
        if prompts.ndim != 2 or prompts.numel() == 0:
            raise ValueError(
                f"prompts has shape {tuple(prompts.shape)}; it must be (B, T0) with at least one "
                "row and one token"
            )
        return prompts.to(device), None
    lengths = [len(row) for row in prompts]
    if not lengths or 0 in lengths:
        where = f"prompt number {lengths.index(0)} (from 0) is empty" if lengths else "no prompt"
        raise ValueError(f"{where}; give at least one token to continue")
    T0 = max(lengths)
    rows = [[PADDING] * (T0 - len(row)) + list(row) for row in prompts]
    tokens = torch.tensor(rows, device=device)
    if min(lengths) == T0:
        return tokens, None
    return tokens, T0 - torch.tensor(lengths, device=device)


def pad_right(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows that begin together, int64 (B, T), and where they are no padding, bool (B, T).

    Raises:
        ValueError: there is no text, or an empty one.
    """
    lengths = [len(text) for text in texts]
    if not lengths or 0 in lengths:
        where = f"text number {lengths.index(0)} (from 0) is empty" if lengths else "no text"
        raise ValueError(f"{where}; give at least one token")
    T = max(lengths)
    rows = [[*text, *[PADDING] * (T - len(text))] for text in texts]
    mask = torch.arange(T) < torch.tensor(lengths)[:, None]
    return torch.tensor(rows, device=device), mask.to(device)


def check(
    model: TextModel, tokens: Tensor, max_new_tokens: int, stop_tokens: Collection[int] = ()
) -> None:
    """Raise ValueError for rows (B, T0) that cannot be continued so far by this model."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    T0, longest = tokens.shape[1], model.config.max_positions
    if T0 + max_new_tokens > longest:
        remedy = f"give at most {max(longest - T0, 0)} new tokens, or a shorter prompt"
        raise ValueError(
            f"a prompt of {T0} tokens and max_new_tokens={max_new_tokens} make "
            f"{T0 + max_new_tokens}, above model.max_positions={longest}; {remedy}"
        )
    vocab_size = len(model.head_weight)
    for name, found in (("prompts", map(int, tokens.aminmax())), ("stop_tokens", stop_tokens)):
        outside = [token for token in found if not 0 <= token < vocab_size]
        if outside:
            raise ValueError(
                f"{name} has {outside[0]}, which is outside the vocabulary of {vocab_size} tokens"
            )


def _tokens_of(tokens: Tensor, starts: Tensor | None, vocab_size: int) -> Tensor:
    """Which tokens each row of (B, T0) has, bool (B, V), without its padding."""
    B, T0 = tokens.shape
    seen = torch.zeros(B, vocab_size, dtype=torch.int64, device=tokens.device)
    real = torch.ones_like(tokens)
    if starts is not None:
        real = (torch.arange(T0, device=tokens.device) >= starts[:, None]).long()
    return seen.scatter_add(1, tokens, real) > 0
