"""Predictions of runs: made before them, scored after them, and found in MLflow from both sides."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from orchestrator.config import TrackingConfig
from orchestrator.job.predicted import scored
from orchestrator.record.mlflow import State, new_state
from orchestrator.record.predictions import Prediction
from orchestrator.record.runs import Run
from orchestrator.scaling.fitting import fit, one_thread
from orchestrator.scaling.forms import FORMS
from orchestrator.scaling.intervals import bootstrap
from orchestrator.scaling.predicting import keep, predict
from tests.orchestrator.test_scaling_verb import POINTS, ran, table
from tests.orchestrator.typed import on, refused, trained, typed

LARGE = int(np.argmax(POINTS.parameters))
SIZE, TOKENS, LOSS = (own[LARGE] for own in (POINTS.parameters, POINTS.tokens, POINTS.loss))
RUN = Path("outputs/2026-01-02/03-04-05-pretrain-abc123")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


SMALLER = POINTS.take(POINTS.parameters < SIZE)


@pytest.mark.filterwarnings("ignore")  # of MLflow, which is in this process for once
def test_a_prediction_and_its_run_lead_to_each_other_in_mlflow(corpus):
    rows = zip(SMALLER.parameters, SMALLER.tokens, SMALLER.loss, strict=True)
    words = ("--size", str(SIZE), "--tokens", str(TOKENS), "--draws", "20", "--record")
    answer = typed("scaling", "predict", table(rows=rows), *words)
    assert answer.code == 0, answer
    (folder,) = Path("outputs").glob("*/*-prediction-*")
    other = RUN.with_name("03-04-06-pretrain-abc124")
    ran(corpus, other, SIZE / 2, TOKENS, LOSS)
    assert "the prediction is of" in refused("scaling", "predict", str(folder), "--run", "abc124")
    assert "is a prediction that was made" in refused(
        *("scaling", "predict", str(folder), "--size", "1", "--tokens", "2")
    )
    ran(corpus, RUN.with_name("03-04-07-pretrain-abd"), SIZE, TOKENS, LOSS, status="failed")
    assert "a law: it is failed" in refused("scaling", "predict", str(folder), "--run", "abd")
    ran(corpus, RUN, SIZE, TOKENS, LOSS)
    new_state(TrackingConfig(), Path("outputs").absolute()).save(RUN)
    answer = typed("scaling", "predict", str(folder), "--run", "abc123")
    assert answer.code == 0, answer
    assert "measured " in answer.out

    from mlflow import MlflowClient

    states = {own: State.load(own) for own in (folder, RUN)}
    client = MlflowClient(states[RUN].tracking_uri)
    pages = {own: client.get_run(state.run_id).data.tags for own, state in states.items()}
    notes = {own: tags["mlflow.note.content"] for own, tags in pages.items()}
    assert states[RUN].run_id in notes[folder]
    assert states[folder].run_id in notes[RUN]
    assert "prediction.png" in notes[folder]
    artifacts = {own.path for own in client.list_artifacts(states[folder].run_id)}
    assert artifacts == {"prediction.json", "prediction.png", "points.json"}
    curve = client.get_metric_history(states[folder].run_id, "curve/loss")
    steps = [own.step for own in curve]
    assert steps == sorted(steps)
    own = Prediction.load(folder)
    assert min(steps) < own.flops < max(steps) * 1e9 < 1e24, "steps count GFLOPs"
    (truth,) = client.get_metric_history(states[folder].run_id, "measured/loss")
    assert (truth.value, truth.step) == (LOSS, round(7 * SIZE * TOKENS / 1e9))
    # The run is a point of its experiment, and the prediction is none.
    ask = ("scaling", "fit", "mlflow:default", "--flops-within", "1e9")
    assert "all 1 points have parameters" in refused(*ask)
    assert "has no such experiment; it has default" in refused("scaling", "fit", "mlflow:other")


def test_the_end_of_a_run_settles_what_was_predicted_of_it_and_nothing_else(corpus):
    size, tokens = Run(trained(corpus)).parameters, 3 * 4 * 32
    with one_thread():
        draws = bootstrap(fit(FORMS["chinchilla"], SMALLER), 20)
    folder = keep(predict(draws, size, tokens), Path("outputs"))
    before = Prediction.load(folder)
    shutil.copytree(trained(corpus), RUN)
    told = []
    with scored(RUN.absolute(), told.append, sends=False):
        assert told == [], "it has made 2 steps, and 3 were predicted"
    answer = typed("run", *on(corpus), "stage.steps=3")
    run, after = Path("outputs/latest").resolve(), Prediction.load(folder)
    assert before.truth is None
    assert (before.loss, before.low, before.high) == (after.loss, after.low, after.high)
    assert after.truth.loss == Run(run).metrics["validation/loss"]
    assert after.error == pytest.approx(after.loss / after.truth.loss - 1)
    assert after.inside == (after.low <= after.truth.loss <= after.high)
    assert after.beforehand
    assert f"prediction {after.said}" in " ".join(answer.out.split())
    assert json.loads((run / "prediction.json").read_text())["folder"] == after.folder
    assert (run / "figures" / "prediction.png").exists()
    with scored(run, told.append, sends=False):
        assert told == [], "once is enough"
