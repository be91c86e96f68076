"""Damage of every kind to a checkpoint: named, passed over, and never mistaken for a good one."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from orchestrator.training import checkpoint
from orchestrator.training.checkpoint import CheckpointError
from tests.orchestrator.plain import Plain, retain


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint with all kinds of files."""
    folder = tmp_path_factory.mktemp("saved")
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text("{}")
    roles = {"model": Plain().role()}
    return checkpoint.save(folder / "checkpoints", 4, roles, tokenizer, {"fact": 1}).path


@pytest.fixture
def root(saved, tmp_path):
    """Three valid checkpoints, of steps 4, 5 and 6."""
    root = tmp_path / "checkpoints"
    for step in (4, 5, 6):
        shutil.copytree(saved, root / checkpoint.folder_name(step))
    return root


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "a flipped byte": ("model/weights-0.safetensors", flip, "is damaged"),
    "a short file": (
        "model/optimizer-0.safetensors",
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        "is damaged",
    ),
    "an empty file": ("tokenizer.json", lambda file: file.write_bytes(b""), "is damaged"),
    "a lost file": ("model/weights-0.safetensors", Path.unlink, "is missing"),
    "no manifest": ("manifest.json", Path.unlink, "has no manifest.json"),
    "half a manifest": (
        "manifest.json",
        lambda file: file.write_bytes(file.read_bytes()[:100]),
        "is damaged",
    ),
    "an empty manifest": ("manifest.json", lambda file: file.write_bytes(b""), "is damaged"),
    "a manifest of something else": ("manifest.json", lambda f: f.write_text("{}"), "format"),
    "a manifest that is a list": ("manifest.json", lambda f: f.write_text("[]"), "format"),
    "a binary manifest": ("manifest.json", lambda f: f.write_bytes(b"\xff\x00"), "damaged"),
    "a manifest without files": (
        "manifest.json",
        lambda f: f.write_text('{"format": 3, "step": 6}'),
        "damaged",
    ),
    "a manifest of a later format": (
        "manifest.json",
        lambda f: f.write_text('{"format": 4, "step": 6}'),
        "has format 4, and this version reads 2 and 3; use the version that wrote it",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_the_one_before_is_taken(root, damage):
    name, harm, words = DAMAGE[damage]
    newest = root / checkpoint.folder_name(6)
    harm(newest / name)
    found, rejected = checkpoint.newest_valid(root)
    assert found.path.name == checkpoint.folder_name(5)
    assert len(rejected) == 1
    assert words in rejected[0]
    assert str(newest) in rejected[0]
    assert name in rejected[0]
    with pytest.raises(CheckpointError):
        checkpoint.find(newest)


def test_any_changed_byte_of_the_manifest_is_noticed(saved, tmp_path):
    """Also one that leaves it good JSON, such as another digit in the step."""
    whole = (saved / "manifest.json").read_bytes()
    accepted = asdict(checkpoint.read(saved))
    for place in range(0, len(whole), 3):
        (tmp_path / "manifest.json").write_bytes(
            whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        )
        try:
            found = asdict(checkpoint.read(tmp_path))
        except CheckpointError:
            continue
        own = {"path": tmp_path, "manifest_sha256": found["manifest_sha256"]}
        assert found == accepted | own  # white space


def test_what_a_killed_writer_left_is_no_checkpoint(root):
    newest = root / checkpoint.folder_name(6)
    newest.rename(newest.with_name(newest.name + ".partial"))
    found, rejected = checkpoint.newest_valid(root)
    assert (found.path.name, rejected) == (checkpoint.folder_name(5), [])


def test_without_any_valid_checkpoint_all_reasons_are_told(root, tmp_path):
    for path in checkpoint.published(root):
        flip(path / "model" / "weights-0.safetensors")
    found, rejected = checkpoint.newest_valid(root)
    assert found is None
    assert [Path(reason.split(" ")[0]).parents[1].name for reason in rejected] == [
        checkpoint.folder_name(step) for step in (6, 5, 4)
    ]
    with pytest.raises(CheckpointError, match=r"holds no valid checkpoint: .*step_00000004"):
        checkpoint.find(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoint.find(tmp_path / "nothing")


def test_retention_keeps_the_newest_and_their_content(root):
    retain(checkpoint.Retention(root, 2), checkpoint.read(root / checkpoint.folder_name(6)))
    assert [path.name for path in checkpoint.published(root)] == ["step_00000005", "step_00000006"]
    for path in checkpoint.published(root):
        checkpoint.verify(path)


def test_a_checkpoint_that_another_job_reads_from_outlives_its_successors(root):
    held = checkpoint.hold(root / checkpoint.folder_name(5))
    for names in (["step_00000005", "step_00000006"], ["step_00000006"]):
        retain(checkpoint.Retention(root, 1), checkpoint.read(root / checkpoint.folder_name(6)))
        assert [path.name for path in checkpoint.published(root)] == names
        checkpoint.verify(root / names[0])
        if len(names) == 2:
            os.close(held)


def test_retention_never_deletes_the_last_valid_checkpoint(root):
    """A run went on from step 4, since 5 and 6 were damaged without a change of size."""
    for step in (5, 6):
        flip(root / checkpoint.folder_name(step) / "model" / "weights-0.safetensors")
    found, _ = checkpoint.newest_valid(root)
    retention = checkpoint.Retention(root, 1)
    retain(retention, found)
    found, _ = checkpoint.newest_valid(root)
    assert found.path.name == checkpoint.folder_name(4)
