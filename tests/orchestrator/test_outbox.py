import signal
import subprocess
import sys
from pathlib import Path

from orchestrator.record.outbox import Outbox, unheard

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
