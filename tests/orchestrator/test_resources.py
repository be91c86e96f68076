import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.gang import GangRefused
from cluster.nodes import local_cpus
from orchestrator.compose import compose_one
from orchestrator.compose.automatic import automatic
from orchestrator.config import ResourcesConfig
from orchestrator.plan.devices import available, check_fits
from tests.orchestrator.typed import on, refused

ROOT = Path(__file__).parents[2]


@pytest.fixture
def machine(tmp_path):
    """Plans on a machine with N GPUs, by its nvidia-smi, and a torch built for them or not."""

    def plan(gpus, cuda, *arguments):
        smi = tmp_path / "nvidia-smi"
        lines = [f"echo 'GPU {i}: NVIDIA H100 (UUID: GPU-{i}aaaa)'" for i in range(gpus)]
        smi.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
        smi.chmod(0o755)
        torch = tmp_path / "torch"
        torch.mkdir(exist_ok=True)
        # Not a torch: it can be found, and asked for its version, but an import would fail.
        (torch / "__init__.py").write_text("raise ImportError('torch was imported')\n")
        (torch / "version.py").write_text(f"cuda: str | None = {cuda!r}\nhip = None\n")
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", "plan", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "PYTHONPATH": f"{tmp_path}:{ROOT}",
            },
            check=False,
        )

    return plan


def test_every_gpu_gets_a_worker(machine):
    done = machine(4, "12.8", "--cfg", "job", "--resolve")
    assert done.returncode == 0, done.stderr
    assert "workers: 4" in done.stdout
    assert "gpus_per_worker: 1" in done.stdout
    assert "precision: bf16" in done.stdout


def test_cpu_workers_on_a_machine_with_gpus_compute_as_the_cpu_does_best(machine):
    done = machine(4, "12.8", "--cfg", "job", "--resolve", "resources=cpu1")
    assert "gpus_per_worker: 0" in done.stdout
    assert f"precision: {automatic('precision')}" in done.stdout


def test_gpus_that_do_not_divide_the_batch_are_refused_with_legal_values(machine):
    done = machine(5, "12.8", "stage.global_batch_size=24")
    assert done.returncode == 2
    assert done.stderr == (
        "error: stage.global_batch_size=24 must be a multiple of resources.workers=5; "
        "nearest: 20, 25; or try resources.workers=4\n"
    )


def test_gpus_that_a_cpu_build_of_torch_cannot_use_are_never_passed_over_in_silence(
    machine, corpus
):
    small = [word for word in on(corpus) if not word.startswith(("resources", "engine"))]
    done = machine(2, None, *small)
    assert done.returncode == 0, done.stderr
    assert " x CPU" in done.stdout
    assert "note        2 GPU(s) are here but the installed torch is a CPU build" in done.stdout
    done = machine(2, None, *small, "resources=gpu1", "resources.cpus_per_worker=1")
    assert done.returncode == 0, "a plan may be for another machine"
    assert "the installed torch is a CPU build" in done.stdout.partition("note ")[2]


def test_without_gpus_there_are_up_to_two_workers_that_fit(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    available.cache_clear()
    workers, cpus = automatic("workers"), automatic("cpus_per_worker")
    assert 1 <= workers <= 2
    assert workers * cpus <= local_cpus()
    assert automatic("gpus_per_worker") == 0
    check_fits(ResourcesConfig(workers=workers, cpus_per_worker=cpus))
    with pytest.raises(GangRefused, match="resources=auto takes what is there"):
        check_fits(ResourcesConfig(workers=1, cpus_per_worker=local_cpus() + 1))
    available.cache_clear()


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("40,2", 40), ("0", None), ("two", None)])
def test_a_process_without_ray_takes_the_threads_that_openmp_is_told(said, threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    of_the_cores = automatic("inline_cpus")
    assert 1 <= of_the_cores <= local_cpus()
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert automatic("inline_cpus") == (threads or of_the_cores)
    of_a_job = compose_one(["resources=inline"]).resources.cpus_per_worker
    assert of_a_job == (threads or of_the_cores)


def test_ranks_of_torchrun_share_the_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # torchrun has set it, not the user
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    alone = automatic("inline_cpus")  # without the rest it was left over
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    assert automatic("inline_cpus") == 1 <= alone


def test_an_unknown_automatic_value_is_refused():
    with pytest.raises(ValueError, match="colour"):
        automatic("colour")


def test_a_cluster_that_does_not_answer_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as nobody:  # bound, but it does not listen
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        said = refused("run")
        assert f"{address}: no Ray cluster answers there" in said
        assert "unset it to run on this machine" in said
        monkeypatch.delenv("RAY_ADDRESS")
        assert address in refused("run", "resources=cpu1", f"resources.address={address}")
