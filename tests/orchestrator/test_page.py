"""MLflow's own page, looked at with a real browser: what somebody sees who follows runs there.

    python -m pytest -m drill -n 0 tests/orchestrator/test_page.py --basetemp=PICTURES

leaves the pictures of each page in PICTURES.
"""

import sqlite3
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from orchestrator.config import TrackingConfig
from orchestrator.record.mlflow import new_state
from orchestrator.verbs.ui import answers, choose_port, find_store, serve
from tests.browser import browser, installed
from tests.orchestrator.test_scaling import grid, measured
from tests.orchestrator.test_scaling_verb import ran, table
from tests.orchestrator.typed import typed

pytestmark = [
    pytest.mark.drill,
    pytest.mark.skipif(installed() is None, reason="no Chromium on this machine"),
]
DIGITS = (
    *("experiment=small", "stage=classify", "optim=adam", "stage.steps=20"),
    *("stage.evaluate_every=5", "optim.warmup_steps=0", "resources=inline"),
)
SWEEP = ("optim.learning_rate=1e-2,3e-3", "model.hidden=[8],[16]", "name=mine")
# Else MLflow's assistant opens beside the first page that a new browser shows.
NO_ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
HEADERS = "[...document.querySelectorAll('.ag-header-cell')].map(e => e.getAttribute('col-id'))"
ROWS = "document.querySelectorAll('.ag-pinned-left-cols-container .ag-row, .ag-row').length"
NAMES = "[...new Set([...document.querySelectorAll('.ag-row a')].map(e => e.innerText))]"
CURVES = "document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length"


@pytest.mark.timeout(600)
def test_runs_a_sweep_charts_and_models_are_seen_as_they_are_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert typed("run", *DIGITS, "stage.keep_best=true").code == 0
    assert typed("sweep", *DIGITS, *SWEEP).code == 0
    outputs = Path("outputs")
    uri, page_of_runs = find_store(outputs, None)
    (folder,) = outputs.glob("*/*-sweep-mine")
    (run,) = (path.parent for path in outputs.glob("*/*/result.json") if _alone(path.parent))
    pages = {name: find_store(outputs, own)[1] for name, own in (("run", run), ("sweep", folder))}
    with shown(uri) as (page, base):
        page.open(f"{base}{page_of_runs}")
        page.until(f"{ROWS} >= 5")
        columns = page.run(HEADERS)
        for wanted in ("metrics.`result/validation/accuracy`", "metrics.`model/parameters`"):
            assert wanted in columns
        assert columns.index("attributes.`Run Name`") < columns.index("duration")
        page.picture(tmp_path / "runs.png")
        page.open(f"{base}{page_of_runs}&compareRunsMode=CHART")
        page.reads("Comparison", "(8)")
        page.until(f"{CURVES} >= 3")
        page.picture(tmp_path / "charts.png")

        page.open(f"{base}{pages['run']}")
        page.reads("validation accuracy.", "Differs from the defaults", "validation/accuracy")
        page.until("[...document.images].some(e => e.src.includes('loss.png') && e.naturalWidth)")
        page.picture(tmp_path / "run.png")

        page.open(f"{base}{pages['sweep']}")
        page.reads("by the best of 4 trials", "Child runs", "trial 0", "trial 3")
        page.picture(tmp_path / "sweep.png")
        page.open(page.run("[...document.links].find(e => /^All trials/.test(e.innerText)).href"))
        page.until(f"{NAMES}.filter(name => name.startsWith('trial ')).length === 4")
        assert "metrics.`objective/validation/loss`" in page.run(HEADERS)
        assert "params.`model.hidden`" in page.run(HEADERS)
        page.picture(tmp_path / "trials.png")

        with closing(sqlite3.connect("outputs/mlflow.db")) as store:
            (name,) = store.execute("SELECT name FROM registered_models").fetchone()
        page.open(f"{base}/#/experiments/0/models?workflowType=machine_learning")
        page.reads(f"{run.name[9:]}-step-20")
        page.picture(tmp_path / "models.png")
        page.open(f"{base}/#/models/{name}?workflowType=machine_learning")
        page.reads("champion", "candidate", "validation/accuracy")
        page.picture(tmp_path / "registered.png")


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # of MLflow, which is in this process for once
def test_a_prediction_is_seen_with_its_band_its_points_and_what_came_out(
    tmp_path, monkeypatch, corpus
):
    monkeypatch.chdir(tmp_path)
    points = measured("chinchilla", *grid(), noise=0.003)
    rows = [*zip(points.parameters, points.tokens, points.loss, strict=True)]
    size, tokens, loss = rows.pop()
    ask = ("--size", str(size), "--tokens", str(tokens), "--draws", "40", "--record")
    assert typed("scaling", "predict", table(rows=rows), *ask).code == 0
    (folder,) = Path("outputs").glob("*/*-prediction-*")
    run = Path("outputs/2026-01-02/03-04-05-pretrain-abc123")
    ran(corpus, run, size, tokens, loss)
    new_state(TrackingConfig(), Path("outputs").absolute()).save(run)
    assert typed("sync", str(run)).code == 0
    assert typed("scaling", "predict", str(folder), "--run", "abc123").code == 0
    uri, own = find_store(Path("outputs"), folder)[:2]
    with shown(uri) as (page, base):
        page.open(f"{base}{own}")
        page.reads("predicted", "9 times in 10", "measured", "the interval", "parameters on")
        page.until("[...document.images].some(e => /prediction/.test(e.src) && e.naturalWidth)")
        page.picture(tmp_path / "prediction.png")
        page.open(f"{base}{own.replace('?', '/model-metrics?')}")
        page.reads("curve", "points", "predicted", "measured")
        page.picture(tmp_path / "prediction_curves.png")
        page.open(f"{base}{find_store(Path('outputs'), run)[1]}")
        page.reads("Prediction", folder.name)
        page.picture(tmp_path / "predicted_run.png")


@contextmanager
def shown(uri):
    """MLflow's page of a store in a browser, and its address."""
    port = choose_port("127.0.0.1", None)
    base = f"http://127.0.0.1:{port}"
    with (
        tempfile.TemporaryFile() as output,
        serve(uri, "127.0.0.1", port, output) as server,
        browser() as page,
    ):
        assert answers(base, server)
        page.open(base)
        page.run(NO_ASSISTANT)
        yield page, base


def _alone(folder):
    """Whether a run is no trial of a sweep."""
    return '"parent": null' in (folder / "mlflow.json").read_text()
