"""Beam search: the continuations that the model finds likeliest, instead of ones that it draws.

W beams, V vocabulary.
"""

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from models.decoding.generating import check, pad_left, prefill
from models.decoding.stepping import Stepper, new_stepper
from models.language import LanguageModel


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
    model: LanguageModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    beams: int,
    best: int = 1,
    length_penalty: float = 1.0,
    stop_tokens: Collection[int] = (),
) -> list[Hypothesis]:
    """Return the `best` hypotheses found, best first; fewer only where there are fewer.

    In each step every beam is continued by every token, and the `beams` likeliest stay. With
    beams >= V^(max_new_tokens - 1) none is ever dropped, and the result is that of trying all.

    Args:
        model: left in the mode in which it came.
        prompt: tokens to continue.
        max_new_tokens: most tokens to add.
        beams: how many are kept.
        best: how many are returned, at most `beams`.
        length_penalty: power of the length by which a log-probability is divided; 0 favours
            short ones, for each token costs; above 1 favours long ones.
        stop_tokens: tokens that end a hypothesis.

    Raises:
        ValueError: as `stream`; or beams or best is out of range.
    """
    if beams < 1 or not 1 <= best <= beams:
        raise ValueError(f"beams={beams} must be at least 1, and best={best} from 1 to {beams}")
    tokens, _ = pad_left([prompt], model.head_weight.device)  # (1, T0)
    check(model, tokens, max_new_tokens, stop_tokens)
    cache = model.new_cache(tokens.shape[1] + max_new_tokens - 1)
    logprobs = prefill(model, tokens, cache).float().log_softmax(-1)  # (1, V)
    stepper: Stepper | None = None
    rows: list[tuple[int, ...]] = [()]  # the tokens of each running beam
    sums = [0.0]  # their log-probabilities
    ended: list[Hypothesis] = []  # a heap of the best so far, the worst first

    def end(logprob: float, tokens: tuple[int, ...]) -> None:
        score = logprob / len(tokens) ** length_penalty
        heapq.heappush(ended, Hypothesis(score, logprob, tokens))
        if len(ended) > best:
            heapq.heappop(ended)

    for length in range(1, max_new_tokens + 1):
        totals = (
            logprobs.double().cpu() + torch.tensor(sums, dtype=torch.float64)[:, None]
        )  # (W, V)
        V = totals.shape[1]
        # So many that the beams stay as many when stop tokens are the likeliest of all.
        found = totals.flatten().topk(min(beams * (1 + len(stop_tokens)), totals.numel()))
        candidates = list(zip(found.values.tolist(), found.indices.tolist(), strict=True))
        running: list[tuple[float, int, int]] = []  # (log-probability, beam, token)
        for number, (total, index) in enumerate(candidates):
            beam, token = divmod(index, V)
            if token in stop_tokens or length == max_new_tokens:
                if number < beams:  # a less likely one would be no beam either
                    end(total, (*rows[beam], token))
            elif len(running) < beams:
                running.append((total, beam, token))
        if not running or _settled(
            ended, best, running[0][0], length, max_new_tokens, length_penalty
        ):
            break
        sums = [total for total, _, _ in running]
        rows = [(*rows[beam], token) for _, beam, token in running]
        origins = torch.tensor([beam for _, beam, _ in running], device=tokens.device)
        cache.select(origins)
        if stepper is None or len(origins) != len(logprobs):
            stepper = new_stepper(model, cache, len(origins), max_new_tokens - length)
        last = torch.tensor([row[-1] for row in rows], device=tokens.device)
        logprobs = stepper.step(last).float().log_softmax(-1)  # (W, V)
    return sorted(ended, reverse=True)


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
