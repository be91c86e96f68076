"""`orchestrate doctor`: look at this machine; say what is missing and what to type.

Nothing heavy is imported at the top: it must work where any of the packages is missing.
"""

import argparse
import importlib
import os
import platform
import shutil
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

LEAST_FREE_BYTES = 2 * 10**9
LEAST_SHARED_BYTES = 200 * 10**6  # Ray's object store, and some room
UI_PORT = 5000


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` is what to type where something is missing."""

    subject: str
    found: str
    remedy: str | None = None
    needed: bool = True
    """Whether `orchestrate run` fails without it."""

    @property
    def mark(self) -> str:
        """What stands at the beginning of the line."""
        if self.remedy is None:
            return "ok"
        return "MISSING" if self.needed else "note"


def main(argv: Sequence[str]) -> int:
    """Print what was found; returns 1 if something that `run` needs is missing."""
    options = parser().parse_args(argv)
    outputs = Path(options.outputs)
    if options.calibrate:
        from orchestrator.verbs.calibrating import calibrate

        return calibrate()
    checks: dict[str, Callable[[], list[Finding]]] = {
        "Python": _python,
        "packages": _packages,
        "torch": _torch,
        "devices": _devices,
        "DeepSpeed": _deepspeed,
        "shared memory": _shared_memory,
        "disk": lambda: _disk(outputs),
        "calibration": _calibration,
        "MLflow UI": _port,
    }
    findings = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages looked at; nobody here can act on them
        for subject, check in checks.items():
            try:
                findings += check()
            except ImportError as error:
                remedy = "install what is missing, then look again"
                findings.append(Finding(subject, f"can't be looked at: {error}", remedy))
    from orchestrator.terminal import say

    for line in table(findings):
        say(line, hang=column(findings))
    return 1 if any(finding.mark == "MISSING" for finding in findings) else 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate doctor", description=__doc__)
    new.add_argument(
        "--calibrate",
        action="store_true",
        help="measure this machine, for the times that `orchestrate plan` tells",
    )
    new.add_argument("--outputs", default="outputs", help="folder of the runs [%(default)s]")
    return new


def table(findings: Sequence[Finding]) -> list[str]:
    """A line per finding in columns; what to type stands below what it is about."""
    start, lines = column(findings), []
    for finding in findings:
        lines.append(f"{f'{finding.mark:8}{finding.subject}':{start}}{finding.found}")
        if finding.remedy is not None:
            lines.append(f"{'':{start}}-> {finding.remedy}")
    return lines


def column(findings: Sequence[Finding]) -> int:
    """Where what was found begins in each line of the table."""
    return 10 + max(len(finding.subject) for finding in findings)


def _python() -> list[Finding]:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    remedy = None if good else "use Python 3.11, 3.12 or 3.13"
    return [Finding("Python", f"{platform.python_version()} at {sys.executable}", remedy)]


def _packages() -> list[Finding]:
    """What pyproject.toml asks for, read from the installed metadata of this project."""
    try:
        asked = metadata.requires("orchestrate") or []
    except metadata.PackageNotFoundError:
        remedy = "python -m pip install -e ."
        return [Finding("orchestrate", "not installed, run from its folder", remedy, needed=False)]
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [Finding("packages", "not looked at", "python -m pip install packaging")]
    findings, good = [], []
    for requirement in map(Requirement, asked):
        if requirement.marker is not None:
            continue  # of tests and development
        command = f"python -m pip install '{str(requirement).replace(' ', '')}'"
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            findings.append(Finding(requirement.name, "not installed", command))
            continue
        if requirement.specifier.contains(found, prereleases=True):
            good.append(f"{requirement.name} {found}")
        else:
            wanted = f"{found}, but {requirement.specifier} is needed"
            findings.append(Finding(requirement.name, wanted, command))
    return [Finding("packages", ", ".join(good)), *findings]


def _torch() -> list[Finding]:
    torch = importlib.import_module("torch")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    return [Finding("torch", f"{torch.__version__}, {build}, {torch.get_num_threads()} threads")]


def _devices() -> list[Finding]:
    from cluster.nodes import local_devices

    here = local_devices()
    if address := os.environ.get("RAY_ADDRESS"):
        from orchestrator.plan.devices import available

        try:
            here = available(address)
        except ValueError as error:
            return [Finding("devices", str(error).partition("; ")[0], "unset RAY_ADDRESS")]
    findings = [Finding("devices", f"{here.gpus} GPUs, {here.cpus} CPU cores on {here.where}")]
    if here.note:
        said, _, remedy = here.note.partition("; ")
        findings.append(Finding("GPU", said, remedy, needed=False))
    elif local_devices().gpus and not importlib.import_module("torch").cuda.is_available():
        remedy = "update the driver, or install a torch that is built for it (see nvidia-smi)"
        findings.append(Finding("GPU", "torch can't use the driver of this machine", remedy))
    return findings


def _deepspeed() -> list[Finding]:
    from orchestrator.training.engine.importing import compiled_ops

    ops = compiled_ops()
    compiler = shutil.which("g++") or shutil.which("c++")
    built = f"compiler {compiler}" if compiler else "no C++ compiler"
    can = f"; could build {', '.join(ops)}" if ops else ""
    return [Finding("DeepSpeed", f"imports; {built}, and none is needed{can}")]


def _shared_memory() -> list[Finding]:
    from data.messages import size

    shared = Path("/dev/shm")
    if not shared.is_dir():
        return []
    free = shutil.disk_usage(shared).free
    remedy = None if free > LEAST_SHARED_BYTES else "docker run --shm-size=1g"
    return [Finding("shared memory", f"{size(free)} free in {shared}", remedy)]


def _disk(outputs: Path) -> list[Finding]:
    from data import cache_root
    from data.messages import size
    from orchestrator.plan.outputs import check_outputs

    findings = []
    for subject, folder, setting in (
        ("outputs", outputs, "outputs=FOLDER"),
        ("cache", cache_root(), "export ORCHESTRATE_CACHE=FOLDER"),
    ):
        try:
            free = check_outputs(folder)
        except ValueError as error:
            said = str(error).partition("; ")[0].removeprefix(f"outputs={folder}: ")
            findings.append(Finding(subject, said, setting))
            continue
        remedy = None if free > LEAST_FREE_BYTES else f"free some, or {setting} on another disk"
        findings.append(Finding(subject, f"{size(free)} free for {folder}", remedy))
    return findings


def _calibration() -> list[Finding]:
    from orchestrator.plan import lessons
    from orchestrator.plan.calibration import load

    own, learned = load(), [Finding("speed", line) for line in lessons.load().lines()]
    if own is None:
        what = "not measured yet, so that a plan tells no times"
        return [Finding("speed", what, "orchestrate doctor --calibrate", needed=False), *learned]
    return [*(Finding("speed", line) for line in own.lines()), *learned]


def _port() -> list[Finding]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", UI_PORT))
        except OSError:
            found = f"port {UI_PORT} is taken; `orchestrate ui` takes another"
        else:
            found = f"port {UI_PORT} is free"
    return [Finding("MLflow UI", found)]
