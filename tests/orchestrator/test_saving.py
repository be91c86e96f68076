"""What is written and read: exact, in order, once, and never when it must not be."""

import errno
import hashlib
import json
import os
import resource
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import models
from models.configs import GPTConfig
from orchestrator.record.checkpoints import CheckpointError, Retention, finding
from orchestrator.record.fencing import take
from orchestrator.training import checkpoint, distributed
from orchestrator.training.checkpoint.tensorfile import CHUNK, HashedFile, TensorWriter
from orchestrator.training.state import WEIGHT, DifferentState
from tests.orchestrator.plain import KEYS, Plain, bytes_read, check_equal, retain

NOTHING_MUCH = 10_000
"""Bytes: what the counter itself and headers of small files take."""


def saved(root, step=1, plain=None, **facts):
    return checkpoint.save(root, step, {"model": (plain or Plain()).role()}, None, facts)


@given(shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=6))
@settings(max_examples=30, deadline=None)
def test_the_library_reads_what_is_streamed_and_the_hash_is_that_of_the_file(
    tmp_path_factory, shapes
):
    path = tmp_path_factory.getbasetemp() / "streamed.safetensors"
    tensors = {f"a.{i}": torch.randn(shape) for i, shape in enumerate(shapes)}
    with TensorWriter(path, {name: tensor.shape for name, tensor in tensors.items()}) as file:
        for tensor in tensors.values():
            file.write_tensor(tensor)
    assert file.record.bytes == path.stat().st_size
    assert file.record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    got = load_file(path)
    assert got.keys() == tensors.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in tensors.items())


def test_a_tensor_of_many_chunks_and_one_that_is_not_contiguous_are_written_whole(tmp_path):
    large, turned = torch.randn(2 * CHUNK + 3), torch.randn(5, 7).T
    path = tmp_path / "large.safetensors"
    with TensorWriter(path, {"large": large.shape, "turned": turned.shape}) as file:
        file.write_tensor(large)
        file.write_tensor(turned)
    assert file.record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    got = load_file(path)
    assert torch.equal(got["large"], large)
    assert torch.equal(got["turned"], turned)


def save_from_two(root):
    plain, rank = Plain(), distributed.rank()
    return checkpoint.save(root, 3, {"model": plain.role(rank, 2)}, None, {"fact": 1})


def test_any_range_of_what_two_ranks_saved_reads_as_the_tensor_it_was_cut_from(two, tmp_path):
    done = two.run(save_from_two, tmp_path)
    assert done[0] == done[1] == checkpoint.verify(tmp_path / "step_00000003")
    assert (done[0].step, done[0].facts) == (3, {"fact": 1})
    reader, plain = checkpoint.open_role(done[0]), Plain()
    check_equal(reader, plain)
    draw = torch.Generator().manual_seed(0)
    for name in plain.names():
        for key in (WEIGHT, *KEYS):
            whole = plain.whole(name, key)
            for _ in range(20):
                start, stop = sorted(torch.randint(len(whole) + 1, (2,), generator=draw).tolist())
                assert torch.equal(reader.read(name, key, start, stop), whole[start:stop])
            with pytest.raises(IndexError):
                reader.read(name, key, 0, len(whole) + 1)
        with pytest.raises(KeyError):
            reader.read(name, "momentum_buffer", 0, 1)


def test_what_is_on_the_disk_is_safetensors_of_flat_fp32_slices_and_json(two, tmp_path):
    two.run(save_from_two, tmp_path)
    path = tmp_path / "step_00000003"
    files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*.*"))
    assert files == [
        "manifest.json",
        "model/optimizer-0.safetensors",
        "model/optimizer-1.safetensors",
        "model/weights-0.safetensors",
        "model/weights-1.safetensors",
    ]
    assert files[1:] == sorted(json.loads((path / "manifest.json").read_text())["files"])
    with safe_open(path / files[-1], framework="pt") as handle:
        assert "0.weight[192:384]" in handle.keys()  # noqa: SIM118, no mapping
        for name in handle.keys():  # noqa: SIM118
            tensor = handle.get_tensor(name)
            assert (tensor.ndim, tensor.dtype) == (1, torch.float32)


