"""Checkpoints of every engine into every other, and kill -9 while saving."""

import json
import math
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import models
from data.files import json_sha256, sha256_file
from orchestrator.training import checkpoint, distributed
from orchestrator.training.checkpoint import SavedRole
from orchestrator.training.loop import every
from tests.orchestrator import tiny
from tests.orchestrator.plain import bytes_read

ROOT = Path(__file__).parents[2]
ENGINES = ("zero0", "zero1", "zero2", "zero3")
SAVED_AT, STEPS = 4, 7


def tokenizer_in(folder):
    """Stands in for a tokenizer: a checkpoint copies the file and never opens it."""
    file = folder / "tokenizer-for-tests.json"
    file.write_text("{}")
    return file


def roles(trainer, config):
    """What a job with one model saves."""
    return {"model": SavedRole(trainer.state, config.model, "adamw")}


def train_and_save(folder, jobs):
    """Train each job to the end, with a checkpoint on the way; the losses after it."""
    answer = {}
    for name, config in jobs.items():
        trainer, losses = tiny.build(config), []
        root = folder / f"{name}-{distributed.world_size()}"

        def save(step, root=root, trainer=trainer, config=config):
            tokenizer = folder / "tokenizer-for-tests.json"
            checkpoint.save(root, step, roles(trainer, config), tokenizer, {"fact": 1})

        tiny.run(
            config,
            trainer,
            STEPS,
            log=lambda step, metrics, losses=losses: losses.append(metrics["train/loss"]),
            save=save,
            schedule={"save_at": every(SAVED_AT)},
        )
        answer[name] = losses
    return answer


def go_on(paths, jobs, at=None):
    """The losses of the steps after each checkpoint, in each engine.

    With `at`, the samples and rates are those after that step, whatever the manifest tells.
    """
    answer = {}
    for path in paths:
        start = checkpoint.find(path)
        for name, config in jobs.items():
            trainer, losses = tiny.build(config), []
            trainer.load_state(checkpoint.open_role(start), start.step)
            tiny.run(
                config,
                trainer,
                STEPS,
                start=start.step if at is None else at,
                log=lambda step, metrics, losses=losses: losses.append(metrics["train/loss"]),
            )
            answer[path, name] = losses
    return answer


def jobs(world_size):
    names = ("torch", *ENGINES) if world_size == 1 else ENGINES
    return {name: tiny.job(name, world_size) for name in names}


