"""Settings of one that is asked."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from data.addresses import hide, public
from data.files import expand_home
from orchestrator.config.checks import check_at_least, check_choice
from orchestrator.stages.rewards import RULES

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig

OF_ENDPOINT = ("key_variable", "timeout_seconds", "retries", "concurrency", "logprobs")
OF_MODEL = ("batch_size", "chat_template", "least_mass")
PRICES = ("price_in", "price_out")


@dataclass
class AskedConfig:
    """Who answers: a model on this machine, or with `endpoint` a server."""

    model: str | None = None
    """Run folder, checkpoint, folder of Hugging Face, name on its hub or GGUF file of a model that
    answers here; with `endpoint`, the name that the server has for a model."""
    endpoint: str | None = None
    """Address of a server that speaks as OpenAI's does, such as http://127.0.0.1:8000/v1, asked at
    /chat/completions below it. Plain http only on this machine. None: the model answers here."""
    key_variable: str | None = None
    """Environment variable that holds the key for the endpoint. None: no key is sent."""
    timeout_seconds: float = 60.0
    """The longest that one answer of the endpoint may take."""
    retries: int = 5
    """Times that a request is sent again, each time after a longer pause, when the endpoint is
    busy, broken, slow or away."""
    concurrency: int = 8
    """Requests that an endpoint has at a time, from each worker."""
    logprobs: bool = True
    """true: the endpoint is asked for log-probabilities, which tell how sure a choice is; without
    them it is sure or wrong. false: it is not, for servers that refuse to tell."""
    batch_size: int = 16
    """Requests that a model here answers at a time."""
    chat_template: str | None = None
    """A file with the Jinja template of a model here, or a tokenizer_config.json that has one.
    None: that of stage=sft."""
    least_mass: float = 0.5
    """The least probability that a model gives the two words together of which one is to be its
    answer; below it, it has answered neither."""
    price_in: float | None = None
    """Money for a million tokens that are read. None: not known."""
    price_out: float | None = None
    """Money for a million tokens that are written. None: not known."""

    @property
    def asked(self) -> bool:
        """Whether anybody is named at all."""
        return self.model is not None

    @property
    def local(self) -> bool:
        """Whether a model answers on this machine."""
        return self.model is not None and self.endpoint is None

    @property
    def name(self) -> str:
        """Who it is, for a reader."""
        if self.endpoint is not None:
            return f"{self.model} at {public(self.endpoint)}"
        return str(self.model)

    def filled_in(self, where: str) -> None:
        """Expand `~` in paths; `where` is the section's name, for messages."""
        if self.endpoint is None:
            self.model = expand_home(f"{where}.model", self.model)
        self.chat_template = expand_home(f"{where}.chat_template", self.chat_template)

    def check(self, where: str) -> None:
        """Raise ValueError for a value out of its range, or an address that can't be asked."""
        for name, least in (("retries", 0), ("concurrency", 1), ("batch_size", 1)):
            check_at_least(f"{where}.{name}", getattr(self, name), least)
        if not 0 < self.timeout_seconds < math.inf:
            raise ValueError(
                f"{where}.timeout_seconds={self.timeout_seconds} must be greater than 0; try "
                f"{where}.timeout_seconds=60"
            )
        if not 0 <= self.least_mass <= 1:
            raise ValueError(
                f"{where}.least_mass={self.least_mass} must lie in [0, 1]; try "
                f"{where}.least_mass=0.5"
            )
        for name in PRICES:
            price = getattr(self, name)
            if price is not None and not 0 <= price < math.inf:
                raise ValueError(
                    f"{where}.{name}={price} must be at least 0, in money for a million tokens; "
                    f"try {where}.{name}=0.5"
                )
        if self.endpoint is not None:
            self._check_endpoint(where, self.endpoint)

    def _check_endpoint(self, where: str, endpoint: str) -> None:
        shown, parts = hide(endpoint), urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"{where}.endpoint={shown} must be an address; try "
                f"{where}.endpoint=http://127.0.0.1:8000/v1"
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                f"{where}.endpoint={shown} carries more than an address, which every record would "
                f"show; put the key into a variable and name it: {where}.key_variable=NAME"
            )
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise ValueError(
                f"{where}.endpoint={shown} would send texts and key unencrypted to another "
                f"machine; try https://{parts.netloc}{parts.path}"
            )
        if self.model is None:
            raise ValueError(
                f"{where}.endpoint={shown} needs the name that it has for a model; add "
                f"{where}.model=NAME"
            )

    def key(self, where: str) -> str | None:
        """The key for the endpoint, from the environment of this process; None: none is sent.

        Raises:
            ValueError: the variable is not set here.
        """
        if self.key_variable is None or self.endpoint is None:
            return None
        if key := os.environ.get(self.key_variable, "").strip():
            return key
        raise ValueError(
            f"{where}.key_variable={self.key_variable} is not set here; type export "
            f"{self.key_variable}=... first, or leave the setting out where no key is needed"
        )

    def unread(self, where: str) -> dict[str, str]:
        """Settings of the other kind, by their full names, and why."""
        if self.local:
            why = f"it is for an endpoint, and {where}.model answers on this machine"
            return {f"{where}.{name}": why for name in (*OF_ENDPOINT, *PRICES)}
        others = (*OF_MODEL, *(() if self.asked else (*OF_ENDPOINT, *PRICES, "endpoint")))
        why = f"{where}.{'endpoint' if self.asked else 'model'} is what is asked"
        if not self.asked:
            why = f"nobody is asked; add {where}.model=RUN"
        return {f"{where}.{name}": why for name in others}


@dataclass
class JudgeConfig(AskedConfig):
    """Who compares two answers: a model here, which may be a reward model, a server, or a rule."""

    rule: str | None = None
    """A rule in RULES (stages/rewards) in the place of a model: the answer with more of it is the
    better one. It judges form, and is as good as that."""

    def check(self, where: str) -> None:
        """See the base class; also that not two are named."""
        super().check(where)
        if self.rule is None:
            return
        check_choice(f"{where}.rule", self.rule, RULES)
        if self.model is not None or self.endpoint is not None:
            raise ValueError(
                f"{where}.rule={self.rule} and {where}.model={self.model} are two judges; leave "
                "one out"
            )

    @property
    def asked(self) -> bool:
        """See the base class."""
        return self.model is not None or self.rule is not None

    @property
    def name(self) -> str:
        """See the base class."""
        return super().name if self.rule is None else f"the rule {self.rule}"

    def unread(self, where: str) -> dict[str, str]:
        """See the base class."""
        if self.rule is None:
            return super().unread(where)
        why = f"{where}.rule={self.rule} asks no model"
        names = (*OF_ENDPOINT, *PRICES, *OF_MODEL)
        return {f"{where}.{name}": why for name in names}


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_whole(job: JobConfig, *roles: str) -> None:
    """Raise ValueError where a model that is asked would be in shards; it caches what it reads."""
    for name in roles:
        if job.role(name).engine.sharding_stage == 3:
            raise ValueError(
                f"engine.zero_stage=3 has the {name} in shards, and a model that answers must be "
                "whole on each worker; try engine=torch"
            )
