"""What the journal of a run says of it: its events as sentences, its goodput, its story."""

import json
import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.record.journal import Journal
from orchestrator.record.lines import EVENTS, METRICS
from orchestrator.record.runs import Run
from orchestrator.record.story.sentences import LIVE, SENTENCES, UNTOLD, sentence
from orchestrator.record.story.spending import PARTS, spending
from orchestrator.record.story.telling import Story, story_text
from tests.orchestrator.typed import typed

SAID = {
    "failed": (
        {"cause": "killed", "rank": 1, "host": "a", "step": 52, "detect_s": 0.21}
        | {"message": "was killed by SIGKILL after step 52"},
        "rank 1 on host a was killed by SIGKILL after step 52; found after 0.21 s",
    ),
    "restarting": (
        {"attempt": 2, "from_step": 50, "lost_steps": 2, "workers": 2, "remedy": "find who did it"},
        "attempt 2 goes on from step 50 with 2 workers; 2 steps are lost and done again; find who "
        "did it",
    ),
    "recovered": (
        {"step": 51, "seconds": 4.237},
        "running again at step 51, 4.24 s after the failure",
    ),
    "gave_up": (
        {"cause": "killed", "budget": 3, "attempts": 4},
        "gave up after 4 attempts: killed, with 3 restarts in a row at most",
    ),
    "resized": (
        {"workers_before": 4, "workers": 3, "reason": "host b is gone"},
        "3 workers instead of 4: host b is gone",
    ),
    "preempted": (
        {"rank": 0, "host": "a", "notice": "SIGTERM"},
        "rank 0 on host a must leave, SIGTERM: saving a checkpoint",
    ),
    "hung": (
        {"rank": 1, "host": "a", "step": 7, "phase": "step", "silent_s": 34.2}
        | {"stacks": "logs/stacks-*.txt"},
        "rank 1 on host a hangs in its step, at step 7, silent for 34.2 s; the stacks of all "
        "ranks are in logs/stacks-*.txt",
    ),
    "slow_rank": (
        {"rank": 1, "host": "a", "factor": 2.31, "step": 20},
        "rank 1 on host a is slow: 2.31 times the time of the others, seen at step 20",
    ),
    "rolled_back": (
        {"step": 53, "reason": "the loss is nan", "batch": "bad_steps/53.json", "from_step": 50},
        "the batch of step 53 is left out, from step 50 on all is done again: the loss is nan; the "
        "batch is in bad_steps/53.json",
    ),
    "checkpoint": (
        {"step": 50, "path": "x", "bytes": 30_700_000, "stall_s": 0.012, "write_s": 1.25},
        "saved step 50, 30.7 MB, training stood for 0.012 s, written in 1.25 s",
    ),
    "resumed": ({"step": 50, "path": "checkpoints/x"}, "resumed after step 50 from checkpoints/x"),
}


@pytest.mark.parametrize("kind", SAID)
def test_an_event_is_a_sentence_with_who_what_why_and_what_was_lost(tmp_path, kind):
    facts, said = SAID[kind]
    with Journal(tmp_path) as book:
        book.event(kind, **facts)
    assert sentence(Run(tmp_path).events[0]) == said


@given(
    kind=st.sampled_from([*SENTENCES, "of_tomorrow"]),
    facts=st.dictionaries(
        st.sampled_from(["step", "rank", "workers", "parts", "error", "reason", "seconds"]),
        st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2),
    ),
)
@settings(max_examples=200, deadline=None)
def test_an_event_of_another_version_or_of_somebody_else_is_still_told(kind, facts):
    assert isinstance(sentence({"event": kind, **facts}), str)


def test_every_kind_that_is_shown_live_has_a_sentence_of_its_own():
    assert set(LIVE) <= set(SENTENCES)
    assert not set(UNTOLD) & set(SENTENCES)


