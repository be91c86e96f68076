"""The folder of a user in which a cluster of this machine keeps its state, and its secrets.

It is its owner's alone: who can read it may use the cluster, and who could write to it could have
code run by it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "ORCHESTRATE_STATE"


class HomeRefused(ValueError):
    """The folder can't be used; the message says why and what to type."""


@dataclass(frozen=True)
class Home:
    """Paths below the folder."""

    folder: Path

    @property
    def plan(self) -> Path:
        """What is to run: written by `up`, removed by `down`."""
        return self.folder / "daemons.json"

    @property
    def state(self) -> Path:
        """What does run, as the supervisor has seen it last."""
        return self.folder / "state.json"

    @property
    def database(self) -> Path:
        """The address of the table of jobs, where it is not in this folder; `down` leaves it."""
        return self.folder / "database.json"

    @property
    def tokens(self) -> Path:
        """Users by the sha256 of their tokens."""
        return self.folder / "tokens.json"

    @property
    def ray_token(self) -> Path:
        """What lets a process into the Ray cluster."""
        return self.folder / "ray_token"

    def log(self, name: str) -> Path:
        """What a daemon says."""
        return self.folder / "logs" / f"{name}.log"

    def token(self, user: str) -> Path:
        """The token of a user of the queue."""
        return self.folder / "tokens" / user

    def users(self) -> dict[str, str]:
        """Users by the sha256 of their tokens."""
        return dict(read(self.tokens) or {})

    def admit(self, user: str) -> Path:
        """The file with the token of a user, who gets one if there is none; only we can read it.

        Raises:
            HomeRefused: this is no name of a user.
        """
        if not re.fullmatch(r"[A-Za-z0-9_][\w.@-]{0,63}", user):
            raise HomeRefused(
                f"user={user!r} must begin with a letter, digit or _ and go on with those, - . @"
            )
        path = self.token(user)
        if not path.exists():
            token = secrets.token_hex(32)
            known = self.users() | {hashed(token): user}
            write(self.tokens, known)
            write_private(path, token)
        return path

    @contextmanager
    def locked(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold a lock of this folder while the block runs; yields whether it was to be had.

        The system lets go of it when the process dies, however that happens.
        """
        with (self.folder / f"{name}.lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True


def home(*, make: bool = True) -> Home:
    """The folder of this user: ORCHESTRATE_STATE, else `orchestrate` in XDG_STATE_HOME.

    Raises:
        HomeRefused: it is another user's, or it can't be made.
    """
    named = os.environ.get(VARIABLE)
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        folder = Path(named or Path(base) / "orchestrate").expanduser().absolute()
        if make:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner, mode = folder.stat().st_uid, folder.stat().st_mode & 0o777
    except FileNotFoundError:
        return Home(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: of a user without a home folder
        said = getattr(error, "strerror", None) or error
        raise HomeRefused(
            f"{VARIABLE}={named or Path(base) / 'orchestrate'} can't be used: {said}; name a "
            f"folder of yours, {VARIABLE}=/path/to/folder"
        ) from None
    if owner != os.getuid():
        raise HomeRefused(
            f"{VARIABLE}={folder} belongs to {_name(owner)}, and you are {_name(os.getuid())}: a "
            f"cluster is run by its owner; name a folder of yours, {VARIABLE}=/path/to/folder, or "
            "ask for a token (orchestrate up --user) to submit to it"
        )
    if mode & 0o077:
        folder.chmod(0o700)
    return Home(folder)


def user() -> str:
    """The name of the user of this process."""
    return _name(os.getuid())


def hashed(token: str) -> str:
    """As which a token is kept by who only has to know it again."""
    return hashlib.sha256(token.encode()).hexdigest()


def read(path: Path) -> Any:
    """The JSON value of a file; None if there is none, or it is no JSON."""
    with suppress(OSError, ValueError):
        return json.loads(path.read_bytes())
    return None


def write(path: Path, value: Any) -> None:
    """Write a JSON value, whole or not at all, for its owner alone."""
    write_private(path, json.dumps(value, indent=1))


def write_private(path: Path, text: str) -> None:
    """Write a file, whole or not at all, that only its owner can read."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(partial, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # as in containers
        return f"uid{uid}"
