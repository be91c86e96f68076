"""Drivers as Ray jobs: Ray carries them to its head node and keeps an eye on them, no more.

Ray's own way to stop a job signals all processes below the driver at once, so that who sends the
record dies before the driver. Here the driver alone is told, and has the time that the queue gives;
what is left after it is killed with its group. For that the driver leaves its process id.
"""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.host.processes import is_alive
from cluster.placement import CHOSEN
from cluster.queue.asking import Answer, ask
from cluster.queue.drivers import Driver, Node, StartRefused, TransportAway
from cluster.queue.job import Attempt

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
OWN_LABELS = "ray.io/"  # those that Ray gives to every node
TAIL_BYTES = 4096
START_S = 60.0  # Ray answers when the supervisor of the driver is scheduled


class RayJobs:
    """Starts, watches and stops drivers; see `drivers.py` for what is promised."""

    def __init__(
        self,
        url: str,
        address: str,
        token: str,
        nodes: Callable[[], Sequence[Mapping[str, Any]]],
        folder: Callable[[str], Path],
    ) -> None:
        """Nothing is started yet.

        Args:
            url: where the head of Ray takes jobs.
            address: of that cluster, for who runs on it.
            token: of Ray.
            nodes: those alive, see `cluster.daemons.ray_nodes.nodes`.
            folder: of a job, by its id; gets what its drivers write, and their process ids.
        """
        self._url, self._address, self._token = url, address, token
        self._nodes, self._folder = nodes, folder
        self._told: dict[str, float] = {}
        """When a driver was told to leave, by time.monotonic."""

    def nodes(self) -> Sequence[Node]:
        """The machines that can be used now."""
        return [node(own) for own in self._nodes()]

    def start(self, attempt: Attempt) -> None:
        """Hand the driver to Ray, under the id of the attempt; Ray takes an id once."""
        folder = self._folder(attempt.job.id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        pid, screen = (shlex.quote(str(path)) for path in (self._pid(attempt), folder / SCREEN))
        entrypoint = (
            f"echo $$ $(cut -d' ' -f22 /proc/$$/stat) > {pid} && "
            # Ray itself names any cluster of this machine to the driver, where there are several.
            f"RAY_ADDRESS={shlex.quote(self._address)} "
            f"exec {shlex.join(attempt.job.command)} >> {screen} 2>&1"
        )
        asked = {
            "submission_id": attempt.submission_id,
            "entrypoint": entrypoint,
            "runtime_env": {"env_vars": {**attempt.environment, **self._chosen(attempt)}},
            "metadata": {"owner": attempt.job.owner, "job": attempt.job.id},
        }
        answer = self._ask("POST", "/api/jobs/", asked, limit_s=START_S)
        if answer.status == 400 and "already exists" not in answer.body.decode(errors="replace"):
            raise StartRefused(f"Ray does not take the driver: {_last_line(answer)}")

    def states(self, submission_ids: Sequence[str]) -> Mapping[str, Driver]:
        """What Ray says of them; one whose process still lives has not ended, whatever Ray says."""
        found = {}
        for name in submission_ids:
            answer = self._ask("GET", f"/api/jobs/{name}")
            if answer.status == 404:
                continue
            said = answer.value
            ended = said["status"] in ENDED
            if ended and (process := self._process(name)) is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGKILL)
                ended = False
            code = said.get("driver_exit_code") if ended else None
            found[name] = Driver(ended, code, self._last_words(name) if ended and code else "")
        return found

    def stop(self, submission_id: str, grace_s: float) -> None:
        """SIGTERM to the driver, SIGKILL to its group when the time is over."""
        process = self._process(submission_id)
        if process is None:  # it may not have begun
            self._ask("POST", f"/api/jobs/{submission_id}/stop")
            return
        now = time.monotonic()
        first = self._told.setdefault(submission_id, now)
        with suppress(ProcessLookupError):
            if now - first > grace_s:
                os.killpg(process, signal.SIGKILL)
            elif now == first:
                os.kill(process, signal.SIGTERM)

    def _chosen(self, attempt: Attempt) -> dict[str, str]:
        """What tells a driver on which nodes its workers were admitted."""
        ids = {node["name"]: node["id"] for node in self._nodes()}
        return {CHOSEN: " ".join(ids[name] for name in attempt.placement if name in ids)}

    def _last_words(self, submission_id: str) -> str:
        """The last line that a driver has shown."""
        try:
            with (self._folder(submission_id.rpartition(".")[0]) / SCREEN).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _process(self, submission_id: str) -> int | None:
        """The process of a driver, if it lives on this host; it leads a group."""
        job, _, number = submission_id.rpartition(".")
        try:
            pid, begun = (self._folder(job) / f"driver-{number}.pid").read_text().split()
        except (OSError, ValueError):
            return None
        return int(pid) if is_alive(int(pid), int(begun)) else None

    def _pid(self, attempt: Attempt) -> Path:
        return self._folder(attempt.job.id) / f"driver-{attempt.number}.pid"

    def _ask(self, method: str, path: str, value: Any = None, limit_s: float = 10.0) -> Answer:
        """Raises TransportAway if Ray does not answer, or has lost its own head."""
        try:
            answer = ask(f"{self._url}{path}", self._token, method, value=value, limit_s=limit_s)
        except ConnectionError as error:
            raise TransportAway(f"Ray does not answer at {self._url}: {error}") from None
        if answer.status >= 500 or answer.status in (401, 403):
            raise TransportAway(f"Ray answers {answer.status}: {_last_line(answer)}")
        return answer


SCREEN = "screen.log"
"""In the folder of a job: what its drivers have shown."""


def node(own: Mapping[str, Any]) -> Node:
    """A node as `cluster.daemons.ray_nodes.nodes` tells of it."""
    has = own["resources"]
    return Node(
        own["name"],
        int(has.get("CPU", 0)),
        int(has.get("GPU", 0)),
        int(has.get("memory", 0)),
        frozenset(f"{k}={v}" for k, v in own["labels"].items() if not k.startswith(OWN_LABELS)),
    )


def _last_line(answer: Answer) -> str:
    lines = answer.body.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "nothing"
