"""`orchestrate checkpoint`: what a user types to know that a run is safe, in this process."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from orchestrator.record import runfolder
from orchestrator.record.checkpoints import published
from orchestrator.training import checkpoint
from orchestrator.training.checkpoint.comparing import compare
from orchestrator.training.state import WEIGHT
from tests.orchestrator.plain import KEYS, Plain
from tests.orchestrator.typed import on, refused, typed


@pytest.fixture(scope="module")
def kept(corpus, tmp_path_factory):
    """A run with checkpoints after 2, 4 and 6 steps."""
    outputs = tmp_path_factory.mktemp("kept")
    words = ("stage.checkpoint_every=2", "stage.evaluate_every=4", "stage.checkpoints_kept=1")
    asked = (*words, "stage.steps=6", "stage.keep_every=2", f"outputs={outputs}")
    answer = typed("run", *on(corpus), *asked)
    assert answer.code == 0, answer
    return (outputs / "latest").resolve()


@pytest.fixture
def run(kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(kept, "run")
    return Path("run")


def flip(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_the_list_says_of_each_what_it_is_worth(run):
    first, second, third = published(run / "checkpoints")
    (first / "manifest.json").unlink()
    (run / "checkpoints" / "step_00000008.000001.partial").mkdir()
    answer = typed("checkpoint", "list", "run")
    assert answer.code == 0, answer
    head, *lines = answer.out.splitlines()
    assert head.split() == ["checkpoint", "size", "age", "metric", "attempt", "state"]
    assert [line.split()[0] for line in lines] == [
        *(third.name, second.name, first.name),
        "step_00000008.000001.partial",
    ]
    assert lines[0].split()[-1] == "whole"
    assert "validation/bits_per_byte" in lines[1]
    assert "it has no manifest.json" in lines[2]
    assert "half-written" in lines[3]


def test_verify_names_what_is_damaged_and_what_would_be_gone_on_from(run):
    answer = typed("checkpoint", "verify", "run")
    assert (answer.code, answer.out.count("good  step_")) == (0, 3), answer
    first, second, third = published(run / "checkpoints")
    flip(third / "model" / "weights-0.safetensors")
    answer = typed("checkpoint", "verify", "run")
    assert answer.code == 1
    bad, *good, last = answer.out.splitlines()
    assert bad.startswith(
        f"bad   {third.name}  {third}/model/weights-0.safetensors is damaged: its"
    )
    assert [line.split()[1] for line in good] == [second.name, first.name]
    assert last == f"resume=run takes {second}"
    assert typed("checkpoint", "verify", str(third)).code == 1
    assert typed("checkpoint", "verify", str(second)).code == 0
    assert "holds no checkpoint" in refused("checkpoint", "verify", "nowhere")


def test_diff_finds_a_checkpoint_equal_to_its_copy_and_names_what_training_changed(run):
    first, second, _ = published(run / "checkpoints")
    shutil.copytree(first, "copy")
    same = typed("checkpoint", "diff", "copy", str(first))
    assert same.code == 0, same
    assert same.out.splitlines()[-1].endswith("tensors equal to the last bit")
    other = typed("checkpoint", "diff", str(first), str(second), "--all")
    assert other.code == 1
    assert "step differs" in other.out
    assert "data differs" in other.out
    assert other.out.splitlines()[-1].startswith("0 of ")


def test_the_differences_are_those_of_the_tensors(tmp_path):
    ours, theirs = Plain(seed=1), Plain(seed=2)
    a, b = (
        checkpoint.save(tmp_path, step, {"model": own.role(), "critic": own.role()}, None, {})
        for step, own in enumerate((ours, theirs), 1)
    )
    found = {one.name: one for one in compare(a, b)}
    assert len(found) == 2 * len(ours.names()) * (1 + len(KEYS))
    for name in ours.names():
        for key in (WEIGHT, *KEYS):
            one = found[f"critic/{name}" + ("" if key == WEIGHT else f".{key}")]
            x, y = ours.whole(name, key), theirs.whole(name, key)
            assert one.absolute == float((x - y).abs().max())
            assert one.relative == pytest.approx(one.absolute / float(x.abs().max()))


def test_tensors_that_cannot_be_compared_are_named(tmp_path):
    a = checkpoint.save(tmp_path, 1, {"model": Plain().role()}, None, {})
    wider = {"model": Plain(width=25).role(), "critic": Plain().role()}
    b = checkpoint.save(tmp_path, 2, wider, None, {})
    reasons = {one.name: one.reason for one in compare(a, b) if one.absolute is None}
    assert reasons["critic"] == "only the second has this role"
    assert reasons["model/0.weight"] == "(48, 24) and (50, 25)"


def test_export_is_that_of_its_own_verb(run):
    assert typed("checkpoint", "export", "run", "one").code == 0
    assert typed("export", "run", "other").code == 0
    one, other = (load_file(Path(f) / "model.safetensors") for f in ("one", "other"))
    assert {name: t.tolist() for name, t in one.items()} == {
        n: t.tolist() for n, t in other.items()
    }


def test_a_run_whose_checkpoints_are_all_damaged_never_begins_anew_by_itself(
    corpus, run, monkeypatch
):
    """Neither when somebody resumes it, nor in another attempt of its own."""
    for path in published(run / "checkpoints"):
        flip(path / "model" / "weights-0.safetensors")
    assert "holds no valid checkpoint: " in refused("run", "resume=run", "stage.steps=9")
    create = runfolder.create

    def create_with_damaged(*arguments):
        folder = create(*arguments)
        shutil.copytree(run / "checkpoints", folder / "checkpoints")
        return folder

    monkeypatch.setattr(runfolder, "create", create_with_damaged)
    answer = typed("run", *on(corpus), "stage.steps=9")
    assert answer.code == 1, answer
    assert "none of 3 checkpoints is whole, and a run never begins anew by itself: " in answer.out
