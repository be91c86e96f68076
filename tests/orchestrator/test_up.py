"""A cluster on this machine as a user has it: up, jobs, whatever is killed, down, nothing left.

One test is a short day, on PostgreSQL where there is one. Those that take minutes are among the
drills: python -m pytest -n 0 -m drill tests/orchestrator/test_up.py
"""

import json
import os
import signal
import socket
import sqlite3
import time
import warnings

import psutil
import pytest

from cluster.daemons import control
from cluster.daemons.daemon import marked
from cluster.daemons.home import Home, home
from cluster.queue import service
from cluster.queue.client import Unreachable, connect
from orchestrator.record.lines import read
from orchestrator.record.mlflow.mirror import State
from orchestrator.record.runs import Run
from tests.orchestrator.commands import TINY
from tests.orchestrator.typed import refused, typed

ONE = ("resources=cpu1", "engine=torch", "stage.sample_tokens=0")
AGREE_S = 10.0
LOSS = "train/loss"


@pytest.fixture
def day(tmp_path, monkeypatch, corpus):
    """A folder of the user's, with nothing up; whatever happens, nothing is up after it."""
    monkeypatch.setenv("ORCHESTRATE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("RAY_AUTH_MODE", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")  # what a command sets goes with the test
        monkeypatch.delenv(name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield Day(home(), corpus, tmp_path / "here")
    typed("down")


class Day:
    def __init__(self, own, corpus, folder):
        self.own, self._corpus, self._folder = own, corpus, folder

    def submit(self, *words):
        """The id of a new job."""
        before = time.monotonic()
        answer = typed("submit", *TINY, f"data.path={self._corpus}", *ONE, *words)
        assert answer.code == 0, answer
        self.took = time.monotonic() - before
        return answer.out.split()[0]

    def until(self, true, seconds):
        deadline = time.monotonic() + seconds
        while not (answer := true()):
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)
        return answer

    def get(self, job):
        """What the queue says of a job; nothing while it is away."""
        try:
            return connect().get(job)
        except Unreachable:
            return {"state": None, "run": None, "attempt": None, "reason": ""}

    def state(self, job):
        return self.get(job)["state"]

    def run(self, job):
        """The run of a job, once its driver has begun."""
        folder = self.get(job)["run"]
        return Run(self._folder / folder) if folder else None

    def next_run(self, job, before):
        """Its run, once that is another one than before."""
        run = self.run(job)
        return run if run and run.folder != before.folder else None

    def steps(self, job):
        run = self.run(job)
        path = run.folder / "metrics.jsonl" if run else None
        return path.read_text().count("train/loss") if path and path.exists() else 0

    def attempt(self, job):
        return self.get(job)["attempt"]

    def driver(self, job):
        """Its process."""
        text = (self.own.folder / "jobs" / job / f"driver-{self.attempt(job)}.pid").read_text()
        return int(text.split()[0])

    def in_mlflow(self, run):
        """The status of a run in the store, read without mlflow."""
        state = State.load(run.folder)
        with sqlite3.connect(self._folder / "outputs" / "mlflow.db") as store:
            query = "select status from runs where run_uuid = ?"
            found = store.execute(query, [state and state.run_id]).fetchone()
        return found and found[0]

    def said(self):
        logs = sorted(self.own.folder.glob("logs/*.log")) + sorted(
            self.own.folder.glob("jobs/*/screen.log")
        )
        return "\n".join(f"{log}:\n{log.read_text(errors='replace')[-2500:]}" for log in logs)


