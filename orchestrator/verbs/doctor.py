"""`orchestrate doctor`: look at this machine; say what is missing and what to type."""

import argparse
import importlib
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.nodes import devices
from data import cache_root
from orchestrator.plan import check_outputs, size

LEAST_FREE_BYTES = 2 * 10**9
UI_PORT = 5000


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` is what to type where something is missing."""

    subject: str
    found: str
    remedy: str | None = None
    needed: bool = True
    """Whether `orchestrate run` fails without it."""


def main(argv: Sequence[str]) -> int:
    """Print what was found; returns 1 if something that `run` needs is missing."""
    options = argparse.ArgumentParser(prog="orchestrate doctor", description=__doc__)
    options.add_argument("--outputs", default="outputs", help="folder of the runs [%(default)s]")
    outputs = Path(options.parse_args(argv).outputs)
    checks: list[Callable[[], list[Finding]]] = [
        _python,
        _torch,
        _devices,
        _deepspeed,
        _packages,
        _ray,
        lambda: _disk(outputs),
        _port,
    ]
    findings = [finding for check in checks for finding in check()]
    table = Table("", "", "found", "what to do", box=None, pad_edge=False)
    for finding in findings:
        mark = "ok" if finding.remedy is None else ("MISSING" if finding.needed else "note")
        table.add_row(mark, finding.subject, finding.found, finding.remedy or "")
    Console(soft_wrap=True).print(table)
    return 1 if any(finding.remedy and finding.needed for finding in findings) else 0


def _python() -> list[Finding]:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    remedy = None if good else "use Python 3.11, 3.12 or 3.13"
    return [Finding("Python", f"{platform.python_version()} at {sys.executable}", remedy)]


def _torch() -> list[Finding]:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return [Finding("torch", str(error), "python -m pip install 'torch>=2.6,<2.14'")]
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    return [Finding("torch", f"{torch.__version__}, {build}, {torch.get_num_threads()} threads")]


def _devices() -> list[Finding]:
    address = os.environ.get("RAY_ADDRESS")
    try:
        here = devices(address)
    except Exception as error:
        return [Finding("devices", f"RAY_ADDRESS={address}: {error}", "unset RAY_ADDRESS")]
    found = [Finding("devices", f"{here.gpus} GPUs, {here.cpus} CPU cores on {here.where}")]
    if here.note:
        found.append(
            Finding("GPU", here.note.partition(";")[0], here.note.partition(";")[2].strip())
        )
    return found


def _deepspeed() -> list[Finding]:
    from orchestrator.training.engine import compiled_ops

    try:
        ops = compiled_ops()
    except ImportError as error:
        return [Finding("DeepSpeed", str(error), "python -m pip install 'deepspeed>=0.19,<0.20'")]
    compiler = shutil.which("g++") or shutil.which("c++")
    built = f"compiler {compiler}" if compiler else "no C++ compiler"
    return [
        Finding("DeepSpeed", metadata.version("deepspeed")),
        Finding(
            "DeepSpeed ops", f"{built}; none is needed; could build: {', '.join(ops) or 'none'}"
        ),
    ]


def _packages() -> list[Finding]:
    findings = []
    for name in ("ray", "mlflow", "hydra-core", "datasets", "tokenizers", "pyarrow"):
        try:
            findings.append(Finding(name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            findings.append(Finding(name, "not installed", f"python -m pip install {name}"))
    return findings


def _ray() -> list[Finding]:
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return []
    free = shutil.disk_usage(shared).free
    remedy = None if free > 200 * 10**6 else "give the container more: docker run --shm-size=1g"
    return [Finding("shared memory", f"{size(free)} free in {shared}", remedy)]


def _disk(outputs: Path) -> list[Finding]:
    findings = []
    for subject, folder, setting in (
        ("outputs", outputs, "outputs=FOLDER"),
        ("cache", cache_root(), "export ORCHESTRATE_CACHE=FOLDER"),
    ):
        try:
            free = check_outputs(folder)
        except ValueError as error:
            findings.append(Finding(subject, str(error), setting))
            continue
        remedy = None if free > LEAST_FREE_BYTES else f"free some, or {setting} on another disk"
        findings.append(Finding(subject, f"{size(free)} free for {folder}", remedy))
    return findings


def _port() -> list[Finding]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", UI_PORT))
        except OSError:
            found = f"port {UI_PORT} is taken; `orchestrate ui` takes another"
            return [Finding("MLflow UI", found)]
    return [Finding("MLflow UI", f"port {UI_PORT} is free")]
