"""A server that speaks as OpenAI's does, asked at /chat/completions: vLLM, llama.cpp, and others.

Each request is a POST by one of some threads. What passes (429, 5xx, no connection, too slow, no
JSON) is tried again after a longer pause each time, or after that which the server asks for. What
does not pass ends the asking: a key that is refused, an address that is none, a redirection, which
nobody follows with a key in hand. A request that alone is refused (400, 413, 422) has no answer.
"""

import json
import math
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from data.addresses import HIDDEN
from data.messages import cut
from orchestrator.stages.asking.requests import WORDS, Reply, Request
from orchestrator.stages.asking.section import AskedConfig, is_loopback

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
MOST_BYTES = 2**22  # of an answer
ALTERNATIVES = 20  # tokens whose log-probabilities are asked for; the most that OpenAI tells
REFUSED_ALONE = (400, 413, 422)  # this request, such as one that is too long; others may pass
PASSES = (408, 409, 425, 429)  # and all from 500 on
WORD = re.compile(rf"\W*(?:answer\W+)?({'|'.join(WORDS)})\W*", re.IGNORECASE)
SAID = 200  # characters of what a server says in a message


class EndpointAway(Exception):
    """The endpoint did not answer a request, however often it was asked; says what to type."""


class EndpointRefused(Exception):
    """The endpoint will answer no request as it is asked; says what to type."""


class _Passing(Exception):
    """What may pass when it is tried again: why, and for how many seconds the server asks."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """A key must not follow to wherever a server points."""

    def redirect_request(self, *args: Any, **named: Any) -> None:
        """None: the answer stays what it is, and is told."""


class Endpoint:
    """Answers by asking a server."""

    def __init__(self, config: AskedConfig, where: str) -> None:
        """Ask as `config` says, whose section is `where`; takes the key from the environment.

        Raises:
            ValueError: the key is not set here.
        """
        assert config.endpoint is not None
        self._config, self._where = config, where
        self._url = f"{config.endpoint.rstrip('/')}/chat/completions"
        self._key = config.key(where)
        self.who = f"{config.endpoint.rstrip('/')} {config.model} {config.logprobs}"
        self.again: dict[str, int] = {}
        self._lock = threading.Lock()
        # Not through a proxy to this machine itself, where nobody outside could be meant.
        local = is_loopback(urlsplit(self._url).hostname or "")
        proxies = (urllib.request.ProxyHandler({}),) if local else ()
        self._opener = urllib.request.build_opener(_NoRedirection(), *proxies)
        self._over = threading.Event()

    def ask(self, requests: Sequence[Request]) -> Generator[tuple[int, Reply]]:
        """See `Asked`. The first request goes alone: what is wrong with all is known by it.

        Raises:
            EndpointAway: no answer came within the retries.
            EndpointRefused: the server wants another key, address or request.
        """
        if not requests:
            return
        first = self._answer(requests[0])
        if first.problem is not None:
            raise EndpointRefused(
                f"{self._url} refuses the first request: {first.problem}; see "
                f"{self._where}.model={self._config.model}, {self._where}.logprobs=false for a "
                "server without log-probabilities, and how long the texts are"
            )
        yield 0, first
        pool = ThreadPoolExecutor(self._config.concurrency, "endpoint")
        try:
            yield from self._in_parallel(pool, requests)
        finally:
            self._over.set()  # whoever waits for the next try gives up
            pool.shutdown(wait=True, cancel_futures=True)
            self._over.clear()

    def _in_parallel(
        self, pool: ThreadPoolExecutor, requests: Sequence[Request]
    ) -> Iterator[tuple[int, Reply]]:
        """All but the first, so many at a time that none waits long in the pool.

        When one fails, those under way are waited for: what was answered is paid for.
        """
        under_way: dict[Future[Reply], int] = {}
        places = iter(range(1, len(requests)))
        failure: BaseException | None = None
        while True:
            while failure is None and len(under_way) < 2 * self._config.concurrency:
                place = next(places, None)
                if place is None:
                    break
                under_way[pool.submit(self._answer, requests[place])] = place
            if not under_way:
                break
            for done in wait(under_way, return_when=FIRST_COMPLETED).done:
                place = under_way.pop(done)
                error = done.exception()
                if error is None:
                    yield place, done.result()
                elif failure is None:
                    failure = error
                    self._over.set()  # whoever waits for the next try gives up
                    for other in [own for own in under_way if own.cancel()]:
                        del under_way[other]
        if failure is not None:
            raise failure

    def _answer(self, request: Request) -> Reply:
        """The reply to one request, after as many tries as it takes."""
        body = json.dumps(self._body(request)).encode()
        pause = FIRST_PAUSE_S
        for tried in range(self._config.retries + 1):
            try:
                return self._reply(request, self._post(body))
            except _Passing as error:
                why = str(error)
                with self._lock:
                    self.again[why] = self.again.get(why, 0) + 1
                if tried == self._config.retries:
                    break
                # Spread, so that those who failed together do not come back together.
                wait_s = error.wait_s or pause * random.uniform(0.5, 1.0)
                if self._over.wait(min(wait_s, LONGEST_PAUSE_S)):
                    break
                pause = min(2 * pause, LONGEST_PAUSE_S)
        if why == NO_ANSWER:
            return Reply("", 0, 0, problem=why)
        tries = self._config.retries + 1
        raise EndpointAway(
            f"{self._url} gave no answer in {tries} tries ({why}), and what it has answered is "
            "kept; see whether it is up, then type the same again, with a larger "
            f"{self._where}.timeout_seconds if it is slow"
        )

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": [{"role": role, "content": text} for role, text in request.messages],
            "max_tokens": request.most_tokens,
            "temperature": request.temperature,
        }
        if request.temperature:
            body["seed"] = request.seed % 2**31
        if request.choice and self._config.logprobs:
            body |= {"logprobs": True, "top_logprobs": ALTERNATIVES}
        return body

    def _post(self, body: bytes) -> Any:
        """The JSON that the server answers, or its refusal of this request as a problem."""
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        asked = urllib.request.Request(self._url, body, headers)
        limit = self._config.timeout_seconds
        until = time.monotonic() + limit
        try:
            with self._opener.open(asked, timeout=limit) as answer:
                return json.loads(_read(answer, until))
        except urllib.error.HTTPError as error:
            return self._refusal(error)
        except TimeoutError:
            raise _Passing(f"no answer within {limit:g} s") from None
        except ValueError:
            raise _Passing(NO_ANSWER) from None
        except (OSError, HTTPException) as error:
            if isinstance(getattr(error, "reason", None), TimeoutError):
                raise _Passing(f"no answer within {limit:g} s") from None
            reason = getattr(error, "reason", error)
            why = getattr(reason, "strerror", None) or type(reason).__name__
            raise _Passing(f"no connection: {why}") from None

    def _refusal(self, error: urllib.error.HTTPError) -> dict[str, str]:
        """A problem of this request, as an answer; whatever else a status means is raised."""
        status = error.code
        if status in PASSES or status >= 500:
            raise _Passing(f"HTTP {status}", _seconds(error.headers.get("Retry-After"))) from None
        try:
            said = error.read(MOST_BYTES).decode(errors="replace")
        except (OSError, HTTPException):
            said = ""
        said = cut(self._without_key(_message(said)), SAID)
        if status in REFUSED_ALONE:
            return {"problem": f"HTTP {status} {said}".strip()}
        own = self._where
        remedy = {
            401: f"name the variable with the right key: {own}.key_variable=NAME",
            403: f"name the variable with the right key: {own}.key_variable=NAME",
            404: f"see whether {own}.endpoint={self._config.endpoint} ends as the server wants it "
            f"(/v1), and whether it has {own}.model={self._config.model}",
        }
        what = "points elsewhere" if 300 <= status < 400 else "refuses"
        raise EndpointRefused(
            f"{self._url} {what}: HTTP {status} {said}".rstrip()
            + f"; {remedy.get(status, f'give its right address as {own}.endpoint')}"
        )

    def _without_key(self, text: str) -> str:
        return text if self._key is None else text.replace(self._key, HIDDEN)

    def _reply(self, request: Request, answer: Any) -> Reply:
        """What a server's JSON says. Raises _Passing if it says nothing."""
        if isinstance(answer, dict) and "problem" in answer:
            return Reply("", 0, 0, problem=answer["problem"])
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"]
            usage = answer.get("usage") or {}
            read, written = (int(usage.get(f"{n}_tokens") or 0) for n in ("prompt", "completion"))
        except (TypeError, KeyError, IndexError, AttributeError, ValueError):
            raise _Passing(NO_ANSWER) from None
        if not isinstance(text, str):
            raise _Passing(NO_ANSWER)
        chance = _chance(text, choice.get("logprobs")) if request.choice else None
        return Reply(self._without_key(text.strip()), read, written, chance)


