"""Ranks of torchrun wait for rank 0, however long it takes, and are set free when it refuses."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from cluster.host.network import free_port
from orchestrator.compose.automatic import automatic
from orchestrator.config import JobConfig, ResourcesConfig
from orchestrator.job import torchrun
from orchestrator.job.rank import Assignment
from orchestrator.plan.devices import check_fits
from orchestrator.record import runfolder
from orchestrator.record.fencing import Fence
from tests.orchestrator.typed import on, typed

ROOT = Path(__file__).parents[2]
INLINE = JobConfig(resources=ResourcesConfig(launcher="inline"))


@pytest.fixture
def two_ranks(monkeypatch):
    """The environment of rank 0 of two, without an agent that keeps the store."""
    names = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**names, "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)


def test_a_rank_waits_longer_than_any_single_look(two_ranks, monkeypatch):
    monkeypatch.setattr(torchrun, "LOOK", timedelta(milliseconds=50))
    heard = []
    assignment = Assignment(JobConfig(), Path("run"), 7, Fence(Path("run"), 1, 1))
    with torchrun.leading(INLINE) as hand_out:
        store = torchrun._store()
        other = threading.Thread(target=lambda: heard.append(torchrun.wait_for_word(store)))
        other.start()
        time.sleep(0.5)
        assert heard == []
        hand_out(assignment)
        other.join(10)
    assert torchrun.pickle.loads(heard[0]) == assignment


def test_what_rank_0_refuses_sets_the_others_free(two_ranks):
    store = torchrun._store()
    leading = torchrun.leading(INLINE)
    leading.__enter__()
    assert not leading.__exit__(ValueError, ValueError("no such data"), None)
    assert torchrun.wait_for_word(store) == torchrun.NOTHING_TO_DO


def test_rank_0_that_lost_a_connection_tells_the_failure_of_the_other(two_ranks, monkeypatch):
    monkeypatch.setattr(torchrun, "ECHO_WAIT", timedelta(milliseconds=50))
    echo = RuntimeError("[../gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]")
    with torchrun.leading(INLINE):
        assert torchrun.failure_of_another(echo) is None, "nobody has said more"
        store = torchrun._store()
        monkeypatch.setenv("RANK", "1")
        torchrun.leave_word(store, echo, Path("logs/rank-1.log"))
        torchrun.leave_word(store, OSError("no data"), Path("logs/rank-1.log"))
        torchrun.leave_word(store, KeyError("too late"), Path("logs/rank-1.log"))
        monkeypatch.setenv("RANK", "0")
        assert torchrun.failure_of_another(ValueError("my own")) is None
        first = torchrun.failure_of_another(echo)
    assert (first.rank, first.error_type, first.message) == (1, "OSError", "no data")
    assert first.log == Path("logs/rank-1.log")


@pytest.mark.parametrize(
    ("launcher", "left_over"),
    [
        ("ray", ("RANK", "WORLD_SIZE", "MASTER_ADDR")),
        ("inline", ("WORLD_SIZE",)),
        ("inline", ("RANK", "MASTER_ADDR")),
    ],
)
def test_variables_that_torchrun_left_behind_start_no_store(launcher, left_over, monkeypatch):
    values = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name in left_over:
        monkeypatch.setenv(name, values[name])
    config = JobConfig(resources=ResourcesConfig(launcher=launcher))
    assert not torchrun.is_follower(config)
    with torchrun.leading(config) as hand_out:
        hand_out(Assignment(config, Path("run"), None, Fence(Path("run"), 1, 1)))
    assert automatic("inline_workers") == 1
    check_fits(ResourcesConfig(launcher="inline"))


def test_an_inline_job_has_the_workers_that_torchrun_started(two_ranks):
    assert automatic("inline_workers") == 2
    check_fits(ResourcesConfig(launcher="inline", workers=2))


def test_torchrun_with_a_job_of_ray_in_each_process_is_refused(two_ranks, monkeypatch):
    torchrun.check_launcher(JobConfig(resources=ResourcesConfig(launcher="ray")))  # left over
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    torchrun.check_launcher(INLINE)
    with pytest.raises(ValueError, match="2 processes of torchrun; add resources=inline"):
        torchrun.check_launcher(JobConfig(resources=ResourcesConfig(launcher="ray")))


def test_a_refused_job_ends_on_every_rank_with_one_message(tmp_path):
    words = [word for word in on(Path("nowhere")) if not word.startswith("engine=")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "orchestrator", "run", *words),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.count("error: data.path=nowhere") == 1, done.stderr
    assert not (tmp_path / "outputs").exists()


def test_data_that_a_rank_does_not_find_on_its_host_ends_with_2_and_the_folder(
    tmp_path, monkeypatch, corpus
):
    """The cache of the driver is cleared between its preparation and the rank's start."""
    cache = tmp_path / "cache"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(cache))
    create = runfolder.create

    def clear(*arguments):
        shutil.rmtree(cache / "data" / "sets")
        return create(*arguments)

    monkeypatch.setattr(runfolder, "create", clear)
    answer = typed("run", *on(corpus), "stage.steps=2")
    assert answer.code == 2, answer
    assert f"{cache}/data/sets/" in answer.out
    assert "is not there" in answer.out
    assert "let every host see that folder" in answer.out
    result = json.loads(Path("outputs/latest/result.json").read_text())
    assert (result["status"], result["error"]["class"]) == ("failed", "not_shared")
