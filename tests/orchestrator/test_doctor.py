import os
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from orchestrator.verbs.doctor import Finding, table
from tests.orchestrator.typed import typed

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lacking(tmp_path):
    """The doctor in a Python that lacks some packages: links to all the other installed files."""

    def doctor(*names):
        site = tmp_path / "site"
        site.mkdir()
        installed = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")]
        for entry in (entry for folder in installed for entry in folder.iterdir()):
            if entry.name.lower().split("-")[0] not in names and not (site / entry.name).exists():
                (site / entry.name).symlink_to(entry)
        return subprocess.run(
            [sys.executable, "-S", "-m", "orchestrator", "doctor"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{site}"},
            check=False,
        )

    return doctor


def test_a_machine_that_can_run_gets_a_table_and_exit_code_0(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "doctor"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stderr == "", "no warnings on the screen"
    for subject in ("Python", "packages", "torch", "devices", "DeepSpeed", "outputs", "cache"):
        assert f"ok      {subject} " in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named_with_what_to_type(lacking):
    done = lacking("deepspeed", "hydra", "hydra_core", "omegaconf", "pyarrow", "rich")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr == ""
    for name in ("deepspeed", "hydra-core", "pyarrow", "rich"):
        assert f"MISSING {name} " in done.stdout
        assert f"-> python -m pip install '{name}" in done.stdout
    assert "ok      torch" in done.stdout, "what is there is still looked at"
    assert "MLflow UI" in done.stdout


def test_outputs_that_cannot_be_written_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("afile").touch()
    answer = typed("doctor", "--outputs", "afile/x")
    assert answer.code == 1
    line = next(line for line in answer.out.splitlines() if line.startswith("MISSING"))
    assert "afile is a file" in line


def test_a_taken_port_is_no_fault(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as holder:
        try:
            holder.bind(("127.0.0.1", 5000))
        except OSError:
            pass  # someone else holds it, which is as good
        else:
            holder.listen()
        answer = typed("doctor")
    assert answer.code == 0
    assert "port 5000 is taken; `orchestrate ui` takes another" in answer.out


def test_the_table_stands_in_columns():
    findings = [Finding("a", "one"), Finding("longer", "two", "do this", needed=False)]
    assert table(findings) == [
        "ok      a       one",
        "note    longer  two",
        "                -> do this",
    ]
