"""What a command asks of the queue of a cluster: who is meant by ORCHESTRATE_CLUSTER, else ours.

ORCHESTRATE_CLUSTER=http://127.0.0.1:23456    the queue of another user of this machine
ORCHESTRATE_TOKEN_PATH=/path/to/token         the token that one has given us
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.daemons import control
from cluster.daemons.home import home, read, user
from cluster.queue.asking import Answer, ask
from cluster.queue.job import ID, QueueError, UnknownJob
from cluster.queue.parcel import Parcel
from cluster.queue.version import HEADER, version

ADDRESS, TOKEN = "ORCHESTRATE_CLUSTER", "ORCHESTRATE_TOKEN_PATH"


class Unreachable(QueueError):
    """No queue answers; the message says where, and what to type."""


class Client:
    """The queue, as one user sees it. Each call raises QueueError for what the queue refuses."""

    def __init__(self, address: str, token: str) -> None:
        """Nothing is asked yet; see `connect`."""
        self.address, self._token = address.rstrip("/"), token

    def status(self) -> dict[str, Any]:
        """What the cluster has and does: version, user, nodes, jobs, where Ray and MLflow are."""
        return dict(self._ask("GET", "/status").value)

    def submit(
        self, job: Mapping[str, Any], module: str, details: Mapping[str, Any], parcel: Parcel
    ) -> dict[str, Any]:
        """Hand a job in, with its code where the cluster does not have it yet.

        Args:
            job: fields of `Job` without owner and command.
            module: that the driver is, with the folder of the job as its argument.
            details: what it finds in that folder.
            parcel: its code.
        """
        if not self._ask("GET", f"/parcels/{parcel.id}").value["here"]:
            self._ask("PUT", f"/parcels/{parcel.id}", body=parcel.data)
        asked = {"job": {**job, "parcel": parcel.id}, "module": module, "details": details}
        return dict(self._ask("POST", "/jobs", asked).value)

    def get(self, job_id: str) -> dict[str, Any]:
        """One job with its events."""
        return dict(self._ask("GET", _path(job_id)).value)

    def stop(self, job_id: str) -> dict[str, Any]:
        """End a job, with a checkpoint if it runs."""
        return dict(self._ask("POST", f"{_path(job_id)}/stop").value)

    def resume(self, job_id: str) -> dict[str, Any]:
        """Let a job that failed or was stopped wait again."""
        return dict(self._ask("POST", f"{_path(job_id)}/resume").value)

    def log(self, job_id: str, offset: int, rank: int | None) -> tuple[bytes, str]:
        """What a job has said from a byte on, or a part of it; and its state before that."""
        which = "" if rank is None else f"&rank={rank}"
        answer = self._ask("GET", f"{_path(job_id)}/log?offset={offset}{which}")
        return answer.body, answer.headers.get("x-state", "")

    def quotas(self) -> list[dict[str, Any]]:
        """All there are."""
        return list(self._ask("GET", "/quotas").value)

    def set_quota(self, quota: Mapping[str, Any]) -> None:
        """Set or replace one, or take it away: fields of `Quota`."""
        self._ask("PUT", "/quotas", quota)

    def _ask(self, method: str, path: str, value: Any = None, body: bytes | None = None) -> Answer:
        own = {HEADER: version()}
        url = f"{self.address}{path}"
        try:
            answer = ask(url, self._token, method, value=value, body=body, headers=own)
        except ConnectionError as error:
            raise Unreachable(
                f"no queue answers at {self.address} ({error}); `orchestrate status` says what is "
                "up, `orchestrate up` starts a cluster on this machine"
            ) from None
        if answer.status < 400:
            return answer
        said = answer.value.get("detail") if isinstance(answer.value, dict) else None
        if answer.status == 401:
            raise QueueError(
                f"the queue at {self.address} refuses the token: it is none of its users'; ask its "
                f"owner for one (orchestrate up --user {user()}), and name its file in {TOKEN}"
            )
        raise QueueError(str(said or f"the queue answers {answer.status}"))


def _path(job_id: str) -> str:
    """Where a job is told of; an id that could not be one is asked of nobody."""
    if not ID.fullmatch(job_id):
        raise UnknownJob(f"{job_id!r} is no id of a job; `orchestrate jobs` lists them")
    return f"/jobs/{job_id}"


def connect(*, mends: bool = True) -> Client:
    """The queue that a command means; a cluster of ours whose supervisor died is mended.

    Args:
        mends: whether it may be, which starts a process.

    Raises:
        QueueError: there is none, or its token can't be read.
    """
    if address := os.environ.get(ADDRESS):
        if not re.fullmatch(r"https?://[^/\s]+/?", address):
            raise QueueError(f"{ADDRESS}={address} must read http://HOST:PORT")
        named = os.environ.get(TOKEN)
        if not named:
            raise QueueError(f"{ADDRESS}={address} needs a token; name its file in {TOKEN}")
        return Client(address, _token(Path(named)))
    own = home(make=False)
    if mends and own.folder.is_dir():
        control.mend(own)
    plan = read(own.plan)
    if not plan:
        raise Unreachable(
            "no cluster is up on this machine; start one with `orchestrate up`, or name another "
            f"one: {ADDRESS}=http://127.0.0.1:PORT {TOKEN}=FILE"
        )
    return Client(plan["queue"], _token(own.token(user())))


def _token(path: Path) -> str:
    try:
        token = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise QueueError(f"{TOKEN}={path} can't be read: {said}") from None
    if not (token.isascii() and token.isalnum()):
        raise QueueError(f"{TOKEN}={path} holds no token, which is one word of letters and digits")
    return token