NO_ANSWER = "an answer that holds no text"


def _read(answer: HTTPResponse, until: float) -> bytes:
    """The body, if it is not too long and comes in time: a limit of a socket is one of each part.

    Raises:
        TimeoutError: it takes too long.
        ValueError: it is too long.
    """
    found = bytearray()
    while part := answer.read1(1 << 16):
        found += part
        if time.monotonic() > until:
            raise TimeoutError
        if len(found) > MOST_BYTES:
            raise ValueError
    return bytes(found)


def _chance(text: str, logprobs: Any) -> float | None:
    """How likely the first of WORDS is against the second; None: neither was answered.

    By the log-probabilities of the first token where the server tells them, else 1 or 0. The text
    decides whether one of the two was answered at all.
    """
    found = WORD.fullmatch(text.strip())
    if found is None:
        return None
    said = found[1].upper()
    masses = dict.fromkeys(WORDS, 0.0)
    try:
        for one in logprobs["content"][0]["top_logprobs"]:
            word = str(one["token"]).strip().upper()
            if word in masses:
                masses[word] += math.exp(min(float(one["logprob"]), 0.0))
    except (TypeError, KeyError, IndexError, ValueError):
        pass  # it tells none, or in another form
    if masses[said] <= 0:  # or none of the word that was said
        return float(said == WORDS[0])
    return masses[WORDS[0]] / sum(masses.values())


def _message(body: str) -> str:
    """What a server says is wrong."""
    try:
        told = json.loads(body)
        error = told.get("error", told)
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        return body


def _seconds(retry_after: str | None) -> float | None:
    """How long a server asks to wait; a date, which is rare, counts as nothing said."""
    try:
        return max(float(retry_after or ""), 0.0) or None
    except ValueError:
        return None
