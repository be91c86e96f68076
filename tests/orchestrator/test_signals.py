"""What SIGINT, SIGTERM and SIGHUP do to a job at each stage of its life; real signals, in-process.

`test_job.py` does the same to jobs in processes of their own.
"""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from orchestrator.job import execute, lifecycle
from orchestrator.job.codes import DONE, FAILED, INTERRUPTED, STOPPED
from orchestrator.job.signals import Stops, handled
from orchestrator.record.checkpoints.retention import remove_partial
from orchestrator.record.lines import read
from orchestrator.record.mlflow import NoMirror
from orchestrator.stages.run import Run
from tests.orchestrator.typed import on, typed

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def receive(*numbers):
    for number in numbers:
        signal.raise_signal(number)


def result():
    return json.loads(Path("outputs/latest/result.json").read_text())


@pytest.mark.parametrize("number", ALL[1:])
def test_sigterm_and_a_lost_terminal_finish_the_step_save_and_leave(number, corpus):
    def interrupt():
        metrics, deadline = Path("outputs/latest/metrics.jsonl"), time.monotonic() + 60
        while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        receive(number)

    threading.Thread(target=interrupt, daemon=True).start()
    answer = typed("run", *on(corpus), "stage.steps=100000")
    assert answer.code == INTERRUPTED, answer
    assert "stopping after this step with a checkpoint; Ctrl-C stops now" in answer.out
    assert Path(result()["checkpoint"]).name == f"step_{result()['steps']:08d}"
    assert "resume=outputs/" in answer.out


def test_before_the_first_step_nothing_is_promised_and_the_code_says_so(corpus, monkeypatch):
    def interrupted(*_):
        receive(signal.SIGTERM)
        return NoMirror()

    monkeypatch.setattr(lifecycle, "start_mirror", interrupted)
    answer = typed("run", *on(corpus), "stage.steps=100000")
    assert answer.code == STOPPED, answer
    assert "stopping before the first step" in answer.out
    assert "checkpoint;" not in answer.out
    assert "resume=" not in answer.out
    assert (result()["status"], result()["checkpoint"]) == ("interrupted", None)


@pytest.mark.parametrize("number", ALL)
def test_a_job_that_is_still_prepared_leaves_at_once(number, corpus, monkeypatch):
    monkeypatch.setattr(execute, "make_plan", lambda *_: receive(number))
    answer = typed("run", *on(corpus))
    assert (answer.code, answer.err) == (STOPPED, "")
    assert not Path("outputs").exists()


class SlowMirror(NoMirror):
    """Gets signals while it sends; `limits` are those it was given."""

    def __init__(self, *numbers):
        self.numbers, self.limits = numbers, []

    def finish(self, timeout=None):
        self.limits.append(timeout)
        receive(*(self.numbers if timeout is None else ()))
        return super().finish()


@pytest.mark.parametrize(
    ("numbers", "limits"),
    [
        ([signal.SIGHUP, signal.SIGTERM], [None]),
        ([signal.SIGINT, signal.SIGINT], [None, 0]),
    ],
)
def test_while_the_record_is_sent_only_a_second_ctrl_c_ends_that(
    numbers, limits, corpus, monkeypatch
):
    mirror = SlowMirror(*numbers)
    monkeypatch.setattr(lifecycle, "start_mirror", lambda *_: mirror)
    answer = typed("run", *on(corpus), "stage.steps=2", "tracking=mlflow")
    assert answer.code == DONE, answer
    assert "its record is being sent to MLflow; Ctrl-C ends that" in answer.out
    assert mirror.limits == limits
    assert result()["status"] == "done"


@pytest.mark.parametrize("number", ALL)
def test_where_there_is_nothing_to_save_the_first_signal_ends_the_work(number):
    stops = Stops(say=lambda line: None, inline=True, saves=False)
    with stops.heard(), pytest.raises(KeyboardInterrupt):
        receive(number)
    assert stops.kill.is_set()


def test_a_second_sigterm_is_no_second_ctrl_c():
    """Batch systems send it again and again while they wait."""
    stops = Stops(say=lambda line: None, inline=True, saves=True)
    with stops.heard():
        receive(signal.SIGTERM, signal.SIGTERM, signal.SIGHUP)
        assert (stops.stop.is_set(), stops.kill.is_set()) == (True, False)
        with pytest.raises(KeyboardInterrupt):
            receive(signal.SIGINT)


def test_who_was_started_without_sighup_goes_on_without_it():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled(lambda *_: pytest.fail("nohup")):
            receive(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_job_that_fails_leaves_no_half_written_checkpoint(corpus, monkeypatch):
    """Another rank has been killed while it saved, and this one with it."""

    def die_while_saving(*_, **__):
        half = Path("outputs/latest/checkpoints/step_00000003.000001.partial/model")
        half.mkdir(parents=True)
        (half / "weights-0.safetensors").write_bytes(b"half")
        raise MemoryError

    monkeypatch.setattr(lifecycle, "run_inline", die_while_saving)
    answer = typed("run", *on(corpus), "stage.steps=4")
    assert answer.code == FAILED, answer
    assert list(Path("outputs/latest/checkpoints").iterdir()) == []


def test_a_checkpoint_whose_rank_did_not_live_to_tell_of_it_is_in_the_result(corpus, monkeypatch):
    told = Run.event

    def die(self, kind, **facts):
        if kind == "checkpoint" and facts["step"] == 4:
            raise MemoryError
        told(self, kind, **facts)

    monkeypatch.setattr(Run, "event", die)
    answer = typed("run", *on(corpus), "stage.steps=6", "stage.checkpoint_every=2")
    assert answer.code == FAILED, answer
    assert Path(result()["checkpoint"]).name == "step_00000004"
    events, _ = read(Path("outputs/latest/events.jsonl"))
    saved = [event for event in events if event["event"] == "checkpoint"]
    assert [event["step"] for event in saved] == [2, 4]
    assert saved[0].keys() & {"path", "bytes", "manifest_sha256"} <= saved[1].keys()
    assert "resume=outputs/" in answer.out


def test_a_checkpoint_that_was_making_room_for_another_is_put_back(tmp_path):
    (tmp_path / "step_00000003.replaced.partial").mkdir()
    (tmp_path / "step_00000003.partial").mkdir()
    (tmp_path / "step_00000005.replaced.partial").mkdir()
    (tmp_path / "step_00000005").mkdir()
    remove_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000003", "step_00000005"]


def test_what_goes_wrong_while_the_data_is_prepared_is_one_sentence(corpus, monkeypatch):
    def fail(*_):
        raise OSError(5, os.strerror(5), "/mnt/corpus/a.txt")

    monkeypatch.setattr(execute, "make_plan", fail)
    answer = typed("run", *on(corpus))
    assert (answer.code, answer.err.count("\n")) == (FAILED, 1)
    assert "error: OSError: [Errno 5] Input/output error: '/mnt/corpus/a.txt'; " in answer.err
    assert "once it answers, start again" in answer.err
