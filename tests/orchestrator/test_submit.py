"""What is submitted is checked here and travels whole; its driver does what `run` does."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cluster.daemons.home import home, user, write
from cluster.queue.client import connect
from cluster.queue.drivers import Node
from cluster.queue.job import ENDED, Bundle, State
from cluster.queue.keeper import Keeper
from cluster.queue.processes import Processes
from orchestrator.job import submitted
from orchestrator.record.code import SOURCE
from orchestrator.record.runs import Run
from orchestrator.verbs.sweep.table import Table
from tests.cluster.queue_server import answering
from tests.orchestrator.typed import SMALL, on, refused, typed

GANG = ("resources=cpu2", "engine=zero0")
RAY = "127.0.0.1:6379"
NODE = {"name": "here", "address": "127.0.0.1", "labels": {}}


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATE_STATE", str(tmp_path / "state"))
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):  # which submit and sweep set
        monkeypatch.setenv(name, "")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return home()


@pytest.fixture
def table(own):
    """The table of a queue on a cluster of one node with 2 CPUs."""
    own.admit(user())
    with answering(own) as (address, store):
        ray, mlflow = {"address": RAY, "http": ""}, {"uri": "sqlite:////x/mlflow.db", "page": ""}
        write(own.plan, {"queue": address, "ray": ray, "mlflow": mlflow, "since": 0, "daemons": []})
        write(own.folder / "nodes.json", [NODE | {"resources": {"CPU": 2.0, "memory": 2.0**33}}])
        with own.locked("supervisor"):  # somebody watches
            yield store


def test_a_job_travels_with_its_config_and_code_and_its_driver_does_what_run_does(
    table, own, corpus
):
    steps = ("stage.steps=2", "stage.checkpoint_every=1", "stage.sample_tokens=0")
    own_words = (*on(corpus), *steps, "resources.cpus_per_worker=2")
    answer = typed("submit", *own_words, "--name", "first", "--priority", "3")
    assert answer.code == 0, answer
    (record,) = table.list()
    job, folder = record.job, own.folder / "jobs" / record.job.id
    assert f"watch:  orchestrate logs {job.id} -f" in answer.out
    assert (job.owner, job.name, job.priority) == (user(), "first", 3)
    assert job.needs == (Bundle(cpus=2),), "in the driver's own process"
    code = own.folder / "parcels" / str(job.parcel)
    assert job.environment["PYTHONPATH"] == str(code)
    here, there = (root / "orchestrator" / "verbs" / "submit.py" for root in (SOURCE, code))
    assert there.read_bytes() == here.read_bytes()

    cwd = Path.cwd()
    assert submitted.main([str(folder)]) == 0
    assert Path.cwd() == cwd
    run = Run((folder / "run").resolve())
    assert run.status == "done"
    assert run.folder.is_relative_to(f"{cwd}/outputs")
    said = json.loads((run.folder / "code.json").read_text())
    assert said["command"].startswith("orchestrate run data=text")
    assert connect().get(job.id)["run"] == str(run.folder)
    assert typed("why", str(run.folder)).code == 0

    # A driver that died: what its successor finds is a run with a checkpoint, at step 1 of 2.
    shutil.rmtree(run.folder / "checkpoints" / "step_00000002")
    (run.folder / "result.json").unlink()
    assert submitted.main([str(folder)]) == 0
    again = Run((folder / "run").resolve())
    assert again.folder != run.folder
    assert again.config["resume"].startswith(str(run.folder))


def test_a_gang_needs_a_bundle_for_each_worker_and_mlflow_is_that_of_the_cluster(table, corpus):
    words = (*on(corpus), *GANG, "tracking=mlflow")
    assert typed("submit", *words).code == 0
    (record,) = table.list()
    assert len(record.job.needs) == 2
    assert record.job.needs[0].cpus == 1
    assert record.job.needs[0].memory_bytes > 0
    assert record.job.environment["MLFLOW_TRACKING_URI"] == "sqlite:////x/mlflow.db"
    listed = typed("jobs").out
    assert record.job.id in listed
    assert typed("status", record.job.id).out.splitlines()[0].startswith(f"{record.job.id} of ")
    assert "1 waiting" in typed("status").out
    assert "it had not begun" in typed("stop", record.job.id).out
    assert table.get(record.job.id).state is State.STOPPED
    assert "nothing to stop" in refused("stop", record.job.id)
    assert "nearest: " + record.job.id in refused("resume", record.job.id[:-1] + "x")
    assert "goes on from its last checkpoint" in typed("resume", record.job.id).out
    assert typed("logs", record.job.id).err.startswith(f"{record.job.id} has said nothing yet")


def test_what_can_never_work_is_refused_before_the_queue_hears_of_it(table, corpus, tmp_path):
    for words, said in (
        ((*GANG, "stage.global_batch_size=3"), "nearest"),
        ((*GANG, "resources.workers=3", "stage.global_batch_size=6"), "do not fit the cluster at"),
        (("resources=cpu1", "resources.address=10.0.0.1:6379"), "is another cluster than"),
        ((f"data.path={tmp_path / 'none'}",), "none"),
        (("--limit-minutes", "-1"), "--limit-minutes=-1.0 must be above 0"),
        (("model._target_=os.system",), "model._target_: there is no such setting"),
    ):
        assert said in refused("submit", *on(corpus), *words)
    assert table.list() == []


def test_a_quota_is_set_and_listed_and_nonsense_told(table):
    assert "everybody may hold all there is" in typed("quota").out
    listed = typed("quota", "owner", "*", "gpus=4", "jobs=2").out.splitlines()
    assert listed[1].split() == ["owner", "*", "-", "4", "-", "2"]
    assert typed("quota", "owner", "*", "none").out.startswith("no quotas")
    for words in (("owner",), ("owner", "ann", "gpu=4"), ("owner", "ann", "gpus=many")):
        assert "gpus" in refused("quota", *words)


def test_run_detach_is_submit(table, corpus):
    answer = typed("run", "--detach", *on(corpus), *GANG)
    assert answer.code == 0, answer
    (record,) = table.list()
    assert f"{record.job.id} is waiting; needs 2 x (1 CPU, " in answer.out


def test_where_nothing_is_up_each_command_says_what_to_type(own):
    for words in (("submit", *SMALL), ("jobs",), ("status",), ("stop", "x"), ("logs", "x")):
        assert "start one with `orchestrate up`" in refused(*words)
    assert typed("down").out == "nothing is up on this machine\n"


@pytest.fixture
def kept(table, tmp_path):
    """The table, and somebody who keeps the queue: its drivers are processes of this machine."""
    drivers = Processes(tmp_path / "attempts", [Node("here", 2)], Path.cwd())
    keeper, over = Keeper(table, drivers, grace_s=20), threading.Event()

    def keep():
        while not over.wait(0.05):
            keeper.tick()

    thread = threading.Thread(target=keep)
    thread.start()
    yield table
    for record in table.list():
        if record.state not in ENDED:
            table.stop(record.job.id, user(), anyone=True)
    deadline = time.monotonic() + 30
    while any(record.state not in ENDED for record in table.list()) and time.monotonic() < deadline:
        time.sleep(0.05)
    over.set()
    thread.join()


def test_a_sweep_of_jobs_of_the_queue_finds_them_again_after_it_was_killed(kept, tmp_path):
    digits = ("experiment=small", "stage=classify", "model.hidden=[8]", "optim.warmup_steps=0")
    lasting = ("stage.steps=1500", "stage.evaluate_every=100", "stage.checkpoint_every=500")
    words = [*digits, *lasting, "optim.learning_rate=1e-2,3e-3,1e-7", "pruner=asha"]
    assert "pruner=asha" in refused("sweep", *words, "launcher=queue", "pruner=pbt")
    sweep = [sys.executable, "-m", "orchestrator", "sweep", *words]
    with subprocess.Popen([*sweep, "launcher=queue", "name=x", "tracking=none"]) as process:
        deadline = time.monotonic() + 60
        while not any(record.state is State.RUNNING for record in kept.list()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    handed_in = {record.job.id for record in kept.list()}
    assert handed_in
    answer = typed("sweep", "--resume", "x")
    assert answer.code == 0, answer
    assert "2 at once, 1 worker on CPU each, as jobs of the cluster at" in answer.out
    (folder,) = Path("outputs").glob("*/*-sweep-x")
    with Table(folder) as table:
        trials = table.trials
    begun = [[own for own in trial.folders if own.is_dir()] for trial in trials]
    assert [len(own) for own in begun] == [1, 1, 1], "none was begun anew"
    assert all(trial.folders[-1] == own for trial, (own,) in zip(trials, begun, strict=True))
    ids = {trial.folders[-1].name[9:] for trial in trials}
    assert handed_in <= ids == {record.job.id for record in kept.list()}
    assert {trial.status for trial in trials} <= {"done", "pruned"}
    best = min((own for own in trials if own.status == "done"), key=lambda own: own.values)
    assert Run(best.folders[-1]).result["steps"] == 1500
    assert all(trial.reports for trial in trials)
    assert trials[2].stopped == "pruned", "the queue was told to stop it"