@pytest.fixture(scope="module")
def runs(one, two, tmp_path_factory):
    """The folder with a checkpoint per engine and world size, and the losses of one run."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tokenizer_in(folder)
    alone = one.run(train_and_save, folder, jobs(1))[0]
    two.run(train_and_save, folder, jobs(2))
    return folder, alone["torch"]


@pytest.fixture(scope="module")
def saved(runs):
    """A checkpoint of the torch engine."""
    folder, _ = runs
    return folder / "torch-1" / checkpoint.folder_name(SAVED_AT)


def every_checkpoint(folder):
    paths = sorted(folder.glob(f"*/{checkpoint.folder_name(SAVED_AT)}"))
    assert len(paths) == 9  # torch and 4 ZeRO stages on 1 rank, 4 on 2
    return paths


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_checkpoint_goes_on_in_every_engine_as_if_nothing_had_happened(
    one, two, runs, world_size
):
    folder, losses = runs
    world = {1: one, 2: two}[world_size]
    for rank in world.run(go_on, every_checkpoint(folder), jobs(world_size)):
        for key, got in rank.items():
            assert got == pytest.approx(losses[SAVED_AT:], rel=1e-5), key


@pytest.mark.parametrize("lost", ["exp_avg", "exp_avg_sq", "step"])
def test_a_lost_moment_or_step_count_would_show_in_those_losses(one, runs, saved, tmp_path, lost):
    """The test above has the power to notice: without it its tolerance could hide anything."""
    spoiled = tmp_path / checkpoint.folder_name(SAVED_AT)
    shutil.copytree(saved, spoiled)
    manifest = json.loads((spoiled / "manifest.json").read_text())
    file = spoiled / "model" / "optimizer-0.safetensors"
    tensors = load_file(file)
    for name in tensors:
        if f".{lost}[" in name:
            tensors[name] = torch.zeros_like(tensors[name]) + (lost == "exp_avg_sq") * 1e-8
    save_file(tensors, file)
    record = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    manifest["files"]["model/optimizer-0.safetensors"] = record
    if lost == "step":
        manifest["step"] = 1
    del manifest["digest"]
    manifest["digest"] = json_sha256(manifest)
    (spoiled / "manifest.json").write_text(json.dumps(manifest))
    chosen = {name: tiny.job(name) for name in ("torch", "zero1", "zero3")}
    _, losses = runs
    for got in one.run(go_on, [spoiled], chosen, SAVED_AT)[0].values():
        assert got != pytest.approx(losses[SAVED_AT:], rel=1e-4)


def test_every_checkpoint_holds_the_same_state_under_the_same_names(runs):
    folder, _ = runs
    first, *others = [checkpoint.open_role(checkpoint.read(p)) for p in every_checkpoint(folder)]
    shapes = {n: tuple(p.shape) for n, p in models.build(tiny.job().model).named_parameters()}
    for saved in (first, *others):
        assert {name: saved.shape(name) for name in saved.names()} == shapes
    for name, shape in shapes.items():
        assert first.keys(name) == {"weight", "exp_avg", "exp_avg_sq"}
        for key in first.keys(name):
            ours = first.read(name, key, 0, math.prod(shape))
            for other in others:
                theirs = other.read(name, key, 0, math.prod(shape))
                assert ours.dtype == theirs.dtype == torch.float32
                assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5), (name, key)


def round_trip(folder, width):
    """Save and load under ZeRO 3 with parameters of odd sizes; whether all of it came back."""
    config = tiny.job("zero3", distributed.world_size())
    config.model.vocab_size = tiny.VOCAB  # 61 x 33 and 33: odd, so the last partition is padded
    config.model.width, config.model.heads, config.model.positions = width, 3, "learned"
    trainer = tiny.build(config)
    tiny.run(config, trainer, 2)
    tokenizer = folder / "tokenizer-for-tests.json"
    done = checkpoint.save(folder / "odd", 2, roles(trainer, config), tokenizer, {})
    before = {own.name: own for own in trainer.state()}
    fresh = tiny.build(config)
    fresh.load_state(checkpoint.open_role(done), 2)
    for own in fresh.state():
        for key, value in own.tensors.items():
            assert torch.equal(value, before[own.name].tensors[key]), (own.name, key)
    return {math.prod(own.shape) % 2 for own in before.values()}


def test_zero3_keeps_parameters_whose_size_does_not_divide_by_the_ranks(two, tmp_path):
    tokenizer_in(tmp_path)
    for sizes in two.run(round_trip, tmp_path, 33):
        assert 1 in sizes


def load_and_count(folder, name):
    """What part of a checkpoint this rank reads when its engine takes it over."""
    config = tiny.job(name, distributed.world_size())
    config.model.width = 128
    trainer = tiny.build(config)
    tiny.run(config, trainer, 1)
    tokenizer = folder / "tokenizer-for-tests.json"
    done = checkpoint.save(folder / f"counted-{name}", 1, roles(trainer, config), tokenizer, {})
    trainer.load_state(checkpoint.open_role(done), 1)  # imports what it needs
    before = bytes_read()
    trainer.load_state(checkpoint.open_role(done), 1)
    return (bytes_read() - before) / done.bytes


@pytest.mark.parametrize("name", ENGINES)
def test_ranks_read_what_they_hold_and_all_together_read_a_checkpoint_once(two, tmp_path, name):
    """Before, each rank read every tensor whole."""
    tokenizer_in(tmp_path)
    parts = two.run(load_and_count, tmp_path, name)
    assert sum(parts) == pytest.approx(1, abs=0.05)  # and headers
    assert max(parts) < 0.6


def logits_and_checkpoint(folder, name):
    config = tiny.job(name, distributed.world_size())
    trainer = tiny.build(config)
    tiny.run(config, trainer, 3)
    tokenizer = folder / "tokenizer-for-tests.json"
    checkpoint.save(folder / name, 3, roles(trainer, config), tokenizer, {})
    trainer.model.eval()
    with torch.no_grad():
        return trainer.forward(torch.arange(12)[None] % tiny.VOCAB).numpy()


def test_the_model_loads_without_deepspeed_and_gives_the_logits_of_the_engine(two, tmp_path):
    tokenizer_in(tmp_path)
    code = """
        import sys
        from pathlib import Path
        import torch
        from orchestrator.training import checkpoint
        model = checkpoint.load_model(checkpoint.find(Path(sys.argv[1]))).eval()
        with torch.no_grad():
            print(model(torch.arange(12)[None] % int(sys.argv[2])).flatten().tolist())
        assert not {"deepspeed", "ray"} & set(sys.modules)
    """
    expected = two.run(logits_and_checkpoint, tmp_path, "zero3")[0].ravel()
    path = tmp_path / "zero3" / checkpoint.folder_name(3)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), path, str(tiny.VOCAB)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_checkpoint_is_safetensors_and_json_only(runs):
    folder, _ = runs
    for path in every_checkpoint(folder):
        files = {file.relative_to(path).as_posix(): file for file in path.rglob("*.*")}
        for file in files.values():
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt") as handle:
                    assert handle.keys()
            else:
                json.loads(file.read_text())
        start = checkpoint.read(path)
        assert files.keys() == {*start.files, "manifest.json"}
        assert (start.step, start.facts) == (4, {"fact": 1})


def test_a_writer_killed_at_any_time_leaves_the_one_before_as_newest_valid(tmp_path):
    """One process saves without end and is killed at different times."""
    tokenizer_in(tmp_path)
    code = """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from orchestrator.training import checkpoint
        from orchestrator.training.checkpoint import SavedRole
        from tests.orchestrator import tiny
        from tests.orchestrator.plain import retain
        folder, config = Path(sys.argv[1]), tiny.job("torch")
        config.model.width = 512
        trainer = tiny.build(config)
        tiny.run(config, trainer, 1)
        retention = checkpoint.Retention(folder / "root", 2)
        roles = {"model": SavedRole(trainer.state, config.model, "adamw")}
        for step in range(1, 10_000):
            tokenizer = folder / "tokenizer-for-tests.json"
            retain(retention, checkpoint.save(folder / "root", step, roles, tokenizer, {}))
            print(step, flush=True)
    """
    partial = 0
    for delay in range(3):
        shutil.rmtree(tmp_path / "root", ignore_errors=True)
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), tmp_path, ROOT],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            while (last := int(process.stdout.readline())) < 3 + delay:
                pass
            while not list((tmp_path / "root").glob("*.partial/model/weights-0.safetensors")):
                pass
            process.send_signal(signal.SIGKILL)
            last = max([last, *map(int, process.stdout.read().split())])
        partial += bool(list((tmp_path / "root").glob("*.partial")))
        found, rejected = checkpoint.newest_valid(tmp_path / "root")
        assert found.step in (last, last + 1)
        assert rejected == []
    assert partial  # at least one was really killed while it wrote