def write_format_2(path, plain, config):
    """A checkpoint as it was before roles: whole tensors of one model, here of two ranks."""
    path.mkdir(parents=True)
    (path / "tokenizer.json").write_text("{}")
    for rank in (0, 1):
        names = plain.names()[rank::2]
        shapes = {name: plain.model.get_parameter(name).shape for name in names}
        weights = {name: plain.whole(name, WEIGHT).view(shapes[name]) for name in names}
        moments = {f"{n}.{k}": plain.whole(n, k).view(shapes[n]) for n in names for k in KEYS}
        save_file(weights, path / f"weights-{rank}.safetensors")
        save_file(moments, path / f"optimizer-{rank}.safetensors")
    manifest = {
        "format": 2,
        "step": 9,
        "model": config,
        "world_size": 2,
        "tokenizer_fingerprint": "abc",
        "files": {
            file.name: {
                "bytes": file.stat().st_size,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
            for file in path.iterdir()
        },
    }
    manifest["digest"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest, indent=1))


def test_a_checkpoint_of_the_format_before_still_loads(tmp_path):
    config = GPTConfig(vocab_size=11, layers=1, width=8, heads=2, max_positions=4)
    plain = Plain(model=models.build(config))
    write_format_2(tmp_path / "step_00000009", plain, models.config_to_dict(config))
    found = checkpoint.find(tmp_path / "step_00000009")
    assert (found.step, list(found.roles), found.facts["tokenizer_fingerprint"]) == (
        9,
        ["model"],
        "abc",
    )
    assert found.tokenizer == tmp_path / "step_00000009" / "tokenizer.json"
    check_equal(checkpoint.open_role(found), plain)
    check_equal(checkpoint.open_role(found, "model"), plain)
    model = checkpoint.load_writer(found)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.flatten(), plain.whole(name, WEIGHT))


def test_several_roles_live_under_one_manifest_and_must_be_named(tmp_path):
    policy, critic = Plain(seed=1), Plain(width=5, seed=2)
    roles = {"policy": policy.role(), "critic": critic.role()}
    found = checkpoint.save(tmp_path, 1, roles, None, {})
    check_equal(checkpoint.open_role(found, "policy"), policy)
    check_equal(checkpoint.open_role(found, "critic"), critic)
    for asked, words in (
        (None, "policy, critic; name one"),
        ("judge", "policy, critic, not judge"),
    ):
        with pytest.raises(CheckpointError, match=f"has the roles {words}"):
            checkpoint.open_role(found, asked)
    with pytest.raises(CheckpointError, match="keeps no model config for its role critic"):
        checkpoint.load_model(found, "critic")


def test_a_checkpoint_whose_config_builds_another_model_is_refused(tmp_path):
    config = GPTConfig(vocab_size=11, layers=1, width=8, heads=2, max_positions=4)
    roles = {"model": Plain().role(config=config)}
    with pytest.raises(DifferentState, match="the saved weights are of another model"):
        checkpoint.load_model(checkpoint.save(tmp_path, 1, roles, None, {}))


def save_with(root, value, key=WEIGHT, at=-1):
    """Two ranks save; the last stretch is rank 1's. What each rank learned."""
    plain, rank = Plain(), distributed.rank()
    plain.whole("2.weight", key)[at] = value
    return checkpoint.save(root, 1, {"model": plain.role(rank, 2)}, None, {})


