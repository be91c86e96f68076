"""Checkpoints that are written while training goes on hold the step they are of, and are safe."""

import resource
import threading
import time

from orchestrator.record.checkpoints import published
from orchestrator.training import checkpoint, distributed
from orchestrator.training.checkpoint import Saver, saver
from orchestrator.training.loop import every
from tests.orchestrator import tiny
from tests.orchestrator.plain import Plain, check_equal
from tests.orchestrator.test_checkpoint import ENGINES, roles
from tests.orchestrator.test_saving import raised, resident

STEPS = 5


def hashes(root):
    """Of every file of every checkpoint, by step."""
    found = [checkpoint.verify(path) for path in published(root)]
    return {one.step: {name: file.sha256 for name, file in one.files.items()} for one in found}


def save_each_step(folder, names, slowly):
    """Train, saving each step: once while training stands still, once while it goes on."""
    for name in names:
        config = tiny.job(name, distributed.world_size())
        for asynchronous in (False, True):
            trainer, root = tiny.build(config), folder / f"{name}-{asynchronous}"
            with Saver(root, asynchronous=asynchronous) as own:
                copy = own._copy

                def copy_slowly(*arguments, copy=copy):
                    time.sleep(slowly)  # the next forward and backward pass are under way
                    return copy(*arguments)

                own._copy = copy_slowly

                def save(step, own=own, trainer=trainer, config=config):
                    own.wait()
                    own.save(step, roles(trainer, config), None, {})

                tiny.run(
                    config,
                    trainer,
                    STEPS,
                    save=save,
                    before_update=own.before_update,
                    schedule={"save_at": every(1)},
                )


def check_all_the_same(folder, names):
    for name in names:
        still, meanwhile = hashes(folder / f"{name}-False"), hashes(folder / f"{name}-True")
        assert sorted(still) == list(range(1, STEPS + 1))
        assert still == meanwhile
        assert len({str(files) for files in still.values()}) == STEPS


def test_a_checkpoint_holds_its_own_step_though_training_went_on_meanwhile(tmp_path):
    save_each_step(tmp_path, ["torch"], 0.02)
    check_all_the_same(tmp_path, ["torch"])


def test_and_so_it_does_on_two_ranks_at_every_zero_stage(two, tmp_path):
    two.run(save_each_step, tmp_path, ENGINES, 0.02)
    check_all_the_same(tmp_path, ENGINES)


def role(plain):
    return {"model": plain.role()}


def test_weights_may_change_once_they_are_copied_however_long_the_writing_takes(tmp_path):
    plain, gate = Plain(), threading.Event()
    with Saver(tmp_path, before=gate.wait) as own:
        own.save(1, role(plain), None, {"fact": 1})
        own.before_update()
        assert own.poll() is None
        with plain.changed():
            gate.set()
            done = own.wait()
    assert (done.checkpoint.step, done.checkpoint.facts) == (1, {"fact": 1})
    assert done.write_s >= done.stall_s >= 0
    check_equal(checkpoint.open_role(checkpoint.verify(done.checkpoint.path)), plain)


def test_nothing_is_published_before_all_is_written_and_after_comes_last(tmp_path):
    gate, seen = threading.Event(), []
    with Saver(tmp_path, before=gate.wait, after=lambda done: seen.append(done.path)) as own:
        own.save(1, role(Plain()), None, {})
        assert (published(tmp_path), seen) == ([], [])
        gate.set()
    assert published(tmp_path) == seen == [tmp_path / "step_00000001"]


def test_what_is_under_way_is_finished_when_an_error_ends_the_training(tmp_path):
    def fail():
        with Saver(tmp_path, before=lambda: time.sleep(0.1)) as own:
            own.save(1, role(Plain()), None, {})
            raise ArithmeticError("of the step")

    assert raised(fail) == ("ArithmeticError", "of the step")
    assert checkpoint.find(tmp_path / "step_00000001").step == 1


def test_an_error_is_told_soon_though_a_save_under_way_never_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(saver, "FAILING_S", 0.2)
    gate, begun = threading.Event(), time.monotonic()

    def fail():
        with Saver(tmp_path, before=gate.wait) as own:
            own.save(1, role(Plain()), None, {})
            raise MemoryError("of the step")

    try:
        assert raised(fail) == ("MemoryError", "of the step")
        assert 0.2 <= time.monotonic() - begun < 5
    finally:
        gate.set()


def save_on_a_disk_that_fills_up_on_one_rank(root):
    """What each rank is told, and when: by `poll`, without waiting for it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    plain, rank, told = Plain(), distributed.rank(), None
    with Saver(root) as own:
        own.save(1, {"model": plain.role(rank, 2)}, None, {})
        own.wait()
        try:
            if rank == 1:
                resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
            own.save(2, {"model": plain.role(rank, 2)}, None, {})
            while told is None:
                time.sleep(0.01)
                told = raised(own.poll)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return told


def test_a_disk_that_is_full_is_told_to_every_rank_and_the_checkpoint_before_stays(two, tmp_path):
    first, second = two.run(save_on_a_disk_that_fills_up_on_one_rank, tmp_path)
    assert first[0] == "SaveFailed"
    assert "rank 1 could not save step 2: OSError: [Errno 27] File too large" in first[1]
    assert second[0] == "OSError"
    assert "[Errno 27] File too large" in second[1]
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert checkpoint.find(tmp_path / "step_00000001").step == 1


def test_the_copy_takes_what_is_saved_and_no_more_however_often(tmp_path):
    plain = Plain(width=1000)
    size = sum(t.numel() * 4 for own in plain.state() for t in own.tensors.values())
    with Saver(tmp_path) as own:
        before = resident("VmRSS")
        for step in range(1, 5):
            own.save(step, role(plain), None, {})
            own.wait()
        assert sum(copy.numel() * 4 for copy in own._copies.values()) == size
        assert resident("VmRSS") - before < size + 16_000_000
