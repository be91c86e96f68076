import signal
import subprocess
import sys
from pathlib import Path

from orchestrator.record.journal import Journal
from orchestrator.record.lines import METRICS, read
from orchestrator.record.outbox import Outbox, complete, unheard
from orchestrator.record.standing import Standing

ROOT = Path(__file__).parents[2]
DIES = """
import os, signal, sys
from pathlib import Path
from orchestrator.record.outbox import Outbox

outbox = Outbox(Path(sys.argv[1]), 1, lambda record: None)
for step in range(5):
    outbox.send({"step": step, "metrics": {"train/loss": float("nan")}})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_has_said_is_there_once(tmp_path):
    killed = subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    missed = unheard(tmp_path, 1, heard=2)
    assert [record["step"] for record in missed] == [2, 3, 4]
    assert all(
        record["metrics"]["train/loss"] != record["metrics"]["train/loss"] for record in missed
    )
    assert unheard(tmp_path, 1, heard=0) == []


def test_a_record_is_written_down_before_it_is_sent_and_attempts_have_files_of_their_own(tmp_path):
    seen = []

    def send(record):
        seen.append((record, len(list(tmp_path.iterdir()))))

    for attempt in (1, 2):
        with Outbox(tmp_path, attempt, send) as outbox:
            outbox.send({"event": "training", "attempt": attempt})
            outbox.sync()
    assert [files for _, files in seen] == [1, 2]
    assert [unheard(tmp_path, attempt, 0) for attempt in (2, 1)] == [[seen[1][0]], [seen[0][0]]]


def test_what_a_killed_driver_did_not_hear_is_put_into_its_journal_once(tmp_path):
    with Journal(tmp_path) as journal, Outbox(tmp_path, 1, lambda record: None) as outbox:
        for step in range(1, 6):
            for metric in ("train/loss", "validation/loss"):
                record = {"time_ms": step, "step": step, "metrics": {metric: step / 8}}
                outbox.send(record)
                if step < 4 and (step, metric) != (3, "validation/loss"):
                    journal.metrics(step, record["metrics"], step)
        saved = {"time_ms": 5, "event": "checkpoint", "step": 5, "path": "checkpoints/step_5"}
        outbox.send(saved)
    for _ in range(2):
        complete(tmp_path)
    lines, _ = read(tmp_path / METRICS)
    steps = [(line["step"], *line["metrics"].items()) for line in lines]
    names = ("train/loss", "validation/loss")
    assert steps == [(step, (name, step / 8)) for step in range(1, 6) for name in names]
    standing = Standing.read(tmp_path)
    assert (standing.step, standing.checkpoint) == (5, "checkpoints/step_5")
    assert not list(tmp_path.glob(".records*"))
