"""`orchestrate doctor --calibrate`: measure this machine, and keep that for plans.

Of a machine with GPUs the first GPU is measured, by one process. Of others three groups of
processes measure, one after another: a rank of one thread on every core, with all models; one rank
alone, and one with all threads, with one of them. Then a small job runs.
"""

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from cluster.connection.starting import ONE_HEAP
from cluster.nodes import local_cpus
from models.configs import ModelConfig
from models.cost import Pass
from orchestrator.plan import lessons
from orchestrator.plan.calibration import (
    Calibration,
    cpu_name,
    fit,
    fit_residuals,
    machine,
    pass_features,
    place,
    update_features,
    write_features,
)
from orchestrator.plan.gpu_calibration import LEAST_BUSY, GpuCalibration, fitted
from orchestrator.plan.hardware import gpu_here
from orchestrator.plan.scoring import LEAST_STEPS
from orchestrator.plan.working import WRITTEN_OUT_TOKENS
from orchestrator.terminal import say

LIMIT_S = 600
FEW = 1  # model of every layout


def calibrate() -> int:
    """Measure, keep, and say what was found; returns the exit code."""
    gpu = gpu_here()
    return calibrate_cpus() if gpu is None else calibrate_gpu(gpu)


def calibrate_gpu(gpu: str) -> int:
    """The same of this machine's first GPU, whose name in GPUS that is."""
    begun = time.monotonic()
    say(f"measuring {gpu}; leave this machine alone for a minute")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "found.json"
        words = ["orchestrator.training.measuring_gpu", str(file), "cuda:0", "100"]
        _ranks(1, words, {"OMP_NUM_THREADS": str(local_cpus()), "DS_ACCELERATOR": "cuda"})
        found = json.loads(file.read_text())
    new = from_gpu(found)
    path = new.save(gpu)
    off = [abs(error) for error in gpu_errors(found)]
    for line in new.lines(gpu):
        say(line)
    say(
        f"steps of {len(off)} models that keep it busy are told, each from the others, within "
        f"{100 * sum(off) / len(off):.0f}% on the average, {100 * max(off):.0f}% at most"
    )
    say(f"kept in {path}, after {time.monotonic() - begun:.0f} s")
    return 0


def from_gpu(found: dict[str, Any]) -> GpuCalibration:
    """What measuring_gpu.py has found, as plans have it."""
    return fitted(
        [(sized(row)[0], row) for row in found["launched"]],
        [(*sized(row), row) for row in found["computed"]],
        [(sized(row)[0], row) for row in found["writes"]],
        found["tiny"]["bytes"],
        cpu_name(),
    )


def gpu_errors(found: dict[str, Any]) -> list[float]:
    """Of each model that keeps the GPU busy, as `errors` has it, of a pass."""
    errors, whole = [], from_gpu(found)
    for row in found["computed"]:
        model, micro = sized(row)
        if row["pass_s"] > LEAST_BUSY * whole.launch_seconds(model, row["engine"]):
            others = [each for each in found["computed"] if each is not row]
            told = from_gpu({**found, "computed": others}).pass_seconds(model, micro)
            errors.append(told / row["pass_s"] - 1)
    return errors


def calibrate_cpus() -> int:
    """The same of this machine's cores."""
    cores, begun = local_cpus(), time.monotonic()
    say(f"measuring this machine, {cores} cores; leave it alone for a minute")
    everything = measure(cores, 1, None)
    rows, written = everything.pop("steps"), everything.pop("writes")
    passes, updates, residuals = constants(rows)
    layouts = {f"{cores}x1": 1.0}
    for ranks, threads in ((1, 1), (1, cores)):
        if f"{ranks}x{threads}" not in layouts:
            few = measure(ranks, threads, FEW)["steps"]
            layouts[f"{ranks}x{threads}"] = _ratio(few, rows)
    writes = writing(written)
    new = Calibration(
        machine(), passes, updates, layouts, residuals=residuals, writes=writes, **everything
    )
    path = new.save()
    _small_job()
    for line in [*new.lines(), *lessons.load().lines()]:
        say(line)
    off = [abs(error) for error in errors(new, rows)]
    say(
        f"steps of {len(rows)} small models are told, each from the others, within "
        f"{100 * sum(off) / len(off):.0f}% on the average, {100 * max(off):.0f}% at most"
    )
    say(f"kept in {path}, after {time.monotonic() - begun:.0f} s")
    return 0


