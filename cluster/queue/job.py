"""A job of the queue: a command with needs and an owner; its states and the steps between them."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from math import inf
from typing import Any

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
MOST = 2**50
"""Of anything: sums of it over nodes and seconds stay whole numbers."""
END_OF_TIME = 253_402_300_800
LABEL = re.compile(r"[^=\s]+=[^=\s]+")


class QueueError(ValueError):
    """What was asked of the queue cannot be done; reads as what was asked, found, and to do."""


class JobRefused(QueueError):
    """A job that the queue does not take."""


class UnknownJob(QueueError):
    """No job has this id."""


class NotYours(QueueError):
    """The job belongs to somebody else."""


class NotNow(QueueError):
    """The job is in a state from which there is no such step."""


class State(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    PREEMPTED = "preempted"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


QUEUED = frozenset({State.WAITING, State.PREEMPTED})
"""Holds no place; waits for one."""
PLACED = frozenset({State.STARTING, State.RUNNING, State.STOPPING})
"""Holds its place on the nodes; a process of it may run."""
ENDED = frozenset({State.DONE, State.FAILED, State.STOPPED})
"""Nothing happens any more unless its owner resumes it."""

STEPS: dict[tuple[State, State], str] = {
    (State.WAITING, State.STARTING): "admitted: its place is held, its driver is to be started",
    (State.WAITING, State.STOPPED): "stopped by its owner before it began",
    (State.STARTING, State.RUNNING): "its driver runs",
    (State.STARTING, State.DONE): "its driver ended with success",
    (State.STARTING, State.FAILED): "its driver ended with a failure",
    (State.STARTING, State.STOPPED): "its driver was interrupted by somebody",
    (State.STARTING, State.WAITING): "its driver could not start, or died; it waits for a new one",
    (State.STARTING, State.STOPPING): "its driver is told to save and leave",
    (State.RUNNING, State.DONE): "its driver ended with success",
    (State.RUNNING, State.FAILED): "its driver ended with a failure",
    (State.RUNNING, State.STOPPED): "its driver was interrupted by somebody",
    (State.RUNNING, State.WAITING): "its driver died without a result; it waits for a new one",
    (State.RUNNING, State.STOPPING): "its driver is told to save and leave",
    (State.STOPPING, State.STOPPING): "its owner stops it for good",
    (State.STOPPING, State.DONE): "its driver ended with success before it could be stopped",
    (State.STOPPING, State.FAILED): "its driver is gone, at the end of its time limit",
    (State.STOPPING, State.STOPPED): "its driver is gone, as its owner wished",
    (State.STOPPING, State.PREEMPTED): "its driver is gone; it waits to go on",
    (State.PREEMPTED, State.STARTING): "admitted again: its place is held",
    (State.PREEMPTED, State.STOPPED): "stopped by its owner while it waited to go on",
    (State.FAILED, State.WAITING): "resumed by its owner",
    (State.STOPPED, State.WAITING): "resumed by its owner",
}
"""All steps that there are, each with what it means."""


class StopCause(StrEnum):
    """Why a job is being stopped, which decides where it ends."""

    OWNER = "owner"
    LIMIT = "limit"
    PREEMPTION = "preemption"


@dataclass(frozen=True)
class Bundle:
    """What one part of a job needs on one node."""

    cpus: int = 0
    gpus: int = 0
    memory_bytes: int = 0
    labels: tuple[str, ...] = ()
    """`key=value`; the node must have all of them."""

    def __post_init__(self) -> None:
        """Raise JobRefused for what nobody can need."""
        for name in ("cpus", "gpus", "memory_bytes"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= MOST:
                raise JobRefused(
                    f"needs: {name}={value!r} must be a whole number, at least 0, at most 2^50"
                )
        if not self.cpus + self.gpus + self.memory_bytes:
            raise JobRefused("needs: a bundle of nothing; ask for at least 1 cpu")
        for label in self.labels:
            if not (isinstance(label, str) and LABEL.fullmatch(label)):
                raise JobRefused(f"needs: label {label!r} must read key=value, e.g. zone=a")

    def __str__(self) -> str:
        """E.g. `4 GPUs, 8 CPUs, 16.0 GiB, zone=a`."""
        parts = [
            f"{amount} {word}{'s' if amount > 1 else ''}"
            for amount, word in ((self.gpus, "GPU"), (self.cpus, "CPU"))
            if amount
        ]
        if self.memory_bytes:
            parts.append(f"{self.memory_bytes / 2**30:.1f} GiB")
        return ", ".join([*parts, *self.labels])


@dataclass(frozen=True)
class Job:
    """What a client hands in; never changed afterwards.

    Handing in the same job under the same id again changes nothing, so a client that got no
    answer asks once more. The environment is kept in the database as it is: no secrets in it.
    """

    id: str
    """Given by the client."""
    owner: str
    project: str
    needs: tuple[Bundle, ...]
    """All at once or none, each on one node."""
    command: tuple[str, ...]
    """Of the driver; must go on from what an earlier attempt has saved."""
    name: str = ""
    """For people; anything."""
    priority: int = 0
    """Higher goes first; among equals, the earlier."""
    after: tuple[str, ...] = ()
    """Ids of jobs that must be done first."""
    not_before: float | None = None
    """Seconds since 1970. None: at once."""
    limit_s: float | None = None
    """Seconds of running in all attempts together, until it is stopped. None: without limit."""
    expected_s: float | None = None
    """Seconds that it is likely to run, for estimates alone. None: unknown."""
    parcel: str | None = None
    """Hash of the code and config that it runs."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise JobRefused for what can be seen in the job alone."""
        for what, text in (("id", self.id), *(("after", one) for one in self.after)):
            if not (isinstance(text, str) and ID.fullmatch(text)):
                raise JobRefused(
                    f"{what}={text!r} must be 1 to 63 letters, digits, '.', '_' or '-', beginning "
                    f"with a letter or digit; e.g. {_tidied(str(text))}"
                )
        for what in ("owner", "project"):
            text = getattr(self, what)
            if not (isinstance(text, str) and text.strip() and text.isprintable()):
                raise JobRefused(f"job {self.id}: {what}={text!r} must be a name one can print")
        if not self.needs:
            raise JobRefused(f"job {self.id}: needs nothing; ask for at least one bundle of 1 cpu")
        if not self.command:
            raise JobRefused(f"job {self.id}: has no command")
        if self.id in self.after:
            raise JobRefused(f"job {self.id}: after={self.id} is the job itself; leave it out")
        self._check_values()

    def _check_values(self) -> None:
        """What comes over a network may be of any type."""
        if type(self.priority) is not int:
            raise JobRefused(f"job {self.id}: priority={self.priority!r} must be a whole number")
        for what, most in (("limit_s", inf), ("expected_s", inf), ("not_before", END_OF_TIME)):
            value = getattr(self, what)
            if value is not None and not (type(value) in (int, float) and 0 < value < most):
                raise JobRefused(
                    f"job {self.id}: {what}={value!r} must be a number of seconds above 0"
                    + (" and below the year 9999" if what == "not_before" else "")
                )
        if not isinstance(self.environment, Mapping):
            raise JobRefused(f"job {self.id}: environment={self.environment!r} must map names")
        texts = [*self.command, *self.environment.keys(), *self.environment.values(), self.name]
        texts += [] if self.parcel is None else [self.parcel]
        for text in texts:
            if not isinstance(text, str) or "\0" in text:
                raise JobRefused(f"job {self.id}: {text!r} must be text without NUL bytes")
        for name in self.environment:
            if not name or "=" in name:
                raise JobRefused(f"job {self.id}: {name!r} cannot name an environment variable")

    @cached_property
    def kinds(self) -> tuple[tuple[Bundle, int], ...]:
        """The different bundles and how many of each; the hardest to place first."""
        return tuple(
            sorted(
                Counter(self.needs).items(),
                key=lambda kind: (
                    *(-kind[0].gpus, -kind[0].cpus, -kind[0].memory_bytes),
                    *(kind[0].labels, kind[1]),
                ),
            )
        )

    @cached_property
    def asked(self) -> str:
        """What it needs, e.g. `4 x (8 GPUs, 16 CPUs)`."""
        return " + ".join(
            f"{count} x ({bundle})" if count > 1 else f"{bundle}" for bundle, count in self.kinds
        )

    def total(self, name: str) -> int:
        """Of cpus, gpus or memory_bytes over all bundles; of jobs, 1."""
        return self._totals[name]

    @cached_property
    def _totals(self) -> dict[str, int]:
        names = ("cpus", "gpus", "memory_bytes")
        return {"jobs": 1} | {
            name: sum(getattr(bundle, name) * count for bundle, count in self.kinds)
            for name in names
        }

    def to_json(self) -> str:
        """One line; equal jobs give equal lines."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Job:
        """The job that `to_json` wrote.

        Raises:
            JobRefused: a field is missing, unknown, or of a value that is refused.
        """
        try:
            read = json.loads(line)
            known = {one.name for one in fields(cls)}
            if extra := sorted(read.keys() - known):
                raise JobRefused(f"a job has no {', '.join(extra)}; it has {sorted(known)}")
            needs = tuple(
                Bundle(**bundle | {"labels": _tuple("labels", bundle.get("labels", []))})
                for bundle in _tuple("needs", read["needs"])
            )
            lists = {
                name: _tuple(name, read[name]) for name in ("command", "after") if name in read
            }
            return cls(**read | lists | {"needs": needs})
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise JobRefused(f"not a job: {error}") from error


@dataclass(frozen=True)
class Quota:
    """What the jobs of an owner, or of a project, may hold together at any time."""

    kind: str
    """owner or project."""
    name: str
    """`*`: each one that has no quota of its own."""
    cpus: int | None = None
    """None, here and below: without limit."""
    gpus: int | None = None
    memory_bytes: int | None = None
    jobs: int | None = None

    def __post_init__(self) -> None:
        """Raise QueueError for what is no quota; it may come over a network."""
        if self.kind not in ("owner", "project"):
            raise QueueError(f"a quota is of an owner or a project, not of a {self.kind!r}")
        if not isinstance(self.name, str) or not (self.name and self.name.isprintable()):
            raise QueueError(f"a quota is of a name one can print, not of {self.name!r}")
        for name, limit in self.limits.items():
            if type(limit) is not int or not 0 <= limit <= MOST:
                raise QueueError(
                    f"quota of {self.kind} {self.name}: {name}={limit!r} must be a whole number, "
                    "at least 0, at most 2^50"
                )

    @classmethod
    def from_fields(cls, given: Mapping[str, Any]) -> Quota:
        """A quota as a client sends it.

        Raises:
            QueueError: a field is missing or unknown.
        """
        try:
            return cls(**given)
        except TypeError as error:
            raise QueueError(f"not a quota: {error}") from error

    @property
    def limits(self) -> dict[str, int]:
        """The limits there are, by name."""
        names = ("cpus", "gpus", "memory_bytes", "jobs")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True)
class Attempt:
    """One try to run a job, written down before anything is started."""

    job: Job
    number: int
    """Counts from 1."""
    placement: tuple[str, ...]
    """The node of each bundle."""

    @property
    def submission_id(self) -> str:
        """Names this attempt to what starts it; two keepers would give it the same name."""
        return submission_id(self.job.id, self.number)

    @property
    def environment(self) -> dict[str, str]:
        """What the driver finds in its environment, beside what was there."""
        own = {"ORCHESTRATE_JOB": self.job.id, "ORCHESTRATE_JOB_ATTEMPT": str(self.number)}
        return {**self.job.environment, **own}


def submission_id(job_id: str, number: int) -> str:
    """The name of an attempt of a job."""
    return f"{job_id}.{number}"


def unknown(job_id: str, known: Iterable[str]) -> UnknownJob:
    """The error that says which ids come nearest."""
    near = difflib.get_close_matches(job_id, list(known), n=3, cutoff=0.5)
    return UnknownJob(
        f"no job has the id {job_id!r}; "
        + (f"nearest: {', '.join(near)}" if near else "no id in the queue resembles it")
    )


def _tuple(name: str, value: object) -> tuple[Any, ...]:
    """A text would be taken for a list of its letters."""
    if not isinstance(value, list):
        raise JobRefused(f"{name}={value!r} must be a list")
    return tuple(value)


def _tidied(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:63] or "job-1"