class Clockwork:
    """A journal whose times are given; what is not given passes in no time."""

    def __init__(self, folder):
        self.folder, self.now = folder, 1_000_000

    def _line(self, name, attempt, /, **facts):
        line = {"time_ms": self.now, "attempt": attempt, **facts}
        with (self.folder / name).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def passes(self, seconds):
        self.now += round(1000 * seconds)

    def event(self, attempt, kind, /, **facts):
        self._line(EVENTS, attempt, event=kind, **facts)

    def metrics(self, attempt, step, **values):
        named = {name.replace("_", "/", 1): value for name, value in values.items()}
        self._line(METRICS, attempt, step=step, metrics=named)

    def step(self, attempt, step, seconds, waits=0.0):
        self.passes(seconds)
        name = ("train_data_wait_fraction", "train_data_wait")[step % 2]  # as of older runs
        self.metrics(attempt, step, train_step_seconds=seconds, **{name: waits / seconds})


def killed_once(folder):
    """Four steps of 2 s, the third twice; 3 s of start, 5 s until it ran again."""
    book = Clockwork(folder)
    book.event(1, "started", host=socket.gethostname(), pid=os.getpid())
    book.passes(3)
    for step in (1, 2, 3):
        book.step(1, step, 2.0, waits=0.5)
        if step == 2:
            book.passes(1.5)
            book.metrics(1, 2, validation_loss=1.0)
            book.passes(0.25)
            book.event(1, "checkpoint", step=2, path="checkpoints/step_00000002")
    book.passes(1)
    book.event(1, "failed", rank=1, host="a", message="was killed by SIGKILL", detect_s=0.5)
    book.event(1, "restarting", attempt=2, from_step=2, lost_steps=1, workers=2)
    book.passes(4)
    book.event(2, "resumed", step=2, path="checkpoints/step_00000002")
    for step in (3, 4):
        book.step(2, step, 2.0)
        if step == 3:
            book.event(2, "recovered", step=3, seconds=4.0)
    book.event(2, "checkpoint", step=4, path="checkpoints/step_00000004", stall_s=0.125)
    book.passes(0.5)
    return book


def test_goodput_is_committed_steps_times_their_median_time_over_the_wall_time(tmp_path):
    book = killed_once(tmp_path)
    book.event(2, "finished", status="done")
    spent = spending(tmp_path)
    wall = 3 + 3 * 2 + 1.5 + 0.25 + 1 + 4 + 2 * 2 + 0.5
    assert spent.wall_s == pytest.approx(wall)
    assert (spent.steps, spent.lost_steps, spent.failures) == (4, 1, 1)
    assert spent.goodput == pytest.approx(4 * 2.0 / wall)
    assert spent.seconds == pytest.approx(
        {
            **{"start": 3, "steps": 2 * 1.5 + 2 * 2.0, "data": 2 * 0.5, "lost steps": 2.0},
            **{"recovery": 5, "evaluation": 1.5, "saves": 0.25 + 0.125, "other": 0.5 - 0.125},
        }
    )


def test_steps_after_the_newest_checkpoint_count_only_while_the_run_goes_on(tmp_path):
    book = killed_once(tmp_path)
    book.step(2, 5, 2.0)
    assert spending(tmp_path, goes_on=True).steps == 5
    assert (spending(tmp_path).steps, spending(tmp_path).lost_steps) == (4, 2)
    book.event(2, "finished", status="failed")
    assert spending(tmp_path).steps == 4


def test_a_run_without_steps_has_no_goodput(tmp_path):
    with Journal(tmp_path) as book:
        book.event("started")
        book.metrics(0, {"validation/loss": 1.0})
    assert spending(tmp_path).goodput is None


DEEDS = st.lists(
    st.tuples(
        st.sampled_from(["step", "validation", "checkpoint", "failed", "wait"]),
        st.integers(0, 3000),
    ),
    max_size=25,
)


