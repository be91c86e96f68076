"""The code that travels with a job: what runs elsewhere is what is here, and says whose it is."""

import json
import subprocess

import pytest

from cluster.queue.parcel import pack, unpack
from orchestrator.record import code
from orchestrator.record.redaction import Redactor

WHO = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")


def git(folder, *words):
    subprocess.run(["git", "-C", folder, *WHO, *words], check=True, capture_output=True)


@pytest.fixture
def source(tmp_path):
    """A repository with a change, a new file, one that is ignored, and one that was removed."""
    folder = tmp_path / "source"
    (folder / "models").mkdir(parents=True)
    (folder / "tests").mkdir()
    for name in ("models/a.py", "models/gone.py", "tests/t.py", "models/ö.py"):
        (folder / name).write_text("one = 1\n", encoding="utf-8")
    (folder / ".gitignore").write_text("*.log\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    (folder / "models/a.py").write_text("one = 2\n")
    (folder / "models/gone.py").unlink()
    (folder / "models/new.py").write_text("three = 3\n")
    (folder / "models/out.log").write_text("noise\n")
    (folder / "models/.env").write_text("TOKEN=x\n")
    return folder


def test_the_working_tree_travels_and_says_which_commit_and_changes_it_is(source, tmp_path):
    files, left = code.carried(source, Redactor({}))
    assert left == ["models/.env"], "by its name"
    made = pack(files)
    there = unpack(made.data, made.id, tmp_path / "parcels")
    found = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()}
    assert found == {"models/a.py", "models/ö.py", "models/new.py", *code.OF_PARCEL}
    assert (there / "models/a.py").read_text() == "one = 2\n"
    assert code.version(there) == code.version(source)
    assert code.version(source)[0]["dirty"]


def test_code_without_git_travels_too(source, tmp_path):
    (source / ".git").rename(tmp_path / "elsewhere")
    files, left = code.carried(source, Redactor({}))
    assert set(files) == {"models/a.py", "models/ö.py", "models/new.py", code.OF_PARCEL[0]}
    assert left == []
    assert json.loads(files[code.OF_PARCEL[0]])["commit"] is None


def test_a_file_that_holds_a_secret_of_the_environment_stops_the_job(source, monkeypatch):
    (source / "models/new.py").write_text("token = 'abcdef-123456'\n")
    monkeypatch.setenv("HF_TOKEN", "abcdef-123456")
    with pytest.raises(ValueError, match=r"models/new.py holds the value of a secret"):
        code.carried(source, Redactor({}))
