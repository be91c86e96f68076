"""A cluster on this machine as a user has it: up, jobs, whatever is killed, down, nothing left.

The whole day is one test, for the start of Ray and MLflow is dear, and among the drills, for it
takes minutes: python -m pytest -n 0 -m drill tests/orchestrator/test_up.py
"""

import json
import os
import signal
import socket
import sqlite3
import time

import psutil
import pytest

from cluster.daemons import control
from cluster.daemons.daemon import marked
from cluster.daemons.home import home
from cluster.queue.client import Unreachable, connect
from orchestrator.record.runs import Run
from tests.orchestrator.commands import TINY
from tests.orchestrator.typed import Answer, refused, typed

ONE = ("resources=cpu1", "engine=torch", "stage.sample_tokens=0")
AGREE_S = 10.0


@pytest.fixture
def day(tmp_path, monkeypatch, corpus):
    """A folder of the user's, with nothing up; whatever happens, nothing is up after it."""
    monkeypatch.setenv("ORCHESTRATE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("RAY_AUTH_MODE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
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

    def in_mlflow(self, job):
        """The status of the newest run of a job in the store, read without mlflow."""
        result = self.run(job).result
        with sqlite3.connect(self._folder / "outputs" / "mlflow.db") as store:
            query = "select status from runs where run_uuid = ?"
            found = store.execute(query, [result.get("mlflow_run_id")]).fetchone()
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
        ):
            assert said in refused("up", *words)
    assert not control.look(day.own).plan
    told = typed("up", "--user", "ann").out
    token = day.own.token("ann").read_text()
    assert str(day.own.token("ann")) in told
    assert token not in told


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
    day.until(lambda: day.state(first) == "done" and day.in_mlflow(first) == "FINISHED", AGREE_S)

    # What is killed comes back, and the job goes on from its checkpoint.
    long = day.submit("stage.steps=3000", "stage.checkpoint_every=20", "stage.evaluate_every=3000")
    day.until(lambda: day.steps(long) > 25, 60)
    waits = day.submit("resources.cpus_per_worker=2")
    day.until(lambda: "needs" in day.get(waits)["reason"], 10)
    assert "waits: " in typed("status", waits).out
    driver, before = day.driver(long), control.look(day.own).daemons
    for pid in (driver, before["mlflow"].pid, before["queue"].pid):
        os.kill(pid, signal.SIGKILL)
    (supervisor,) = marked(day.own, "supervisor")
    os.kill(supervisor.pid, signal.SIGKILL)
    day.until(lambda: not control.look(day.own).supervised, 10)
    assert "another one watches now" in typed("status").out
    day.until(lambda: control.look(day.own).up, 60)
    day.until(lambda: day.attempt(long) == 2 and day.state(long) == "running", AGREE_S)
    day.until(lambda: "goes on with the run of the attempt before" in typed("logs", long).out, 20)
    second = day.until(lambda: day.steps(long) > 5 and day.run(long), 60)
    assert second.config["resume"]

    # The head of Ray, with all that ran on it.
    ray = control.look(day.own).daemons["ray"]
    children = psutil.Process(ray.pid).children()
    os.kill(next(c.pid for c in children if "gcs_server" in c.name()), signal.SIGKILL)
    day.until(lambda: control.look(day.own).daemons["ray"].restarts == 1, 20)
    day.until(lambda: day.attempt(long) == 3 and day.state(long) == "running", 60)
    day.until(lambda: day.steps(long) > 25, 60)

    # Stopped with a checkpoint, its successor on the list begins, and all of it ends.
    assert "it saves and leaves" in typed("stop", long).out
    day.until(lambda: day.state(long) == "stopped", 30)
    third = day.run(long)
    assert third.status == "interrupted"
    assert json.loads((third.folder / "result.json").read_text())["checkpoint"]
    day.until(lambda: day.in_mlflow(long) == "KILLED", AGREE_S)
    assert "there is nothing to stop" in refused("stop", long)
    assert typed("resume", long).code == 0
    day.until(lambda: day.steps(long) > 0 and day.state(long) == "running", 60)
    assert typed("down").code == 0
    assert marked(day.own) == []
    assert day_after(day)


def day_after(day):
    """What is left is what was said: run folders with checkpoints, and the table."""
    answer: Answer = typed("status")
    assert answer.code == 2
    assert "start one with `orchestrate up`" in answer.err
    return True
