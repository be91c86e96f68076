"""Trials as jobs of the queue of a cluster: they outlive the sweep, which finds them again.

Each is a job by the id of its run folder, so that one which is handed in again is the same job. It
does not wait for an answer to its reports: they are read in its journal, and one that does not get
on is stopped by the queue, with a checkpoint, some steps later.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.queue.client import Client, Unreachable, connect
from cluster.queue.job import ENDED, QueueError
from cluster.queue.parcel import Parcel
from orchestrator.config import JobConfig
from orchestrator.job.submitted import devices_of
from orchestrator.plan.devices import tell
from orchestrator.record.lines import METRICS, read
from orchestrator.verbs.submit import code_of, nodes_of, request
from orchestrator.verbs.sweep.launching import Ended, News, Order, Report, room_of

PAUSE_S = 0.3  # between two looks at the jobs


@dataclass
class _Job:
    """A trial that the queue has."""

    trial: int
    run: Path
    """Its run folder; a driver that is started again makes another one."""
    reports: str | None
    """The metric that the sweep wants to hear of."""
    id: str
    read_bytes: int = 0
    """Of its journal."""


class QueuedTrials:
    """A launcher by the queue; see `Launcher` for what each method is for."""

    def __init__(self, jobs: Sequence[JobConfig], parallel: int | None) -> None:
        """Find the cluster. `jobs` are some of the trials; `parallel` None: as many as it has
        room for.

        Raises:
            QueueError: no queue answers, or it refuses us.
        """
        self._client: Client = connect()
        self._told: dict[str, Any] = self._client.status()
        self._address = str(self._told["ray"]["address"])
        self.how = f"as jobs of the cluster at {self._address}, see `orchestrate jobs`"
        nodes = nodes_of(self._told)
        gpus, cpus = (sum(kind) for kind in zip(*nodes, strict=True)) if nodes else (0, 0)
        tell(self._address, devices_of(self._address, nodes))
        self.room = parallel or room_of(jobs, cpus, gpus)
        self._code: Parcel = code_of(jobs[0])  # of all trials, whatever is edited meanwhile
        self._jobs: dict[int, _Job] = {}
        self._refused: list[News] = []
        if jobs[0].tracking.address is None:  # so that sweep and trials are in one store
            os.environ["MLFLOW_TRACKING_URI"] = str(self._told["mlflow"]["uri"])

    def start(self, order: Order) -> None:
        """Hand the job in."""
        job = _Job(order.trial, order.folder, order.reports, _id_of(order.folder))
        config, resources = order.config, order.config.resources
        if resources.launcher == "ray" and resources.address is None:
            config = replace(config, resources=replace(resources, address=self._address))
        asked = {"id": job.id, "name": f"trial {order.trial} of {order.sweep}"}
        trial = {"folder": str(order.folder), "sweep": order.sweep, "command": order.command}
        try:
            request(self._client, self._told, config, order.words, self._code, asked, trial)
        except Unreachable:
            raise
        except ValueError as error:
            self._refused.append(Ended(order.trial, str(error)))
        else:
            self._jobs[order.trial] = job

    def adopt(self, trial: int, folder: Path, reports: str | None) -> bool:
        """Go on with a job that an earlier process of this sweep has handed in, if it goes on."""
        job = _Job(trial, folder, reports, _id_of(folder))
        try:
            told = self._client.get(job.id)
        except Unreachable:
            raise
        except QueueError:  # it was never handed in
            return False
        if told["state"] in ENDED and told["run"] in (None, str(folder.resolve())):
            return False
        self._jobs[trial] = job
        return True

    def news(self, seconds: float) -> Sequence[News]:
        """What stands in the journals of the jobs, and which of them have ended."""
        found, self._refused = self._refused, []
        deadline = time.monotonic() + seconds
        while True:
            found += [news for job in list(self._jobs.values()) for news in self._heard(job)]
            if found or time.monotonic() > deadline:
                return found
            time.sleep(PAUSE_S)

    def go_on(self, trial: int) -> None:
        """It does not wait."""

    def stop(self, trial: int) -> None:
        """Have the queue stop it."""
        if trial in self._jobs:
            with suppress(QueueError):  # it has ended meanwhile, or the queue is away for a moment
                self._client.stop(self._jobs[trial].id)

    def close(self) -> None:
        """Stop what is left, each with a checkpoint."""
        for trial in list(self._jobs):
            self.stop(trial)

    def _heard(self, job: _Job) -> Iterator[News]:
        try:
            told = self._client.get(job.id)
        except Unreachable:  # the queue is started again, and has lost nothing
            return
        if told["run"] is not None and Path(told["run"]) != job.run.resolve():
            job.run, job.read_bytes = Path(told["run"]), 0
        lines, job.read_bytes = read(job.run / METRICS, job.read_bytes)
        for line in lines:
            if job.reports in line["metrics"]:
                yield Report(job.trial, line["step"], line["metrics"])
        if told["state"] in ENDED:
            del self._jobs[job.trial]
            yield Ended(job.trial, run=job.run)


def _id_of(folder: Path) -> str:
    """The job of a run folder: `classify-3f2a91`."""
    return folder.name.split("-", 3)[-1]
