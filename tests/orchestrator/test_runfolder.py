import contextlib
import json
import math
import os
import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from data import DataConfig
from models.configs import GPTConfig
from orchestrator.config import JobConfig, to_dict
from orchestrator.record import code as code_of_runs
from orchestrator.record import runfolder
from orchestrator.record.journal import Journal
from orchestrator.stages.pretrain.stage import PretrainConfig
from orchestrator.stages.saved import load

ROOT = Path(__file__).parents[2]


def test_a_run_folder_holds_config_overrides_and_code_and_latest_points_at_it(tmp_path):
    config = JobConfig(
        stage=PretrainConfig(), model=GPTConfig(), outputs=str(tmp_path / "outputs"), seed=7
    )
    first = runfolder.create(config, ["seed=7"])
    second = runfolder.create(config, [])
    assert first != second
    assert stat.S_IMODE((first / "config.yaml").stat().st_mode) == 0o644
    assert (tmp_path / "outputs" / "latest").resolve() == second
    assert first.parent.name == time.strftime("%Y-%m-%d")
    assert load(first / "config.yaml") == config
    assert yaml.safe_load((first / "overrides.yaml").read_text()) == ["seed=7"]
    code = json.loads((first / "code.json").read_text())
    assert code["packages"]["torch"]
    assert code["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (first / "logs").is_dir()


def test_the_commit_and_a_hash_of_what_differs_from_it_are_recorded(tmp_path):
    code = json.loads(
        (runfolder.create(JobConfig(outputs=str(tmp_path)), []) / "code.json").read_text()
    )
    head = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    assert code["commit"] == (head.stdout.strip() if head.returncode == 0 else None)


def test_a_change_in_a_file_of_another_encoding_is_recorded_too(tmp_path, monkeypatch):
    source = tmp_path / "source"
    text = source / "words.txt"
    source.mkdir()
    text.write_bytes(b"a\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "words"]):
        who = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
        subprocess.run(["git", "-C", source, *who, *words], check=True)
    text.write_bytes("für\n".encode("latin-1"))
    monkeypatch.setattr(code_of_runs, "SOURCE", source)
    folder = runfolder.create(JobConfig(outputs=str(tmp_path / "outputs")), [])
    code = json.loads((folder / "code.json").read_text())
    assert (code["dirty"], len(code["diff_sha256"])) == (True, 64)


def test_latest_moves_on_also_when_the_outputs_folder_was_moved(tmp_path):
    """The link is relative, so a copied outputs folder points into itself."""
    runfolder.create(JobConfig(outputs=str(tmp_path / "a")), [])
    (tmp_path / "a").rename(tmp_path / "b")
    assert (tmp_path / "b" / "latest" / "config.yaml").is_file()


def test_a_folder_that_copying_made_of_the_link_stays_and_costs_no_run(tmp_path, capsys):
    copied = tmp_path / "latest" / "config.yaml"
    copied.parent.mkdir()
    copied.write_text("mine")
    folder = runfolder.create(JobConfig(outputs=str(tmp_path)), [])
    assert (folder / "code.json").is_file()
    assert copied.read_text() == "mine"
    said = f"{tmp_path / 'latest'} is a folder, not the link to the newest run"
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.parent.name, "latest"]


def test_the_command_of_a_rank_of_torchrun_is_that_of_torchrun(tmp_path):
    """A shell script in the place of torchrun: what counts are the words of the parent."""
    torchrun = tmp_path / "torchrun"
    torchrun.write_text(
        "import os, subprocess, sys\n"
        "code = 'import shlex; from orchestrator.record.code import command; '\n"
        "code += 'print(shlex.join(command()))'\n"
        "environment = {**os.environ, 'TORCHELASTIC_RUN_ID': 'x'}\n"
        "subprocess.run([sys.executable, '-c', code, *sys.argv[-2:]], env=environment)\n"
    )
    words = ["--nproc-per-node", "2", "-m", "orchestrator", "run", "tracking.name=a b"]
    done = subprocess.run(
        [sys.executable, torchrun, *words], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert shlex.split(done.stdout) == ["torchrun", *words]


def test_what_ended_runs_left_half_written_goes_and_what_a_living_one_writes_stays(tmp_path):
    left = []
    for name in ("ended", "alive"):
        left.append(tmp_path / "2026-01-01" / name / "checkpoints" / "step_00000005.partial")
        (left[-1] / "model").mkdir(parents=True)
    with Journal(left[1].parents[1]):
        assert runfolder.remove_leftovers(tmp_path) == [left[0].parents[1]]
        assert [path.exists() for path in left] == [False, True]
    assert runfolder.remove_leftovers(tmp_path) == [left[1].parents[1]]


def test_the_record_of_a_run_holds_paths_that_move_with_its_outputs(tmp_path):
    folder, other = tmp_path / "2026-01-01" / "run", tmp_path / "2025-01-01" / "before" / "x"
    assert runfolder.placed(folder / "checkpoints" / "a", folder) == "checkpoints/a"
    assert runfolder.placed(other, folder) == "../../2025-01-01/before/x"
    assert runfolder.placed(tmp_path.parent / "exported", folder) == str(
        tmp_path.parent / "exported"
    )


def test_only_the_owner_reads_the_config_and_secrets_are_nowhere_else(tmp_path):
    secret = "hf_0123456789abcdefghijklmnopqrstuvwxyz"
    url = f"https://user:{secret}@host/data"
    data = DataConfig(source="jsonl", path=url)
    config = JobConfig(stage=PretrainConfig(), model=GPTConfig(), outputs=str(tmp_path), data=data)
    folder = runfolder.create(config, [f"data.path={url}"])
    mode = stat.S_IMODE((folder / "config.yaml").stat().st_mode)
    assert mode == 0o600
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "config.yaml":
            assert secret not in path.read_text(), path
    assert to_dict(load(folder / "config.yaml"))["data"]["path"] == url


def test_the_result_is_strict_json_whatever_the_metrics_are(tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    values = {"a": math.nan, "b": math.inf, "c": 1.5}
    runfolder.write_result(tmp_path, {"status": "failed", "metrics": values, "tokens": None})
    text = (tmp_path / "result.json").read_text()
    assert json.loads(text, parse_constant=refuse) == {
        "status": "failed",
        "metrics": {"a": "NaN", "b": "Infinity", "c": 1.5},
        "tokens": None,
    }
    assert os.listdir(tmp_path) == ["result.json"]  # noqa: PTH208 - no temporary file is left


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs the superuser")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk):
    """Take the last page of the disk."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def write_until_full(book):
    while True:
        book.metrics(1, {"x": 1.0})


def test_a_result_is_written_on_a_full_disk_and_a_later_one_whole_or_not_at_all(small_disk):
    folder = runfolder.create(JobConfig(outputs=str(small_disk)), [])
    with Journal(folder) as book:
        fill(small_disk)
        with pytest.raises(OSError, match=r"No space left on device.*metrics\.jsonl"):
            write_until_full(book)
        runfolder.write_result(folder, {"status": "failed", "metrics": {"x": 1.0}})
        book.event("finished", status="failed")  # what was set aside is more than the result
    assert not (folder / runfolder.RESERVE).exists()
    fill(small_disk)
    with pytest.raises(OSError, match=r"No space left on device.*result\.json"):
        runfolder.write_result(folder, {"status": "done", "long": "x" * 4096})
    assert json.loads((folder / "result.json").read_text())["status"] == "failed"
    (small_disk / "filler").unlink()
    runfolder.write_result(folder, {"status": "done"})
    assert json.loads((folder / "result.json").read_text()) == {"status": "done"}
    assert [path for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("runs", [3])
def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path, runs):
    config = JobConfig(outputs=str(tmp_path))
    assert len({runfolder.create(config, []) for _ in range(runs)}) == runs
