"""Text from a model: the prompt in one pass, then one token at a time over cached keys and values.

B batch, T time (tokens), V vocabulary.
"""

from collections.abc import Collection

import torch
from torch import Tensor

from models.gpt import GPT
from models.layers import KVCache

TINY = torch.finfo(torch.float32).tiny  # a number below it becomes 0 where fp32 is divided by it


def generate(
    model: GPT,
    prompt: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_tokens: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue prompts (B, T0), int64 and all of one length: (B, T0 + n), n <= max_new_tokens.

    A row that draws a stop token is filled up with it; when all rows have, the result ends there.
    Dropout is off meanwhile. The result may be trained on.

    Args:
        model: the model; it is left in the mode, training or not, in which it came.
        prompt: tokens to continue, on the model's device.
        max_new_tokens: most tokens to add.
        temperature: what the logits are divided by; 0 takes the likeliest token.
        top_k: draw among the k likeliest tokens only; None: among all.
        top_p: draw among the fewest tokens with this probability together (Holtzman et al. 2020),
            counted after temperature and top_k; None: among all.
        stop_tokens: tokens that end a row.
        generator: source of randomness on the model's device; None: torch's own.

    Raises:
        ValueError: a setting is out of range, or the result would exceed `max_positions`.
    """
    _check(model, prompt, max_new_tokens, temperature, top_k, top_p, stop_tokens)
    B, T0 = prompt.shape
    # Made outside inference mode, filled inside: autograd refuses tensors that were born in it.
    tokens = torch.cat((prompt, prompt.new_empty(B, max_new_tokens)), 1)
    end = T0 + max_new_tokens
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            cache = KVCache(end - 1)  # the last token is never fed back
            stops = torch.tensor(sorted(stop_tokens), dtype=prompt.dtype, device=prompt.device)
            stopped = torch.zeros(B, dtype=torch.bool, device=prompt.device)
            new = prompt  # (B, T0), later (B, 1)
            for position in range(T0, end):
                logits = model.logits(model.hidden(new, cache)[:, -1])  # (B, V)
                drawn = draw(logits.float(), temperature, top_k, top_p, generator)  # (B,)
                # A stopped row repeats its last token, which is the stop token that it drew.
                drawn = torch.where(stopped, tokens[:, position - 1], drawn)
                tokens[:, position] = drawn
                if stop_tokens:
                    stopped |= torch.isin(drawn, stops)
                    if stopped.all():
                        end = position + 1
                        break
                new = drawn[:, None]
    finally:
        for module, training in modes:
            module.training = training
    return tokens[:, :end]


def draw(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose one token per row of logits (B, V): (B,); settings as in `generate`."""
    if temperature == 0:
        return logits.argmax(-1)
    # At most 0, so that a small temperature leads to -inf and never to inf, which becomes nan.
    below = logits - logits.max(-1, keepdim=True).values
    logits = _filter_logits(below / max(temperature, TINY), top_k, top_p)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def _check(
    model: GPT,
    prompt: Tensor,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    stop_tokens: Collection[int],
) -> None:
    """Raise ValueError for what `generate` cannot do."""
    if prompt.ndim != 2 or prompt.numel() == 0:
        raise ValueError(
            f"prompt has shape {tuple(prompt.shape)}; it must be (B, T0) with at least one row "
            "and one token"
        )
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    T0, longest = prompt.shape[1], model.config.max_positions
    if T0 + max_new_tokens > longest:
        remedy = f"give at most {max(longest - T0, 0)} new tokens, or a shorter prompt"
        raise ValueError(
            f"a prompt of {T0} tokens and max_new_tokens={max_new_tokens} make "
            f"{T0 + max_new_tokens}, above model.max_positions={longest}; {remedy}"
        )
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature} must be at least 0 and finite")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} must be at least 1; None draws among all tokens")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must be above 0 and at most 1")
    vocab_size = model.config.vocab_size
    assert vocab_size is not None
    for token in stop_tokens:
        if not 0 <= token < vocab_size:
            raise ValueError(
                f"stop_tokens has {token}, which is outside the vocabulary of {vocab_size} tokens"
            )


def _filter_logits(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Set the logits (B, V) of tokens that may not be drawn to -inf; top_k first, then top_p.

    Equal logits at the edge of the k likeliest are not all kept: exactly k remain.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        kept, index = logits.topk(top_k)  # (B, k)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, index, kept)
    if top_p is not None and top_p < 1:
        ordered, index = logits.sort(descending=True)  # (B, V)
        probabilities = ordered.softmax(-1)
        likelier = probabilities.cumsum(-1) - probabilities  # mass of all tokens before this one
        ordered = ordered.masked_fill(likelier >= top_p, -torch.inf)
        logits = torch.empty_like(logits).scatter(-1, index, ordered)
    return logits
