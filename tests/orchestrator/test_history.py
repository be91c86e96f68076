"""A run that goes on from another, in MLflow, and after the outputs were moved."""

import json
import stat
import subprocess
import sys

from orchestrator.config import TrackingConfig
from orchestrator.record.journal import Journal
from orchestrator.record.mlflow.mirror import ENVIRONMENT, State, new_state
from orchestrator.record.mlflow.sqlite import sqlite_path
from tests.orchestrator.tracked import ROOT, make_run, play, rows

SEND_MOVE_AND_OPEN = """
import os, sys
from pathlib import Path
os.environ.update({environment!r})
from orchestrator.record.mlflow import Done
from orchestrator.record.mlflow.mirror import State
from orchestrator.record.mlflow.sending import send
from orchestrator.record.mlflow.store import settle

outputs, moved, *folders = map(Path, sys.argv[1:])
for folder in folders:
    sent = send(folder)
    assert isinstance(sent, Done) and not sent.refused, sent
outputs.rename(moved)
from mlflow import MlflowClient

settle(moved / "mlflow.db")
client = MlflowClient(f"sqlite:///{{moved / 'mlflow.db'}}")
for folder in folders:
    run = State.load(moved / folder.relative_to(outputs)).run_id
    texts = client.list_artifacts(run, "texts")
    assert [text.path for text in texts] == ["texts/samples.txt"], texts
    opened = Path(client.download_artifacts(run, "texts/samples.txt"))
    assert opened.read_text() == "Once upon a time\\n"
assert not outputs.exists()
"""


def go_on(folder, *, path, step, steps, sha256):
    """The journal of a run that goes on from the checkpoint of another."""
    with Journal(folder) as book:
        book.event("started")
        book.event("resumed", path=path, step=step, manifest_sha256=sha256)
        for number in range(step + 1, steps + 1):
            book.metrics(number, {"train/loss": 2 + 1 / number})
        book.event("artifact", path="samples.txt", artifact_path="texts")
        book.event("finished", status="done")


def test_a_resumed_run_is_the_child_of_the_one_before_with_the_whole_curve_also_when_moved(
    tmp_path,
):
    """The third goes on from the second before the end of that, which went on from the first."""
    outputs, moved = tmp_path / "outputs", tmp_path / "else where"
    first, second, third = (make_run(outputs, f"1{n}-00-00-pretrain-abcdef") for n in range(3))
    play(first, steps=20)
    before = "../{}/checkpoints/step_{:08d}"
    go_on(second, path=before.format(first.name, 10), step=10, steps=16, sha256="d" * 64)
    go_on(third, path=before.format(second.name, 14), step=14, steps=18, sha256="e" * 64)
    for folder in (first, second, third):
        new_state(TrackingConfig(system_metrics=False), outputs).save(folder)
    code = SEND_MOVE_AND_OPEN.format(environment=ENVIRONMENT)
    subprocess.run(
        [sys.executable, "-c", code, outputs, moved, first, second, third],
        cwd=ROOT, check=True, timeout=200,
    )  # fmt: skip
    ids = [State.load(moved / f.relative_to(outputs)).run_id for f in (first, second, third)]
    curve = "SELECT step FROM metrics WHERE run_uuid = ? AND key = 'train/loss' ORDER BY step"
    tags = "SELECT key, value FROM tags WHERE run_uuid = ?"
    for run, parent, steps in ((ids[1], ids[0], 16), (ids[2], ids[1], 18)):
        found = [step for (step,) in rows(moved / "mlflow.db", curve, run)]
        assert found == list(range(1, steps + 1))
        assert dict(rows(moved / "mlflow.db", tags, run))["mlflow.parentRunId"] == parent
    made = "SELECT model_id FROM logged_models WHERE source_run_id = ?"
    used = "SELECT destination_id FROM inputs WHERE source_id = ? AND source_type = 'RUN_INPUT'"
    known = {row[0] for row in rows(moved / "mlflow.db", made, ids[0])}
    assert {row[0] for row in rows(moved / "mlflow.db", used, ids[1])} <= known
    assert rows(moved / "mlflow.db", used, ids[1])


def test_where_a_run_is_sent_moves_with_it_and_is_secret_only_with_a_password(tmp_path):
    outputs, moved = tmp_path / "out puts", tmp_path / "100% moved"
    folder = outputs / "2026-01-01" / "run"
    folder.mkdir(parents=True)
    new_state(TrackingConfig(), outputs).save(folder)
    assert str(tmp_path) not in (folder / "mlflow.json").read_text()
    assert stat.S_IMODE((folder / "mlflow.json").stat().st_mode) == 0o644
    outputs.rename(moved)
    state = State.load(moved / "2026-01-01" / "run")
    assert sqlite_path(state.tracking_uri) == moved / "mlflow.db"
    assert state.artifact_root == (moved / "mlartifacts").as_uri()
    server = TrackingConfig(uri="https://bob:pa55word@host")
    new_state(server, moved).save(moved)
    assert json.loads((moved / "mlflow.json").read_text())["tracking_uri"] == server.uri
    assert stat.S_IMODE((moved / "mlflow.json").stat().st_mode) == 0o600