def _small_job() -> None:
    """A run like those to come; it teaches the calibration what a rank's libraries take."""
    with tempfile.TemporaryDirectory() as scratch:
        words = [
            f"outputs={scratch}",
            f"stage.steps={LEAST_STEPS}",
            *("tracking=none", "optim.warmup_steps=1", "stage.sample_tokens=0"),
            "resources.gpus_per_worker=0",
        ]
        command = [sys.executable, "-m", "orchestrator", "run", *words]
        done = subprocess.run(
            command, env=_environment(), capture_output=True, text=True, check=False
        )
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1]
        raise RuntimeError(f"the small job at the end failed: {last}")


def _environment() -> dict[str, str]:
    """Of processes that import this code."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


def errors(own: Calibration, rows: list[dict[str, Any]]) -> list[float]:
    """Of each row, how far the others tell the time of a step of two passes from what it was,
    relative.
    """
    found = []
    for row in rows:
        others = [each for each in rows if each is not row]
        passes, updates, residuals = constants(others)
        alone = replace(own, passes=passes, updates=updates, residuals=residuals)
        model, micro = sized(row)
        told = 2 * alone.pass_seconds(model, micro, row["precision"], "")
        told += alone.update_seconds(model, row["precision"])
        found.append(told / (2 * row["pass_s"] + row["update_s"]) - 1)
    return found


def constants(
    rows: list[dict[str, Any]],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Of passes and of updates, by precision, and how far passes are from what those tell."""
    passes, updates, residuals = {}, {}, {}
    for precision in sorted({row["precision"] for row in rows}):
        own = [row for row in rows if row["precision"] == precision]
        models, took = [sized(row) for row in own], [row["pass_s"] for row in own]
        features = [pass_features(*each) for each in models]
        passes[precision] = fit(features, took)
        told = (
            sum(a * x for a, x in zip(passes[precision], each, strict=True)) for each in features
        )
        logs = [math.log(real / each) for real, each in zip(took, told, strict=True)]
        places = [at for each in models if (at := place(*each)) is not None]
        residuals[precision] = fit_residuals(places, logs)
        updates[precision] = fit(
            [update_features(model) for model, _ in models],
            [max(row["update_s"], 1e-4) for row in own],
        )
    return passes, updates, residuals


def writing(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Constants of a token that is written, by precision."""
    from orchestrator.training.measuring import NEW, PROMPT

    found = {}
    for precision in sorted({row["precision"] for row in rows}):
        own = [row for row in rows if row["precision"] == precision]
        features = [
            write_features(sized(row)[0], row["rows"], PROMPT + NEW / 2, precision) for row in own
        ]
        found[precision] = fit(features, [row["tokens_s"] for row in own])
    return found


def sized(row: dict[str, Any]) -> tuple[ModelConfig, Pass]:
    """The model and micro-batch of a row."""
    from orchestrator.training.measuring import Sized

    own = Sized(**{each.name: row[each.name] for each in fields(Sized)})
    half = row.get("precision", "bf16") == "bf16"
    on_cpu = "bytes" not in row  # of a GPU's tensors
    written_out = on_cpu and half and own.length <= WRITTEN_OUT_TOKENS
    return own.config, Pass(own.sequences, own.length, half, written_out)


def _ratio(few: list[dict[str, Any]], rows: list[dict[str, Any]]) -> float:
    """How long passes take in another layout, over what they took; the mean of the models."""

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(value for name, value in row.items() if not name.endswith("_s"))

    took = {key(row): row["pass_s"] for row in rows}
    ratios = [float(row["pass_s"] / took[key(row)]) for row in few]
    return sum(ratios) / len(ratios)


def measure(ranks: int, threads: int, models: int | None) -> dict[str, Any]:
    """What so many ranks have found. Raises ValueError if they can't measure."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "found.json"
        words = ["orchestrator.training.measuring", str(file), str(models or 100), str(threads)]
        own = {"OMP_NUM_THREADS": str(threads), "DS_ACCELERATOR": "cpu", **ONE_HEAP}
        _ranks(ranks, [*words, str(int(models is None))], own)
        found: dict[str, Any] = json.loads(file.read_text())
        return found


def _ranks(number: int, words: list[str], own: dict[str, str]) -> None:
    """Run a module of this code as so many ranks. Raises ValueError if they can't measure."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    own |= {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *words],
            env={**_environment(), **own, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(number)
    ]
    try:
        said = [process.communicate(timeout=LIMIT_S)[1] for process in started]
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"this machine was not measured within {LIMIT_S} s: it is busy; try again when it "
            "is not"
        ) from None
    finally:
        for process in started:
            process.kill()
    if any(process.returncode for process in started):
        last = next(text for p, text in zip(started, said, strict=True) if p.returncode)
        raise RuntimeError(f"a rank could not measure: {last.strip().splitlines()[-1]}")
