"""One HTTP request with a token, to a server of this cluster; never through a proxy."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

LIMIT_S = 10.0


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def value(self) -> Any:
        """The JSON in it; None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def ask(
    url: str,
    token: str,
    method: str = "GET",
    *,
    value: Any = None,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    limit_s: float = LIMIT_S,
) -> Answer:
    """The answer of a server, whatever its status.

    Args:
        url: of what is asked for.
        token: shown to the server.
        method: of HTTP.
        value: sent as JSON.
        body: sent as it is.
        headers: more of them.
        limit_s: for the connection, and for each part of the answer.

    Raises:
        ConnectionError: nobody answers there.
    """
    data = json.dumps(value).encode() if value is not None else body
    kind = {"Content-Type": "application/json"} if value is not None else {}
    own = {"Authorization": f"Bearer {token}", **kind, **(headers or {})}
    request = urllib.request.Request(url, data, own, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=limit_s) as answer:
            return Answer(answer.status, answer.read(), dict(answer.headers))
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read(), dict(error.headers))
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(str(getattr(reason, "strerror", None) or reason)) from None
