"""Weights alone, for others: readable by the library, refused in one sentence, never half there."""

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.training import checkpoint
from orchestrator.training.checkpoint import CheckpointError
from orchestrator.training.state import WEIGHT
from tests.orchestrator.plain import Plain, bytes_read
from tests.orchestrator.typed import refused, trained, typed


@pytest.fixture
def run(corpus, tmp_path, monkeypatch):
    folder = trained(corpus)
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_folder_holds_whole_tensors_that_build_the_same_model(run):
    answer = typed("export", str(run), "shared/model")
    assert answer.code == 0, answer
    folder = Path("shared/model")
    assert sorted(file.name for file in folder.iterdir()) == [
        "model.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    found = checkpoint.find(run)
    model = checkpoint.load_model(found)
    tensors = load_file(folder / "model.safetensors")
    assert tensors.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(tensors[name], parameter), name  # also of its shape
    source = json.loads((folder / "model.json").read_text())["source"]
    assert source == {
        "checkpoint": str(found.path),
        "manifest_sha256": found.manifest_sha256,
        "role": "model",
        "step": 2,
    }
    assert answer.out == (
        f"shared/model: the weights of {found.path} after step 2, "
        f"{sum(f.stat().st_size for f in folder.iterdir()) / 1000:.3g} kB\n"
    )


def test_weights_open_alike_from_a_run_a_checkpoint_and_an_exported_folder(run):
    typed("export", str(run), "exported")
    found = checkpoint.find(run)
    first, *others = [checkpoint.open_weights(p) for p in (run, found.path, Path("exported"))]
    for other in others:
        assert other.model_config == first.model_config == found.model_config()
        assert other.tokenizer.read_bytes() == first.tokenizer.read_bytes()
        assert sorted(other.reader.names()) == sorted(first.reader.names())
        for name in first.reader.names():
            assert other.reader.shape(name) == first.reader.shape(name)
            assert torch.equal(
                other.reader.read(name, WEIGHT, 3, 20), first.reader.read(name, WEIGHT, 3, 20)
            )
    assert others[-1].reader.keys(name) == {WEIGHT}
    assert [other.path for other in others] == [found.path, Path("exported")]
    with pytest.raises(CheckpointError, match="exported has the role model, not critic"):
        checkpoint.open_weights(Path("exported"), "critic")


def test_a_role_is_named_where_there_are_several(tmp_path):
    roles = {"policy": Plain(seed=1).role(), "critic": Plain(seed=2).role()}
    found = checkpoint.save(tmp_path, 1, roles, None, {})
    assert "has the roles policy, critic; name one" in refused(
        "export", str(found.path), str(tmp_path / "out")
    )
    answer = typed("export", str(found.path), str(tmp_path / "out"), "--role", "critic")
    assert answer.code == 0, answer
    weights = checkpoint.open_weights(tmp_path / "out", "critic")
    assert (weights.model_config, weights.tokenizer) == (None, None)
    whole = Plain(seed=2).whole("0.weight", WEIGHT)
    assert torch.equal(weights.reader.read("0.weight", WEIGHT, 0, len(whole)), whole)


def test_what_another_process_has_verified_is_opened_without_a_second_look(run):
    typed("export", str(run), "exported")
    for path in (checkpoint.find(run).path, Path("exported")):
        before = bytes_read()
        first = checkpoint.open_weights(path)
        verifying, before = bytes_read() - before, bytes_read()
        again = checkpoint.open_weights(first.path, verified=True)
        assert bytes_read() - before < verifying / 2
        assert again.model_config == first.model_config


def test_text_is_written_from_an_exported_folder_as_from_its_run(run):
    typed("export", str(run), "exported")
    words = ("--prompt", "The model", "--max-new-tokens", "8")
    assert typed("generate", "exported", *words) == typed("generate", str(run), *words)


def test_a_model_that_writes_no_text_is_refused(tmp_path):
    found = checkpoint.save(tmp_path, 1, {"critic": Plain().role()}, None, {})
    said = refused("generate", str(found.path), "--prompt", "x")
    assert "holds a model of the stage's own kind, which does not write text" in said


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "model.json"])
def test_a_damaged_folder_is_not_opened(run, name):
    typed("export", str(run), "exported")
    file = Path("exported") / name
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(CheckpointError, match=f"exported/{name} is .*export it again"):
        checkpoint.open_weights(Path("exported"))


def test_a_folder_that_exists_is_refused(run):
    Path("taken").mkdir()
    assert refused("export", str(run), "taken").startswith("taken exists already")


def test_what_is_no_run_is_refused(run):
    assert "/nonexistent does not exist" in refused("export", "/nonexistent", "out")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(run, monkeypatch):
    usage = shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "1 kB are free there" in refused("export", str(run), "out")


def test_a_disk_needs_room_for_the_role_that_is_exported_alone(tmp_path, monkeypatch):
    roles = {"policy": Plain(width=96).role(), "critic": Plain(width=8).role()}
    found = checkpoint.save(tmp_path, 1, roles, None, {})
    usage = shutil.disk_usage(".")._replace(free=2000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert typed("export", str(found.path), str(tmp_path / "out"), "--role", "critic").code == 0
    said = refused("export", str(found.path), str(tmp_path / "big"), "--role", "policy")
    assert "big needs 79.9 kB, 2 kB are free there" in said


def test_a_disk_that_fills_up_is_one_sentence_and_leaves_nothing(run):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        answer = typed("export", str(run), "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert answer.code == 1
    assert answer.err == "error: out was not written: File too large; nothing is left of it\n"
    assert not list(Path.cwd().iterdir())
