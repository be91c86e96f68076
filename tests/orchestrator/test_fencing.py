"""Two attempts of one run can never both write, wherever the first one is frozen meanwhile."""

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from orchestrator.job.codes import FAILED
from orchestrator.record import fencing
from orchestrator.record.checkpoints import Retention
from orchestrator.record.fencing import Fenced, take
from orchestrator.record.journal import Journal
from orchestrator.record.lines import EVENTS, read
from orchestrator.training import checkpoint
from orchestrator.training.checkpoint import writing
from tests.orchestrator.plain import Plain
from tests.orchestrator.typed import on, typed


def test_of_many_takers_at_once_each_has_a_number_and_only_the_highest_holds(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        fences = list(pool.map(lambda _: take(tmp_path, 2), range(64)))
    assert sorted(fence.number for fence in fences) == list(range(1, 65))
    held = []
    for fence in fences:
        try:
            pickle.loads(pickle.dumps(fence)).check()
            held.append(fence.number)
        except Fenced:
            pass
    assert held == [64]


def test_who_was_fenced_off_learns_by_whom(tmp_path):
    first = take(tmp_path, 1)
    first.check()
    take(tmp_path, 2)
    with pytest.raises(Fenced, match=r"was taken over by attempt 2, process \d+ on .*; attempt 1,"):
        first.check()


def test_a_journal_takes_no_line_of_an_attempt_that_was_fenced_off(tmp_path):
    with Journal(tmp_path, fence=take(tmp_path, 1)) as book:
        book.event("started")
        book.metrics(1, {"x": 1.0})
        before = [(tmp_path / name).read_bytes() for name in ("events.jsonl", "metrics.jsonl")]
        take(tmp_path, 2)
        with pytest.raises(Fenced):
            book.event("finished", status="done")
        with pytest.raises(Fenced):
            book.metrics(2, {"x": 2.0})
        after = [(tmp_path / name).read_bytes() for name in ("events.jsonl", "metrics.jsonl")]
    assert before == after


def freezing(seen, then):
    """Runs `then` once, before a line of saving or fencing that is not among those seen."""

    def trace(frame, event, argument):
        if frame.f_code.co_filename not in (writing.__file__, fencing.__file__):
            return None
        place = frame.f_code, frame.f_lineno
        if event == "line" and place not in seen:
            seen.add(place)
            sys.settrace(None)
            then()
        return trace

    return trace


def test_a_save_frozen_at_any_line_publishes_before_the_run_is_taken_or_never(tmp_path):
    """Every line of it in turn, while the next attempt takes the run and saves its own."""
    frozen, fenced, seen = True, 0, set()
    role = {"model": Plain(model=torch.nn.Linear(1, 1, bias=False)).role()}
    while frozen:
        run = tmp_path / str(len(seen))
        root = run / "checkpoints"
        root.mkdir(parents=True)
        first, frozen, published = take(run, 1), False, []

        def take_over(run=run, root=root, published=published):
            nonlocal frozen
            frozen = True
            fence = take(run, 2)
            published += checkpoint.published(root)
            published.append(checkpoint.save(root, 2, role, None, {}, fence).path)

        sys.settrace(freezing(seen, take_over))
        try:
            checkpoint.save(root, 1, role, None, {}, first)
        except (Fenced, checkpoint.SaveFailed, OSError):
            fenced += 1
        finally:
            sys.settrace(None)
        if frozen:
            assert checkpoint.published(root) == sorted(published)
        for path in checkpoint.published(root):
            found = checkpoint.verify(path)
            assert found.attempt == found.step  # as it happens
    assert fenced > 20


def test_an_attempt_that_was_fenced_off_deletes_no_checkpoint(tmp_path):
    root, first = tmp_path / "checkpoints", take(tmp_path, 1)
    retention = Retention(root, 1, first)
    roles = {"model": Plain(width=3).role()}
    for step in (1, 2):
        done = checkpoint.save(root, step, roles, None, {}, first)
    take(tmp_path, 2)
    with pytest.raises(Fenced):
        retention.after(done)
    assert len(checkpoint.published(root)) == 2


def test_a_driver_that_comes_back_to_a_run_in_other_hands_leaves_its_record_alone(
    corpus, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    after, left = Retention.after, {}

    def taken_over(self, written):
        after(self, written)
        run = Path("outputs/latest").resolve()
        take(run, 2)
        left.update({p: p.read_bytes() for p in run.iterdir() if p.is_file()})

    monkeypatch.setattr(Retention, "after", taken_over)
    answer = typed("run", *on(corpus), "stage.steps=4", "stage.checkpoint_every=2")
    assert answer.code == FAILED, answer
    assert "was taken over by attempt 2" in answer.err
    run = Path("outputs/latest").resolve()
    assert {p: p.read_bytes() for p in run.iterdir() if p.is_file()} == left
    assert not (run / "result.json").exists()
    assert "finished" not in [event["event"] for event in read(run / EVENTS)[0]]
