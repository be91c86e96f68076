"""`orchestrate rerun`: real runs, with this code and with a clone of another state of it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.record import code
from orchestrator.record.mlflow.description import Description
from orchestrator.record.redaction import Redactor
from orchestrator.verbs import rerun
from tests.orchestrator.typed import refused, trained, typed

GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@localhost")


@pytest.fixture
def run(corpus, tmp_path, monkeypatch):
    """A finished run of 2 steps, in an outputs folder of its own."""
    monkeypatch.chdir(tmp_path)
    folder = Path("outputs/2026-01-02/03-04-05-pretrain-aaa111")
    shutil.copytree(trained(corpus), folder)
    return folder


@pytest.fixture
def repository(tmp_path):
    """A repository with a commit and, on top of it, a change and a new file."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.py").write_text("one = 1\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*GIT, "-C", source, *words], check=True)
    (source / "a.py").write_bytes("one = 2  # für\n".encode("latin-1"))
    (source / "new.py").write_text("")
    return source


def test_a_run_again_is_the_same_to_the_last_bit_and_says_what_was_compared(run, capfd):
    answer = typed("rerun", "aaa111")
    assert answer.code == 0, answer
    said = answer.out.splitlines()
    assert "same: train/loss at 2 steps" in said
    assert "same: train/gradient_norm at 2 steps" in said
    assert any(line.startswith("same: all ") and "step_00000002" in line for line in said)
    others = [
        line for line in said if line.startswith("differs") and "git did not know" not in line
    ]
    assert not others
    assert len(list(Path("outputs").glob("2*/*/result.json"))) == 2
    (told,) = Path("outputs").glob("2*/*/rerun.json")
    origin = "2026-01-02/03-04-05-pretrain-aaa111"
    assert json.loads(told.read_text()) == {"of": origin, "same": True, "differs": []}
    note = Description(told.parent).note("done", {})
    assert f"- rerun of `{origin}`: the same came out" in note
    assert Description(told.parent).final_tags("done", {})["rerun.of"] == origin


def test_what_is_another_one_is_named_with_the_step_from_which_it_is(run, capfd):
    changed = run / "metrics.jsonl"
    lines = [json.loads(line) for line in changed.read_text().splitlines()]
    (last,) = [line for line in lines if "train/loss" in line["metrics"] and line["step"] == 2]
    last["metrics"]["train/loss"] += 1e-6
    changed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = json.loads((run / "code.json").read_text())
    (run / "code.json").write_text(json.dumps(said | {"python": "3.9.0"}))
    answer = typed("rerun", str(run), "seed=0")
    assert answer.code == 1, answer
    assert "differs: train/loss from step 2 on" in answer.out
    assert "differs: python 3.9.0, here 3." in answer.out


def test_the_config_is_that_of_the_run_whatever_the_defaults_have_become(run):
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("seed: 0", "seed: 7"))
    typed_then = (run / "overrides.yaml").read_text()
    (run / "overrides.yaml").write_text(typed_then + "- tracking.name=[redacted]\n")
    answer = typed("rerun", "aaa111", "--dry-run")
    assert answer.code == 0, answer
    assert "seed=7" in answer.out
    assert "[redacted]" not in answer.out
    assert len(list(Path("outputs").glob("2*/*"))) == 1, "nothing was run"


def test_the_code_of_a_run_with_its_changes_comes_back_in_a_clone(
    repository, tmp_path, monkeypatch
):
    monkeypatch.setattr(code, "SOURCE", repository)
    folder = tmp_path / "run"
    folder.mkdir()
    code.write(folder, Redactor({}), None)
    said = json.loads((folder / "code.json").read_text())
    assert said["dirty"]
    assert said["new_files"] == ["new.py"]
    assert code.rebuilt(folder, said, tmp_path / "clones", repository) == repository
    wanted = (repository / "a.py").read_bytes()
    (repository / "a.py").write_text("one = 3\n")
    clone = code.rebuilt(folder, said, tmp_path / "clones", repository)
    assert clone != repository
    assert (clone / "a.py").read_bytes() == wanted
    assert (repository / "a.py").read_text() == "one = 3\n", "the user's own stays as it is"
    (clone / "a.py").write_text("spoilt")
    again = code.rebuilt(folder, said, tmp_path / "clones", repository)
    assert (again / "a.py").read_bytes() == wanted


def test_code_that_can_not_be_had_again_is_named(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(code, "SOURCE", repository)
    code.write(tmp_path, Redactor({"password": "one = 2  #"}), None)
    said = json.loads((tmp_path / "code.json").read_text())
    assert not (tmp_path / "code.diff").exists(), "a diff with a secret is not kept"
    (repository / "a.py").write_text("one = 3\n")
    cases = (
        (said, "changes that were not kept"),
        (said | {"commit": "0" * 40}, "is not in"),
        (said | {"commit": None}, "no git repository"),
    )
    for facts, expected in cases:
        with pytest.raises(code.NoCode, match=expected):
            code.rebuilt(tmp_path, facts, tmp_path / "clones", repository)


def test_a_run_that_goes_on_and_one_that_is_not_there_are_refused(run, monkeypatch):
    assert "no run folder" in refused("rerun", "zzz999")
    monkeypatch.setattr(rerun.Run, "status", "running")
    assert "still runs" in refused("rerun", "aaa111")
