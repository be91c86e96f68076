"""What asking takes: tokens and money, before as far as it can be known, and after."""

from collections.abc import Iterable

from data.messages import counted
from orchestrator.stages.asking.answers import Spent
from orchestrator.stages.asking.requests import Request
from orchestrator.stages.asking.section import AskedConfig

CHARACTERS = 4  # of a token of English text, about, where the tokenizer is the server's
MILLION = 1e6


def money(config: AskedConfig, tokens_in: float, tokens_out: float) -> float | None:
    """What so many tokens cost. None: no price is known."""
    if config.price_in is None and config.price_out is None:
        return None
    return ((config.price_in or 0) * tokens_in + (config.price_out or 0) * tokens_out) / MILLION


def expected(config: AskedConfig, requests: Iterable[Request], most: int = 0) -> str:
    """What requests to an endpoint will take, for a plan.

    Args:
        config: of the endpoint.
        requests: those that are known beforehand.
        most: further requests, as long as these, whose texts are not known yet.
    """
    own = list(requests)
    characters = sum(len(text) for one in own for _, text in one.messages)
    calls = len(own) + most
    scale = calls / max(len(own), 1)
    tokens_in = scale * characters / CHARACTERS
    tokens_out = scale * sum(one.most_tokens for one in own)
    price = money(config, tokens_in, tokens_out)
    costs = "no price known" if price is None else f"at most {price:,.4g} in money"
    return (
        f"{counted(calls, 'request')}; about {tokens_in:,.0f} tokens in at {CHARACTERS} characters "
        f"each, at most {tokens_out:,.0f} out; {costs}; what was answered before costs nothing"
    )


def metrics(config: AskedConfig, spent: Spent) -> dict[str, float]:
    """What was taken, for the record."""
    price = money(config, spent.tokens_in, spent.tokens_out)
    found = {name: float(getattr(spent, name)) for name in ("asked", "tokens_in", "tokens_out")}
    return found if price is None else {**found, "money": price}


def told(config: AskedConfig, spent: Spent) -> dict[str, str]:
    """What was taken, for a table: label and value; nothing where nobody was asked."""
    if not spent.asked and not spent.known:
        return {}
    price = money(config, spent.tokens_in, spent.tokens_out)
    rows = {
        "requests": f"{spent.asked:,}, and {spent.known:,} answered before",
        "tokens in, out": f"{spent.tokens_in:,}, {spent.tokens_out:,}",
    }
    if price is not None:
        rows["money"] = f"{price:,.4g}"
    return rows
