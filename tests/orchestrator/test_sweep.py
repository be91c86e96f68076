"""`orchestrate sweep` with real jobs in warm processes."""

import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

import yaml

from orchestrator.record.lines import last_line
from orchestrator.record.runs import Run, runs
from orchestrator.verbs.sweep.table import Table
from tests.orchestrator.commands import Job, no_left_overs
from tests.orchestrator.typed import refused, typed

SWEEP = [sys.executable, "-m", "orchestrator", "sweep"]

DIGITS = (
    *("experiment=small", "stage=classify", "model.hidden=[8]", "optim=adam"),
    *("optim.warmup_steps=0", "stage.checkpoint_every=null"),
)
SHORT = (*DIGITS, "stage.steps=12", "stage.evaluate_every=2")


def folder_of(outputs):
    (folder,) = outputs.glob("*/*-sweep-*")
    return folder


def trials_of(folder):
    with Table(folder) as table:
        return table.trials


def assert_in_mlflow(folder, trials, best):
    """The trials are nested in their sweep, called by what they are, and the best is a model."""
    with sqlite3.connect("outputs/mlflow.db") as store:
        tags = "select run_uuid, value from tags where key = ?"
        keys = {key: run for run, key in store.execute(tags, ["orchestrate.run"])}
        parents = dict(store.execute(tags, ["mlflow.parentRunId"]))
        sweep = keys[f"{folder.parent.name}/{folder.name}"]
        trial_runs = [keys[f"{f.parent.name}/{f.name}"] for t in trials for f in t.folders]
        assert len(trial_runs) >= 6
        assert {parents[run] for run in trial_runs} == {sweep}
        status = dict(store.execute("select run_uuid, status from runs"))
        assert status[sweep] == "FINISHED"
        values = "select step, value from metrics where run_uuid = ? and key = ?"
        told = dict(store.execute(values, [sweep, "trial/validation/accuracy"]))
        names = dict(store.execute("select run_uuid, name from runs"))
        assert names[sweep] == "sweep mine: classify by learning_rate"
        own = Run(best.folders[-1]).settings["optim.learning_rate"]
        beginning = f"trial {best.number}: learning_rate={own}"
        assert any(names[run].startswith(beginning) for run in trial_runs), names
        ranked_by = dict(store.execute(values, [trial_runs[0], "objective/validation/accuracy"]))
        assert list(ranked_by.values()) == trials[0].values
        score = "select value from model_version_tags where key = 'score'"
        assert store.execute(score).fetchall() == [(repr(best.values[0]),)], "the best one alone"
    assert told == {t.number: t.values[0] for t in trials if t.status == "done"}


def test_trials_are_ordinary_jobs_and_mlflow_nests_them_in_the_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rates = "optim.learning_rate=1e-2,3e-2,1e-5,1e-6,0.1,1e-4"
    words = (*SHORT, rates, "seed=1", "pruner=asha", "name=mine")  # by which good ones come first
    answer = typed("sweep", *words, "parallel=2", "seeds=2", "objective=validation/accuracy")
    assert answer.code == 0, answer
    folder = folder_of(Path("outputs"))
    trials = trials_of(folder)
    pruned = [trial for trial in trials if trial.status == "pruned"]
    done = [trial for trial in trials if trial.status == "done" and trial.seed_of is None]
    assert len(pruned) + len(done) == 6
    assert pruned
    for trial in pruned:
        run = Run(trial.folders[-1])
        assert (run.status, run.result["steps"]) == ("interrupted", trial.steps)
        assert trial.steps == max(trial.reports), "it ended right after the report"
        assert (run.folder / run.result["checkpoint"] / "manifest.json").is_file()
    best = max(done, key=lambda trial: trial.values)
    lines = answer.out.splitlines()
    assert any(line.split()[:2] == ["1", str(best.number)] for line in lines), answer.out
    assert "validation/accuracy, higher is better" in answer.out
    assert not list(Run(best.folders[-1]).folder.glob("*.png")), "a sweep draws its trials together"
    alone = typed("run", *best.words, "tracking=none")
    assert alone.code == 0, alone
    again = Run(Path("outputs/latest").resolve())
    assert again.metrics["validation/accuracy"] == best.values[0], "the same as run alone"
    assert yaml.safe_load((folder / "best.yaml").read_text()) == best.words
    assert_in_mlflow(folder, trials, best)
    artifacts = list(Path("outputs/mlartifacts").rglob("parallel_coordinates.png"))
    assert len(artifacts) == 1
    message = refused("sweep", *words)
    assert f"name=mine is that of {folder}; go on with that one by" in message
    assert "did you mean optim.learning_rate?" in refused("sweep", *SHORT, "optim.learning_rat=1,2")
    assert "holds no sweep.json" in refused("sweep", "--resume", "outputs")
    assert "there is no such folder" in refused("sweep", "--resume", "yours")
    assert "sampler=tpe is of a sweep" in refused("run", *SHORT, "sampler=tpe")


def test_a_sweep_that_is_killed_goes_on_with_its_trials_from_their_own_checkpoints(tmp_path):
    words = [*DIGITS, "stage.steps=1500", "stage.evaluate_every=500", "stage.checkpoint_every=100"]
    words += ["optim.learning_rate=1e-2,3e-3", "parallel=2", "name=x", "tracking=none"]
    cache = {"ORCHESTRATE_CACHE": os.environ["ORCHESTRATE_CACHE"]}

    def under_way():
        found = [run for run in runs(tmp_path / "outputs") if not run.result]
        lines = [last_line(run.folder / "metrics.jsonl") for run in found]
        return found if sum(bool(line) and line["step"] > 150 for line in lines) == 2 else []

    sweep = Job(tmp_path, None, *words, command=SWEEP, own=(), **cache)
    killed = sweep.until(under_way)
    sweep.process.send_signal(signal.SIGKILL)
    assert sweep.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while not all(Run(run.folder).result for run in killed) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [Run(run.folder).status for run in killed] == ["interrupted"] * 2, "they saved"
    again = Job(tmp_path, None, "--resume", "x", command=SWEEP, own=(), **cache)
    assert again.wait() == 0, again.screen
    assert no_left_overs(again)
    trials = trials_of(folder_of(tmp_path / "outputs"))
    assert [(trial.number, trial.status) for trial in trials] == [(0, "done"), (1, "done")]
    for trial in trials:
        first, second = trial.folders
        start = Path(Run(second).config["resume"])
        assert start.parents[1] == first, "from its own checkpoint"
        assert Run(second).result["steps"] == 1500
