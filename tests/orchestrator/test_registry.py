"""Registered models: which run's checkpoint is the candidate, and which the champion."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest

from orchestrator.config import TrackingConfig
from orchestrator.record.mlflow.mirror import State, new_state
from orchestrator.record.mlflow.sending import send
from tests.orchestrator.tracked import make_run, play


def sent(outputs, name, loss, **result):
    """A run of this result, sent as `orchestrate sync` does it."""
    folder = make_run(outputs, name)
    play(folder, steps=20)
    said = json.loads((folder / "result.json").read_text())
    said |= {"metrics": {"validation/loss": loss}, "checkpoint": "checkpoints/step_00000020"}
    (folder / "result.json").write_text(json.dumps(said | result))
    new_state(TrackingConfig(system_metrics=False), outputs).save(folder)
    send(folder)
    return folder


def rows(outputs, query):
    with closing(sqlite3.connect(outputs / "mlflow.db")) as store:
        return store.execute(query).fetchall()


def aliases(outputs):
    """Alias -> the result of its version's run."""
    query = """SELECT alias, value FROM registered_model_aliases AS a JOIN model_version_tags AS t
               ON a.name = t.name AND a.version = t.version WHERE t.key = 'score'"""
    return {alias: float(score) for alias, score in rows(outputs, query)}


@pytest.mark.filterwarnings("ignore")  # of MLflow, which is in this process for once
def test_the_best_run_is_the_champion_and_the_newest_the_candidate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = tmp_path / "outputs"
    first = sent(outputs, "12-00-00-pretrain-aaa111", 2.0)
    assert aliases(outputs) == {"champion": 2.0, "candidate": 2.0}
    sent(outputs, "12-00-01-pretrain-bbb222", 3.0)
    assert aliases(outputs) == {"champion": 2.0, "candidate": 3.0}
    best = {"step": 10, "checkpoint": "checkpoints/step_00000010", "metric": "validation/loss"}
    kept = sent(outputs, "12-00-02-pretrain-ccc333", 1.5, best=best)
    sent(outputs, "12-00-03-pretrain-ddd444", 1.0, status="failed")
    assert aliases(outputs) == {"champion": 1.5, "candidate": 1.5}, "what failed gives nothing"
    send(first)
    assert aliases(outputs) == {"champion": 1.5, "candidate": 1.5}
    versions = rows(outputs, "SELECT name, run_id, source FROM model_versions ORDER BY version")
    assert [name for name, *_ in versions] == ["pretrain-ffffff"] * 3
    state = State.load(kept)
    assert versions[2][1] == state.run_id
    (of_best,) = rows(
        outputs,
        f"""SELECT artifact_location FROM logged_models
            WHERE name = 'pretrain-ccc333-step-10' AND source_run_id = '{state.run_id}'""",
    )
    assert versions[2][2:] == of_best, "the best weights, not the last ones"
    moved = tmp_path / "moved"
    shutil.move(outputs, moved)
    again = moved / kept.relative_to(outputs)
    send(again)
    (source,) = rows(moved, "SELECT source FROM model_versions WHERE version = 3")[0]
    assert source.startswith(moved.as_uri())