@pytest.mark.parametrize("key", [WEIGHT, "exp_avg_sq"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_state_is_never_published_and_every_rank_learns_why(two, tmp_path, key, value):
    (ok, first), (fine, second) = two.try_run(raised, save_with, tmp_path, value, key)
    assert ok, first
    assert fine, second
    said = f"non-finite {key} of 2.weight in the role model"
    assert first[0] == "SaveFailed"
    assert f"rank 1 could not save step 1: NonFiniteState: {said}" in first[1]
    assert (second[0], second[1].startswith(said)) == ("NonFiniteState", True)
    assert not list(tmp_path.iterdir())


def raised(target, *arguments):
    """Type and message of what a function raised."""
    try:
        target(*arguments)
    except Exception as error:
        return type(error).__name__, str(error)
    return None


def test_finite_weights_whose_sum_overflows_are_saved(tmp_path):
    plain = Plain()
    plain.whole("0.weight", WEIGHT).fill_(3e38)
    check_equal(checkpoint.open_role(saved(tmp_path, 1, plain)), plain)


def save_on_a_disk_that_fills_up_on_one_rank(root):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if distributed.rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        return raised(save_from_two, root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_rank_that_cannot_write_ends_the_save_on_all_and_leaves_the_one_before(two, tmp_path):
    saved(tmp_path, 1)
    first, second = two.run(save_on_a_disk_that_fills_up_on_one_rank, tmp_path)
    assert first[0] == "SaveFailed"
    assert "rank 1 could not save step 3: OSError: [Errno 27] File too large" in first[1]
    assert second[0] == "OSError"
    assert "[Errno 27] File too large" in second[1]
    assert "step_00000003.partial" in second[1]
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert checkpoint.find(tmp_path / "step_00000001").step == 1


def test_a_disk_that_fails_while_it_flushes_is_told_with_the_file(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    def write_until_told():
        with HashedFile(tmp_path / "file") as file:
            while True:  # the thread that flushes may not have begun yet
                file.write(b"x")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        write_until_told()
    assert caught.value.filename == str(tmp_path / "file")


def test_state_that_no_rank_or_two_ranks_hold_is_not_published(tmp_path):
    plain = Plain()
    slices = list(plain.state())
    for wrong in (slices[1:], [*slices, slices[0]], slices[:-1]):
        role = checkpoint.SavedRole(lambda wrong=wrong: iter(wrong), None, "adamw")
        with pytest.raises(RuntimeError, match="each to be saved by one rank"):
            checkpoint.save(tmp_path, 1, {"model": role}, None, {})
    assert not list(tmp_path.iterdir())


def test_a_save_reads_nothing_not_even_what_was_saved_before(tmp_path):
    plain, retention = Plain(width=200), Retention(tmp_path, 2)
    for step in range(1, 6):
        before = bytes_read()
        done = saved(tmp_path, step, plain)
        retain(retention, done)
        assert bytes_read() - before < NOTHING_MUCH < done.bytes / 10
    assert [path.name for path in checkpoint.published(tmp_path)] == [
        "step_00000004",
        "step_00000005",
    ]
    assert checkpoint.verify(done.path) == done


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_loading_reads_each_byte_at_most_twice_whatever_the_number_of_ranks(tmp_path, ranks):
    plain = Plain(width=200)
    done = saved(tmp_path, 1, plain)
    before = bytes_read()
    for rank in range(ranks):
        finding.check_content(done, rank, ranks)
    verified = bytes_read() - before
    for rank in range(ranks):
        reader = checkpoint.open_role(done)
        for own in plain.state(rank, ranks):
            for key, tensor in own.tensors.items():
                got = reader.read(own.name, key, own.start, own.start + own.length)
                assert torch.equal(got, tensor)
    assert done.bytes <= verified <= done.bytes + NOTHING_MUCH
    assert bytes_read() - before < 2 * done.bytes + ranks * NOTHING_MUCH


def verify_on_all(path):
    before = bytes_read()
    outcome = raised(checkpoint.verify_shared, path)
    read = bytes_read() - before
    return outcome, read, checkpoint.newest_valid_shared(path.parent)


def test_ranks_share_the_verification_and_all_learn_of_damage(two, tmp_path):
    done = saved(tmp_path / "checkpoints", 1, Plain(width=200))
    for outcome, read, found in two.run(verify_on_all, done.path):
        assert outcome is None
        assert found == (done, [])
        assert read < 0.8 * done.bytes  # weights here, twice as much optimizer state there
    file = done.path / "model" / "weights-0.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for outcome, _, found in two.run(verify_on_all, done.path):
        assert outcome[0] == "CheckpointError"
        assert f"{file} is damaged: its sha256" in outcome[1]
        assert found == (None, [outcome[1]])


class TestRetention:
    def test_what_was_found_is_looked_at_and_does_not_count_if_it_is_not_whole(self, tmp_path):
        for step in (1, 2, 3):
            saved(tmp_path, step)
        (tmp_path / "step_00000003" / "model" / "weights-0.safetensors").write_bytes(b"short")
        retain(Retention(tmp_path, 2), saved(tmp_path, 4))
        names = [path.name for path in checkpoint.published(tmp_path)]
        assert names == ["step_00000002", "step_00000003", "step_00000004"]

    def test_it_never_deletes_what_was_just_written_whatever_looks_newer(self, tmp_path):
        for step in (5, 6):
            saved(tmp_path, step)
        done = saved(tmp_path, 4)
        retain(Retention(tmp_path, 1), done)
        assert done.path in checkpoint.published(tmp_path)

    def test_the_best_stays_beside_the_newest_however_old_it_is(self, tmp_path):
        retention = Retention(tmp_path, 2)
        for step in range(1, 7):
            done = saved(tmp_path, step)
            retention.best = done.path if step in (1, 3) else retention.best
            retain(retention, done)
        names = [int(path.name[-1]) for path in checkpoint.published(tmp_path)]
        assert names == [3, 5, 6]

    def test_multiples_of_a_number_of_steps_stay_for_ever(self, tmp_path):
        retention = Retention(tmp_path, 1, keep_every=3)
        for step in range(1, 9):
            retain(retention, saved(tmp_path, step))
        assert [int(path.name[-1]) for path in checkpoint.published(tmp_path)] == [3, 6, 8]

    def test_what_was_found_is_looked_at_once(self, tmp_path):
        saved(tmp_path, 1)
        retention = Retention(tmp_path, 9)
        retain(retention, saved(tmp_path, 2))
        written = saved(tmp_path, 3)
        before = bytes_read()
        retain(retention, written)
        assert bytes_read() - before < 200  # the counter alone


def test_the_next_attempt_removes_what_killed_writers_left(tmp_path):
    plain, root = Plain(), tmp_path / "checkpoints"
    for name in ("step_00000001.000001.partial", "step_00000002.000002.partial"):
        (root / name / "model").mkdir(parents=True)
        (root / name / "model" / "weights-0.safetensors").write_bytes(b"left")
        (root / name / "model" / "weights-7.safetensors").write_bytes(b"left")
    take(tmp_path, 1)
    fence = take(tmp_path, 2)
    done = checkpoint.save(root, 2, {"model": plain.role()}, None, {}, fence)
    assert [path.name for path in root.iterdir()] == ["step_00000002"]
    assert not (done.path / "model" / "weights-7.safetensors").exists()
    check_equal(checkpoint.open_role(checkpoint.verify(done.path)), plain)


def test_the_same_step_saved_again_takes_the_place_of_the_first(tmp_path):
    saved(tmp_path, 2, Plain(seed=1))
    done = saved(tmp_path, 2, Plain(seed=2))
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000002"]
    check_equal(checkpoint.open_role(checkpoint.verify(done.path)), Plain(seed=2))


def resident(what):
    """Bytes of memory of this process: VmRSS now, VmHWM at most since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


def test_a_save_holds_no_more_than_a_few_chunks_beyond_the_state(tmp_path):
    """Of a tensor of 64 MiB."""
    plain = Plain(model=torch.nn.Linear(16 * CHUNK, 1, bias=False))
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident("VmRSS")
    saved(tmp_path, 1, plain)
    assert resident("VmHWM") - before < 4 * 4 * CHUNK
