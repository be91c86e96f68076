"""The queue as a service: `python -m cluster.queue.service FOLDER PORT`, a daemon.

1. It opens the table of jobs, and keeps the queue in a thread of its own.
2. It answers clients on loopback. Each shows a token; whose it is decides who owns a job and may
   stop it, whatever the client says. The user of the folder may do all.
3. What travels with a job is unpacked once, below the folder, and named by its content.

Nothing is remembered outside of the folder and the table: it may be killed at any time.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response

from cluster.daemons import ray_nodes
from cluster.daemons.daemon import Daemon
from cluster.daemons.home import Home, hashed, read, user, write, write_private
from cluster.database import has_password
from cluster.queue.admission import refuse_what_never_fits
from cluster.queue.job import (
    Job,
    JobRefused,
    NotNow,
    NotYours,
    QueueError,
    Quota,
    UnknownJob,
)
from cluster.queue.keeper import Keeper, Trouble
from cluster.queue.parcel import ID, MOST_BYTES, ParcelRefused, unpack
from cluster.queue.ray_jobs import SCREEN, RayJobs, node
from cluster.queue.rows import Record
from cluster.queue.store import Store
from cluster.queue.version import version

RUN = "run"
"""In the folder of a job: a link to the folder of its run, made by its driver."""
RESULT = "result.json"
"""In the folder of a run: how it ended, written by its driver."""
DETAILS = "details.json"
DRIVERS = "jobs/*/driver-*.pid"
"""Below the home: the processes that run for jobs."""
PATIENCE_S = 5.0  # with a database that is locked or away: a client waits for 10 s to be told so
MOST_DETAILS = 2**22  # bytes
STATUS = {UnknownJob: 404, NotYours: 403, NotNow: 409, JobRefused: 422}
PAUSE_S = 0.3  # between rounds of the keeper
GRACE_S = 120.0  # for a driver to save and leave
CHUNK = 2**20  # bytes of a log in one answer


def daemon(home: Home, port: int) -> Daemon:
    """The service as what `up` starts."""
    command = (sys.executable, "-P", "-m", "cluster.queue.service", str(home.folder), str(port))
    return Daemon("queue", command, f"http://127.0.0.1:{port}/health")


def job_folder(home: Home, job_id: str) -> Path:
    """Where the drivers of a job leave what they show and which run is theirs."""
    return home.folder / "jobs" / job_id


def parcels(home: Home) -> Path:
    """Where the code of jobs is unpacked."""
    return home.folder / "parcels"


def check_database(home: Home, url: str | None) -> str:
    """The address of the table of jobs, at which one is; it is remembered for the next time.

    It is what was asked for, else what was the last time, else a file of the home.

    Raises:
        QueueError: no such database answers, or its password would stand where others read it.
    """
    own = f"sqlite:///{home.folder / 'queue.db'}"
    if url is None:
        remembered = read(home.database)
        if remembered is None:
            return own
        try:
            Store(remembered, PATIENCE_S).close()
        except QueueError as error:
            raise QueueError(
                f"{error}; the queue was there the last time, and its jobs are: bring it back, or "
                f"name another, --database {own} for a file of this folder"
            ) from error
        return str(remembered)
    if has_password(url):
        raise QueueError(
            "--database with a password shows it to everybody who lists processes; put it into "
            "~/.pgpass (host:port:database:user:password, chmod 600) and leave it out of the URL"
        )
    Store(url, PATIENCE_S).close()
    write(home.database, url)
    return url


class Service:
    """What the addresses do; each answer is JSON."""

    def __init__(
        self, home: Home, store: Store, trouble: Callable[[], Trouble | None] = lambda: None
    ) -> None:
        """Answer for the table of this home; `trouble` is that of who keeps it."""
        self.home, self.store, self.trouble = home, store, trouble
        self._submitting = threading.Lock()

    def who(
        self,
        authorization: Annotated[str, Header()] = "",
        x_orchestrate: Annotated[str, Header()] = "",
    ) -> str:
        """The user whose token it is.

        Raises:
            HTTPException: no token or a wrong one; or the client is of another version, and would
                misunderstand, or be so.
        """
        token = authorization.removeprefix("Bearer ")
        known = self.home.users().get(hashed(token))
        if known is None:
            raise HTTPException(401, "the token is none of this cluster's")
        if x_orchestrate != version():
            raise HTTPException(
                426,
                f"this command is orchestrate {x_orchestrate or '?'} and the cluster runs "
                f"{version()} (version/protocol); install that version here, or let the cluster "
                "have this one: orchestrate down && orchestrate up",
            )
        return known

    def submit(self, asked: dict[str, Any], who: str) -> dict[str, Any]:
        """Take a job in, under the name of who asks for it."""
        try:
            own, details = dict(asked["job"]), json.dumps(asked["details"])
            folder = job_folder(self.home, str(own["id"]))
            code = parcels(self.home) / str(own["parcel"])
            command = (sys.executable, "-P", "-m", str(asked["module"]), str(folder))
            environment = {**own.get("environment", {}), "PYTHONPATH": str(code)}
        except (KeyError, TypeError, ValueError) as error:
            raise JobRefused(f"not a job: {type(error).__name__} {error}") from None
        if len(details) > MOST_DETAILS:
            most = f"at most {MOST_DETAILS:,} are taken"
            raise JobRefused(f"the config of the job has {len(details):,} bytes; {most}")
        plain = {**own, "owner": who, "command": command, "environment": environment}
        job = Job.from_json(json.dumps(plain))
        if not ID.fullmatch(str(job.parcel)) or not code.is_dir():
            raise JobRefused(f"job {job.id}: its parcel {job.parcel} is not here; hand it in first")
        with self._submitting:
            if not self._knows(job.id):  # else its details are those of whoever handed it in first
                if there := [node(one) for one in ray_nodes.nodes(self.home)]:
                    refuse_what_never_fits(job, there, self.store.quotas())
                write_private(folder / DETAILS, details)
            return self.told(self.store.add([job])[0])

    def _knows(self, job_id: str) -> bool:
        try:
            self.store.get(job_id)
        except UnknownJob:
            return False
        return True

    def told(self, record: Record) -> dict[str, Any]:
        """A job as clients see it."""
        link = job_folder(self.home, record.job.id) / RUN
        job = asdict(record.job)
        del job["environment"]
        run = str(link.resolve()) if link.is_symlink() else None
        rest = {name: getattr(record, name) for name in SHOWN}
        return {**job, **rest, "run": run, "asked": record.job.asked}

    def log(self, record: Record, rank: int | None) -> Path:
        """The file of what a job says: its driver, or one of its ranks."""
        folder = job_folder(self.home, record.job.id)
        return folder / SCREEN if rank is None else folder / RUN / "logs" / f"rank-{rank}.log"


SHOWN = (
    *("state", "attempt", "placement", "submitted_s", "started_s", "ended_s", "ran_s", "deaths"),
    *("cause", "reason", "expected_start_s", "exit_code", "message"),
)


def application(service: Service) -> FastAPI:
    """The addresses of the service."""
    app = FastAPI(openapi_url=None)
    who = Depends(service.who)
    store, home = service.store, service.home

    @app.exception_handler(QueueError)
    def refused(request: Request, error: QueueError) -> Response:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 503)
        return Response(json.dumps({"detail": str(error)}), status, media_type="application/json")

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"version": version()}

    @app.get("/status")
    def status(asker: Annotated[str, who]) -> dict[str, Any]:
        plan = read(home.plan) or {}
        facts = {name: plan.get(name) for name in ("ray", "mlflow", "since")}
        trouble = service.trouble()
        return {
            **facts,
            "version": version(),
            "trouble": trouble and asdict(trouble),
            "user": asker,
            "nodes": ray_nodes.nodes(home),
            "jobs": [service.told(record) for record in store.list(newest=1000)],
        }

    @app.put("/parcels/{name}")
    async def take(name: str, request: Request, asker: Annotated[str, who]) -> dict[str, Any]:
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > MOST_BYTES:
                raise HTTPException(413, f"a parcel has at most {MOST_BYTES:,} bytes")
        try:
            unpack(bytes(data), name, parcels(home))
        except ParcelRefused as error:
            raise HTTPException(422, str(error)) from None
        return {"parcel": name}

    @app.get("/parcels/{name}")
    def has_parcel(name: str, asker: Annotated[str, who]) -> dict[str, Any]:
        return {"here": ID.fullmatch(name) is not None and (parcels(home) / name).is_dir()}

    @app.post("/jobs")
    def submit(asked: dict[str, Any], asker: Annotated[str, who]) -> dict[str, Any]:
        return service.submit(asked, asker)

    @app.get("/jobs/{job_id}")
    def get(job_id: str, asker: Annotated[str, who]) -> dict[str, Any]:
        events = [asdict(event) for event in store.events(job_id)]
        return {**service.told(store.get(job_id)), "events": events}

    @app.get("/jobs/{job_id}/log")
    def log(
        job_id: str, asker: Annotated[str, who], offset: int = 0, rank: int | None = None
    ) -> Response:
        record = store.get(job_id)
        if asker not in (record.job.owner, user()):
            raise NotYours(f"job {job_id} belongs to {record.job.owner}; {asker} cannot read it")
        path = service.log(record, rank)
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return Response(file.read(CHUNK), headers={"X-State": str(record.state)})
        except FileNotFoundError:
            return Response(b"", headers={"X-State": str(record.state)})

    @app.get("/quotas")
    def quotas(asker: Annotated[str, who]) -> list[dict[str, Any]]:
        return [asdict(quota) for quota in store.quotas()]

    @app.put("/quotas")
    def set_quota(asked: dict[str, Any], asker: Annotated[str, who]) -> dict[str, Any]:
        if asker != user():
            raise NotYours(f"quotas are set by {user()}, whose cluster this is, not by {asker}")
        store.set_quota(Quota.from_fields(asked))
        return asked

    @app.post("/jobs/{job_id}/stop")
    def stop(job_id: str, asker: Annotated[str, who]) -> dict[str, Any]:
        return service.told(store.stop(job_id, asker, anyone=asker == user()))

    @app.post("/jobs/{job_id}/resume")
    def resume(job_id: str, asker: Annotated[str, who]) -> dict[str, Any]:
        return service.told(store.resume(job_id, asker, anyone=asker == user()))

    return app


def main(arguments: Sequence[str]) -> int:
    """Serve and keep the queue until SIGTERM; returns the exit code, 1 if it can't be kept."""
    home, port = Home(Path(arguments[0])), int(arguments[1])
    plan = read(home.plan)
    store, ray = Store(plan["database"], PATIENCE_S), plan["ray"]
    drivers = RayJobs(
        ray["http"],
        ray["address"],
        home.ray_token.read_text().strip(),
        partial(ray_nodes.nodes, home),
        partial(job_folder, home),
    )
    over = partial(_close, home, plan["closes"])
    keeper = Keeper(store, drivers, grace_s=GRACE_S, over=over)
    answers = application(Service(home, store, lambda: keeper.trouble))
    config = uvicorn.Config(answers, host="127.0.0.1", port=port, log_level="warning")
    server = uvicorn.Server(config)
    keeping = _Keeping(keeper, server)
    keeping.start()
    server.run()
    keeping.ended.set()
    keeping.join()
    return int(keeping.failed)


def _close(home: Home, command: Sequence[str], record: Record) -> None:
    """Have a run whose driver did not live to end it shown as what it is; returns at once.

    The attempt after it would see to it, but there may be none, or not for long.
    """
    run = (job_folder(home, record.job.id) / RUN).resolve()
    if run.is_dir() and not (run / RESULT).exists():
        subprocess.Popen([*command, str(run)])


class _Keeping(threading.Thread):
    """Keeps the queue beside the server, and ends that if it can't: both are started anew."""

    def __init__(self, keeper: Keeper, server: uvicorn.Server) -> None:
        super().__init__(name="keeper", daemon=True)
        self.ended, self.failed = threading.Event(), True
        self._keeper, self._server = keeper, server

    def run(self) -> None:
        try:
            self._keeper.run(self.ended, PAUSE_S, _say)
            self.failed = False
        finally:
            self._server.should_exit = True


def _say(trouble: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {trouble}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
