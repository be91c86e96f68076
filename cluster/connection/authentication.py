"""How this process shows a Ray cluster that it may use it: RAY_AUTH_MODE and RAY_AUTH_TOKEN."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.host.environment import environment

AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")


def own_token() -> dict[str, str]:
    """Variables for a Ray that only this process and its workers may use."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def token_of_user() -> dict[str, str]:
    """RAY_AUTH_MODE for connecting: the user's, else token if there is one, else disabled.

    Ray decides by itself only for clusters it starts; a client that leaves the mode open fails
    with AuthenticationError on a mixed set-up.
    """
    if os.environ.get("RAY_AUTH_MODE"):
        return {}
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    kept = Path("~/.ray/auth_token")
    with suppress(RuntimeError):  # a user without a home has kept none
        kept = kept.expanduser()
    has_token = bool(named) or kept.exists()
    return {"RAY_AUTH_MODE": "token" if has_token else "disabled"}


@contextmanager
def ray_environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables that Ray reads while starting, and put the old ones back at the end."""
    values = {"RAY_USAGE_STATS_ENABLED": "0", **values}
    try:
        with environment(values, keep=AUTH):
            _forget_cached_auth()
            yield
    finally:
        _forget_cached_auth()


def _forget_cached_auth() -> None:
    """Make Ray's C++ side read the auth variables again; it caches them for the whole process."""
    from ray._raylet import (  # type: ignore[attr-defined]  # a compiled module
        AuthenticationTokenLoader,
        Config,
    )

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
