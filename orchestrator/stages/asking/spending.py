"""What asking takes: tokens and money, before as far as it can be known, and after."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from data.messages import counted
from orchestrator.stages.asking.requests import Reply, Request
from orchestrator.stages.asking.section import AskedConfig

CHARACTERS = 4  # of a token of English text, about, where the tokenizer is the server's
MILLION = 1e6


@dataclass
class Spent:
    """What was asked for in this run, over all ranks."""

    asked: int = 0
    """Requests that were sent or computed."""
    known: int = 0
    """Requests that had been answered before."""
    tokens_in: int = 0
    tokens_out: int = 0
    """Of what was asked in this run."""
    problems: dict[str, int] = field(default_factory=dict)
    """Requests without an answer, by why."""
    again: dict[str, int] = field(default_factory=dict)
    """What passed when a request was sent again, and how often."""

    def notices(self) -> list[str]:
        """What a reader should know of it, in sentences."""
        none = sorted(self.problems.items())
        again = ", ".join(f"{number:,} x {what}" for what, number in sorted(self.again.items()))
        return [
            *(f"{counted(n, 'request')} without an answer: {why}" for why, n in none),
            *([f"requests were sent again after {again}"] if again else []),
        ]

    def count(self, reply: Reply) -> None:
        """Count a request that was asked now."""
        self.asked += 1
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out
        if reply.problem is not None:
            self.problems[reply.problem] = self.problems.get(reply.problem, 0) + 1

    def add(self, other: "Spent") -> None:
        """Count another one, too."""
        self.asked += other.asked
        self.known += other.known
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out
        for own, others in ((self.problems, other.problems), (self.again, other.again)):
            for what, number in others.items():
                own[what] = own.get(what, 0) + number


def money(config: AskedConfig, tokens_in: float, tokens_out: float) -> float | None:
    """What so many tokens cost. None: no price is known."""
    if config.price_in is None and config.price_out is None:
        return None
    return ((config.price_in or 0) * tokens_in + (config.price_out or 0) * tokens_out) / MILLION


def expected(config: AskedConfig, requests: Iterable[Request], each: int) -> str:
    """What requests to an endpoint will take, for a plan.

    Args:
        config: of the endpoint.
        requests: all of them; what is not known yet as long as it may get.
        each: pairs or prompts that they are about.
    """
    own = list(requests)
    tokens_in = sum(len(text) for one in own for _, text in one.messages) / CHARACTERS
    tokens_out = sum(one.most_tokens for one in own)
    price = money(config, tokens_in, tokens_out)
    costs = "no price known" if price is None else f"about {_price(price, each)} in money at most"
    return (
        f"{counted(len(own), 'request')}; about {tokens_in:,.0f} tokens in at {CHARACTERS} "
        f"characters each, at most {tokens_out:,.0f} out; {costs}; what was answered before costs "
        "nothing"
    )


def unknown(tokens: int) -> str:
    """A text of about so many tokens, in the place of one that will be written."""
    return "x" * (CHARACTERS * tokens)


def _price(price: float, each: int) -> str:
    return f"{price:,.4g} ({price / each:,.3g} each)"


def metrics(config: AskedConfig, spent: Spent) -> dict[str, float]:
    """What was taken, for the record."""
    price = money(config, spent.tokens_in, spent.tokens_out)
    found = {name: float(getattr(spent, name)) for name in ("asked", "tokens_in", "tokens_out")}
    return found if price is None else {**found, "money": price}


def told(config: AskedConfig, spent: Spent, each: int) -> dict[str, str]:
    """What was taken, for a table: label and value; nothing where nobody was asked.

    Args:
        config: of the one that was asked.
        spent: what was asked for.
        each: pairs or prompts that it was about.
    """
    if not spent.asked and not spent.known:
        return {}
    price = money(config, spent.tokens_in, spent.tokens_out)
    rows = {
        "requests": f"{spent.asked:,}, and {spent.known:,} answered before",
        "tokens in, out": f"{spent.tokens_in:,}, {spent.tokens_out:,}",
    }
    if price is not None:
        rows["money"] = _price(price, each)
    return rows