def test_what_can_not_be_brought_up_is_refused_with_what_to_type(day, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words, said in (
            (("--cpus", "4096"), "--cpus=4096 must be from 1 to "),
            (("--gpus", "4096"), "--gpus=4096 must be from 0 to "),
            (("--mlflow-port", str(port)), f"--mlflow-port={port} can't be used: Address already"),
            (("--host", "192.0.2.1"), "--host=192.0.2.1 can't be used"),
            (("--join", "127.0.0.1:9"), "no Ray cluster answers there"),
            (("--join", "somewhere"), "no Ray cluster answers there"),
            (("--join", f"127.0.0.1:{port}"), "needs the token of that cluster"),
            (("--user", "../ann"), "must begin with a letter"),
            (("--hosts", "a,-oProxyCommand=x"), "'-oProxyCommand=x' is no host"),
            (("--hosts", "a,b,a"), "a comes twice"),
            (("--hosts", "a"), "type --host ADDRESS, too"),
            (("--hosts", "a", "--join", "b:1"), "leave one of them out"),
            (("--database", "postgresql+psycopg://me:secret@h/q"), "put it into ~/.pgpass"),
            (("--database", "sqlite://"), "is in memory and would be lost"),
        ):
            assert said in refused("up", *words)
    assert not control.look(day.own).plan
    told = typed("up", "--user", "ann").out
    token = day.own.token("ann").read_text()
    assert str(day.own.token("ann")) in told
    assert token not in told


@pytest.fixture
def database(tmp_path_factory):
    """What `up` is told of a database: a PostgreSQL of our own, if that can be had."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of a host without XDG_RUNTIME_DIR
            import pgserver
            import psycopg  # noqa: F401
    except ImportError:
        yield ()
        return
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"))
    yield ("--database", server.get_uri().replace("postgresql://", "postgresql+psycopg://"))
    server.cleanup()


def test_a_short_day_from_up_to_down(day, database):
    up = typed("up", "--cpus", "1", *database)
    assert up.code == 0, (up, day.said())
    assert ("the queue keeps its jobs in postgresql" in up.out) == bool(database)
    assert "is up with its jobs in" in refused("up", "--database", "sqlite:////elsewhere/queue.db")
    assert (day.own.folder / "queue.db").exists() == (not database)
    job = day.submit("stage.steps=3000", "stage.checkpoint_every=5", "stage.evaluate_every=3000")
    day.until(lambda: day.steps(job) > 5, 60)
    assert "running" in typed("jobs").out
    assert "/3000  " in typed("top").out
    assert "train loss" in typed("logs", job).out
    first = stopped_and_resumed(day, job)
    assert first.status == "interrupted"
    assert typed("down").code == 0
    nothing_is_left(day)
    if database:
        assert service.check_database(day.own, None) == database[1], "the next `up` takes it again"


@pytest.mark.drill
def test_a_cluster_on_this_machine_from_up_to_down(day):
    up = typed("up", "--cpus", "2")
    assert up.code == 0, (up, day.said())
    assert "2 of 2 CPUs free" in up.out
    daemons = control.look(day.own).daemons
    assert sorted(daemons) == ["mlflow", "queue", "ray"]
    listens = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in marked(day.own)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listens <= {"127.0.0.1", "::1"}, "nobody else has business here"
    assert "up already" in typed("up").out
    assert control.look(day.own).daemons == daemons

    # An ordinary job, from the queue to MLflow.
    first = day.submit()
    assert typed("logs", first, "-f").code == 0, day.said()
    assert "done: 12 steps" in typed("logs", first).out
    assert day.run(first).status == "done"
    day.until(lambda: day.state(first) == "done", AGREE_S)
    day.until(lambda: day.in_mlflow(day.run(first)) == "FINISHED", AGREE_S)

    # What is killed comes back, and the job goes on from its checkpoint.
    long = day.submit("stage.steps=3000", "stage.checkpoint_every=20", "stage.evaluate_every=3000")
    day.until(lambda: day.steps(long) > 25, 60)
    waits = day.submit("resources.cpus_per_worker=2")
    day.until(lambda: "needs" in day.get(waits)["reason"], 10)
    assert "waits: " in typed("status", waits).out
    driver, before = day.driver(long), control.look(day.own).daemons
    killed = day.run(long)
    for pid in (driver, before["mlflow"].pid, before["queue"].pid):
        os.kill(pid, signal.SIGKILL)
    (supervisor,) = marked(day.own, "supervisor")
    os.kill(supervisor.pid, signal.SIGKILL)
    day.until(lambda: not control.look(day.own).supervised, 10)
    assert "another one watches now" in typed("status").out
    day.until(lambda: control.look(day.own).up, 60)
    day.until(lambda: day.attempt(long) == 2 and day.state(long) == "running", AGREE_S)
    day.until(lambda: "goes on with the run of the attempt before" in typed("logs", long).out, 20)
    second = day.until(lambda: day.steps(long) > 5 and day.next_run(long, killed), 60)
    assert second.config["resume"]
    day.until(lambda: day.in_mlflow(killed) == "KILLED", AGREE_S)

    # The head of Ray, with all that ran on it.
    ray = control.look(day.own).daemons["ray"]
    children = psutil.Process(ray.pid).children()
    os.kill(next(c.pid for c in children if "gcs_server" in c.name()), signal.SIGKILL)
    day.until(lambda: control.look(day.own).daemons["ray"].restarts == 1, 20)
    day.until(lambda: day.attempt(long) == 3 and day.state(long) == "running", 60)
    day.until(lambda: day.in_mlflow(second) == "KILLED", AGREE_S)
    day.until(lambda: day.next_run(long, second) and day.steps(long) > 25, 60)

    # Stopped with a checkpoint, its successor on the list begins, and all of it ends.
    third = stopped_and_resumed(day, long)
    assert third.status == "interrupted"
    assert typed("down").code == 0
    nothing_is_left(day)


def stopped_and_resumed(day, job):
    """The run of a job that was stopped with a checkpoint and then went on as another run."""
    assert "it saves and leaves" in typed("stop", job).out
    day.until(lambda: day.state(job) == "stopped", 30)
    stopped = day.run(job)
    assert json.loads((stopped.folder / "result.json").read_text())["checkpoint"]
    day.until(lambda: day.in_mlflow(stopped) == "KILLED", AGREE_S)
    assert "there is nothing to stop" in typed("stop", job).err
    assert typed("resume", job).code == 0
    day.until(lambda: day.next_run(job, stopped) and day.steps(job) > 0, 60)
    assert day.state(job) == "running"
    return stopped


def nothing_is_left(day):
    """What is left is what was said: run folders with checkpoints, and the table."""
    assert marked(day.own) == []
    assert "start one with `orchestrate up`" in refused("status")


# What ssh is to whoever calls it, but on this machine.
SSH = """#!/bin/sh
while [ "$1" = -o ]; do shift 2; done
[ "$1" = away ] && { echo "ssh: Could not resolve hostname away" >&2; exit 255; }
exec sh -c "$2"
"""
NODES = ("n2", "n3", "n4")


@pytest.fixture
def address(tmp_path, monkeypatch):
    """An address of this machine that is no loopback, with our `ssh` first in the path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(SSH)
    (programs / "ssh").chmod(0o700)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    found = [own.address for all_ in psutil.net_if_addrs().values() for own in all_]
    outer = [ip for ip in found if ip.count(".") == 3 and not ip.startswith("127.")]
    return outer[0] if outer else pytest.skip("this machine has no address but loopback's")


@pytest.mark.drill
def test_a_job_learns_the_same_on_one_two_and_four_nodes_and_runs_where_it_was_admitted(
    day, address
):
    up = typed("up", "--cpus", "2", "--host", address, "--hosts", ",".join(NODES))
    assert up.code == 0, (up, day.said())
    up = typed("up", "--hosts", "away")
    assert up.code == 1, (up, day.said())
    assert "up already" in up.out
    assert "away did not join: ssh: Could not resolve hostname away" in up.err
    nodes = day.until(lambda: [one for one in connect().status()["nodes"] if "id" in one], 10)
    assert len(nodes) == 1 + len(NODES)
    names = {one["id"]: one["name"] for one in nodes}
    whole = int(nodes[0]["resources"]["CPU"])
    words = (
        "model.dropout=0",
        "stage.micro_batch_size=2",
        f"resources.cpus_per_worker={whole}",
        "engine=zero0",
    )
    jobs = {many: day.submit(*words, f"resources.workers={many}") for many in (1, 2, 4)}
    for job in jobs.values():
        day.until(lambda job=job: day.state(job) == "done", 240)
    curves = {}
    for many, job in jobs.items():
        run = day.run(job)
        (admitted,) = [event for event in run.events if event["event"] == "admitted"]
        ran_on = sorted(names[worker["node"]] for worker in admitted["workers"])
        assert ran_on == sorted(day.get(job)["placement"])
        assert len(set(ran_on)) == many
        lines, _ = read(run.folder / "metrics.jsonl")
        losses = {m["step"]: m["metrics"]["train/loss"] for m in lines if LOSS in m["metrics"]}
        assert len(losses) == 12
        curves[many] = losses
    assert curves[2] == pytest.approx(curves[1], rel=1e-4)
    assert curves[4] == pytest.approx(curves[1], rel=1e-4)
    down = typed("down")
    assert "the node on away was not ended" in down.err
    nothing_is_left(day)
    assert not [own for name in NODES for own in marked(Home(day.own.folder / "hosts" / name))]