@given(deeds=DEEDS)
@settings(max_examples=60, deadline=None)
def test_every_moment_of_a_run_belongs_to_one_part(tmp_path_factory, deeds):
    book, attempt, step, saved = Clockwork(tmp_path_factory.mktemp("run")), 1, 0, 0
    begun = book.now
    book.event(attempt, "started")
    for deed, ms in deeds:
        if deed == "step":
            step += 1
            book.step(attempt, step, max(ms, 1) / 1000)
            continue
        book.passes(ms / 1000)
        if deed == "validation":
            book.metrics(attempt, step, validation_loss=1.0)
        elif deed == "checkpoint":
            book.event(attempt, "checkpoint", step=step, path="checkpoints/x")
            saved = step
        elif deed == "failed":
            book.event(attempt, "failed", message="was killed")
            attempt, step = attempt + 1, saved
            book.event(attempt, "resumed", step=saved, path="checkpoints/x")
    book.event(attempt, "finished", status="failed")
    spent = spending(book.folder)
    assert set(spent.seconds) == set(PARTS)
    assert all(seconds >= 0 for seconds in spent.seconds.values())
    assert spent.wall_s == pytest.approx((book.now - begun) / 1000)


def run_folder(tmp_path):
    folder = tmp_path / "outputs" / "2026-01-01" / "12-00-00-pretrain-abc123"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("stage: {name: pretrain, steps: 9}\n")
    return folder


def test_why_tells_a_run_that_failed_and_went_on(tmp_path, monkeypatch):
    folder = run_folder(tmp_path)
    book = killed_once(folder)
    book.event(2, "finished", status="done")
    (folder / "result.json").write_text(json.dumps({"status": "done", "steps": 4}))
    monkeypatch.chdir(tmp_path)
    told = typed("why", "abc123")
    assert told.code == 0, told
    for words in (
        "done after 0:20, step 4 of 9",
        "rank 1 on host a was killed by SIGKILL; found after 0.5 s",
        "attempt 2 goes on from step 2 with 2 workers; 1 step is lost and done again",
        "running again at step 3, 4 s after the failure",
        "goodput 40%: 4 steps x 2 s / 20.2 s",
        "2 attempts, 1 failure; lost 1 step (2 s), 5 s until it ran again",
        "steps 35% (7.0 s)  recovery 25% (5.0 s)  start 15% (3.0 s)  lost steps 10% (2.0 s)",
    ):
        assert words in told.out
    assert len(told.out.splitlines()) < 40, "a story is one screen"


def test_why_tells_a_run_that_failed_for_good_and_what_to_do(tmp_path):
    folder = run_folder(tmp_path)
    killed_once(folder)
    error = {"class": "disk_full", "rank": 0, "host": "a", "message": "failed after step 4: full"}
    error["remedy"] = "free some space there"
    (folder / "result.json").write_text(json.dumps({"status": "failed", "error": error}))
    text = story_text(Run(folder))
    assert "why\nrank 0 on host a failed after step 4: full (disk_full)" in text
    assert f"free some space there\norchestrate run resume={folder}" in text


def test_why_tells_a_run_whose_driver_was_killed_from_its_journal_alone(tmp_path):
    folder = run_folder(tmp_path)
    killed_once(folder)
    text = story_text(Run(folder))
    assert "lost its driver after 0:20, step 4 of 9" in text
    assert f"process {os.getpid()} on host {socket.gethostname()}, which drove it, is gone" in text
    assert f"orchestrate run resume={folder}" in text


def test_why_tells_what_a_living_run_does_now_and_how_long_it_has_been_silent(tmp_path):
    folder = run_folder(tmp_path)
    killed_once(folder)  # long ago
    with Journal(folder, attempt=2) as book:
        assert "it may hang" in story_text(Run(folder))
        book.metrics(5, {"train/step_seconds": 2.0})
        story = Story(Run(folder))
    assert story.status == "running"
    assert story.spent.steps == 5
    assert "it may hang" not in " ".join(dict(story.parts())["why"])
    assert "running for" in dict(story.parts())[""][1]


def test_why_refuses_a_journal_that_cannot_be_read(tmp_path, monkeypatch):
    folder = run_folder(tmp_path)
    (folder / EVENTS).write_text('{"time_ms": 1, "event": "started"}\nno line of a journal\n')
    monkeypatch.chdir(tmp_path)
    told = typed("why", str(folder))
    assert told.code == 2
    assert "can't be read" in told.err
