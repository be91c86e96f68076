"""stage=classify as a user types it, on scikit-learn's digits and on tables."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics

from data.files import cache_root
from models.configs import MLPConfig
from orchestrator.config import EngineConfig, JobConfig, OptimConfig, ResourcesConfig
from orchestrator.record.lines import read
from orchestrator.stages.classify.driver import prepare
from orchestrator.stages.classify.stage import ClassifyConfig
from orchestrator.stages.features.splits import PublishedExamples
from orchestrator.stages.run import Run
from orchestrator.training import checkpoint
from tests.orchestrator.typed import refused, typed

ROOT = Path(__file__).parents[2]
PLAIN = (
    *("resources=inline", "resources.cpus_per_worker=1", "resources.gpus_per_worker=0"),
    *("engine=torch", "engine.precision=fp32", "tracking=none"),
)
SHORT = (
    *("model.dropout=0.2", "stage.steps=12", "stage.evaluate_every=6", "optim.warmup_steps=2"),
    *("engine.precision=fp32", "stage.checkpoint_every=7"),
)


def newest():
    return Path("outputs/latest").resolve()


def result(run):
    return json.loads((run / "result.json").read_text())


def metric(run, name="train/loss"):
    lines, _ = read(run / "metrics.jsonl")
    return {line["step"]: line["metrics"][name] for line in lines if name in line["metrics"]}


def events(run, kind):
    lines, _ = read(run / "events.jsonl")
    return [line for line in lines if line["event"] == kind]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run on the digits with the defaults of the stage, but for plain PyTorch in one process."""
    outputs = tmp_path_factory.mktemp("digits")
    answer = typed("run", "stage=classify", *PLAIN, f"outputs={outputs}")
    assert answer.code == 0, answer
    return (outputs / "latest").resolve(), answer.out


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A short run with dropout, which others must repeat."""
    outputs = tmp_path_factory.mktemp("short")
    answer = typed("run", "stage=classify", *PLAIN, *SHORT, f"outputs={outputs}")
    assert answer.code == 0, answer
    return (outputs / "latest").resolve()


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Writes a table of two classes that a line tells apart; gives the settings to learn it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "tables"
    folder.mkdir()

    def write(change=lambda row: row, header="x,y,kind"):
        draw = np.random.default_rng(0)
        rows = [[x, y, int(x + y > 0)] for x, y in draw.normal(size=(200, 2)).round(4).tolist()]
        lines = [",".join(map(str, change(row))) for row in rows]
        (folder / "table.csv").write_text("\n".join([header, *lines]) + "\n")
        return (
            *("run", "stage=classify", f"stage.data={folder / 'table.csv'}", "stage.label=kind"),
            *("model.hidden=[8]", *PLAIN),
        )

    return write


def test_the_digits_are_learned_and_the_run_leaves_what_it_promises(digits):
    run, screen = digits
    found = result(run)
    assert (found["status"], found["stage"], found["steps"]) == ("done", "classify", 450)
    assert found["tokens"] is None
    accuracies = metric(run, "validation/accuracy")
    ends = [step for step in range(1, 451) if step * 32 % 1448 < 32]  # the first after each epoch
    assert list(accuracies) == [*ends, 450]
    assert len(ends) == 9
    assert found["metrics"]["validation/accuracy"] == accuracies[450] > 0.95
    assert found["metrics"]["train/epochs"] == pytest.approx(450 * 32 / 1448)
    for name in ("train/loss", "train/accuracy"):
        assert len(metric(run, name)) == 450
    assert "class taken for" in screen
    assert "validation accuracy" in screen
    assert (run / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert [event["path"] for event in events(run, "artifact")] == [
        "confusion.png",
        "mistakes.png",
        "confusion.json",
        "accuracy.json",
    ]
    sizes = {event["split"]: event["examples"] for event in events(run, "dataset")}
    assert sizes == {"train": 1448, "validation": 349}


def test_what_is_reported_is_what_scikit_learn_says_of_the_saved_model(digits):
    run, _ = digits
    saved = checkpoint.find(run)
    inputs = PublishedExamples(saved.facts["examples"]["fingerprint"], 0, 0, None, None)
    validation = inputs.open("validation", cache_root())
    model = checkpoint.load_model(saved).eval()
    with torch.no_grad():
        shares = model(torch.tensor(validation.features)).double().softmax(1).numpy()
    predicted, labels = shares.argmax(1), validation.labels
    reported = result(run)["metrics"]
    assert reported["validation/accuracy"] == metrics.accuracy_score(labels, predicted)
    assert reported["validation/loss"] == pytest.approx(metrics.log_loss(labels, shares), rel=1e-4)
    shown = json.loads((run / "confusion.json").read_text())["data"]
    matrix = [[int(number) for number in row[1:-1]] for row in shown]
    assert np.array_equal(matrix, metrics.confusion_matrix(labels, predicted))


def test_a_checkpoint_tells_how_to_standardise_other_examples(digits):
    from sklearn.datasets import load_digits

    saved = checkpoint.find(digits[0])
    facts, raw = saved.facts["examples"], load_digits()
    features = (raw.data - facts["mean"]) / facts["std"]
    with torch.no_grad():
        scores = checkpoint.load_model(saved).eval()(torch.tensor(features, dtype=torch.float32))
    assert facts["features"] == raw.feature_names
    assert metrics.accuracy_score(raw.target, scores.argmax(1)) > 0.98


def test_a_resumed_run_tells_the_very_losses_of_one_that_was_never_stopped(
    short, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    resume = f"resume={short / 'checkpoints' / 'step_00000007'}"
    answer = typed("run", resume, "outputs=outputs")
    assert answer.code == 0, answer
    before = {step: loss for step, loss in metric(short).items() if step > 7}
    assert metric(newest()) == before
    assert metric(newest(), "validation/loss")[12] == metric(short, "validation/loss")[12]


def test_a_table_is_learned_until_there_is_no_progress_and_goes_on_from_a_checkpoint_as_it_was(
    table,
):
    """Steps that shrink to nothing: accuracy rises for a while and then stays where it is."""
    patient = (
        *("stage.patience=3", "stage.keep_best=true", "stage.best_metric=validation/accuracy"),
        *("stage.evaluate_every=4", "stage.steps=400", "stage.checkpoint_every=6"),
        *("optim.warmup_steps=1", "optim.learning_rate=0.05"),
    )
    request = (*table(), *patient)
    answer = typed(*request, "stage.checkpoints_kept=99")
    assert answer.code == 0, answer
    whole, found = newest(), result(newest())
    accuracies = metric(whole, "validation/accuracy")
    first_best = max(accuracies, key=lambda step: (accuracies[step], -step))
    assert (found["status"], found["steps"]) == ("done", first_best + 3 * 4)
    assert found["best"]["step"] == first_best
    assert found["best"]["value"] == accuracies[first_best] > 0.9
    at_best = {n: metric(whole, n)[first_best] for n in ("validation/accuracy", "validation/loss")}
    assert found["best"]["metrics"] == at_best
    assert found["metrics"] | at_best == found["metrics"], "the result is that of the best weights"
    (dataset, _) = events(whole, "dataset")
    assert (dataset["name"], Path(dataset["source"]).name) == ("table", "table.csv")
    assert "has not become better in 3 evaluations" in found["reason"]
    assert f"ended early: {found['reason']}" in answer.out
    assert events(whole, "ended_early")[0]["reason"] == found["reason"]

    cut = max(step for step in range(6, found["steps"], 6) if step > first_best)  # 2 still to wait
    resume = f"resume={whole / 'checkpoints' / f'step_{cut:08d}'}"
    answer = typed(*request, resume, "stage.checkpoints_kept=1")
    assert answer.code == 0, answer
    again = result(newest())
    assert [again[name] for name in ("steps", "reason")] == [found["steps"], found["reason"]]
    shown = json.loads((newest() / "confusion.json").read_text())["data"]
    right = sum(int(row[1 + place]) for place, row in enumerate(shown))
    of = sum(int(number) for row in shown for number in row[1:-1])
    assert right / of == again["best"]["value"], "the table is that of the best weights"
    kept = (newest() / again["best"].pop("checkpoint")).resolve()
    assert checkpoint.open_weights(newest()).path.resolve() == kept
    assert kept == (whole / found["best"].pop("checkpoint")).resolve()
    assert kept.is_dir()
    assert again["best"] == found["best"]
    assert {s: a for s, a in accuracies.items() if s > cut} == metric(
        newest(), "validation/accuracy"
    )
    kept = [path.name for path in (newest() / "checkpoints").iterdir()]
    assert kept == [f"step_{found['steps']:08d}"]


def test_a_network_by_hand_is_a_job_that_goes_on_as_if_never_stopped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = [word for word in PLAIN if not word.startswith("engine")]
    own = ("run", "stage=classify", "model=mlp_by_hand", *plain, "stage.keep_best=true")
    answer = typed(*own, "stage.steps=300", "stage.checkpoint_every=100", "optim.weight_decay=1e-4")
    assert answer.code == 0, answer
    whole, found = newest(), result(newest())
    assert found["metrics"]["validation/accuracy"] > 0.95
    assert found["best"]["value"] == min(metric(whole, "validation/loss").values())
    assert list(metric(whole, "validation/accuracy")) == [46, 91, 136, 181, 227, 272, 300]
    saved = checkpoint.find(whole)
    twin = checkpoint.load_model(saved).eval()
    inputs = PublishedExamples(saved.facts["examples"]["fingerprint"], 0, 0, None, None)
    validation = inputs.open("validation", cache_root())
    predicted = twin(torch.tensor(validation.features)).argmax(1)
    accuracy = metrics.accuracy_score(validation.labels, predicted)
    assert accuracy == metric(whole, "validation/accuracy")[saved.step]
    assert (whole / "mistakes.png").read_bytes().startswith(b"\x89PNG")
    answer = typed("run", f"resume={whole / 'checkpoints' / 'step_00000272'}")
    assert answer.code == 0, answer
    for name in ("validation/loss", "validation/accuracy"):
        assert metric(newest(), name)[300] == metric(whole, name)[300]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("optim=adam", "goes down the gradient itself; try optim=by_hand"),
        ("optim.momentum=0.9", "goes down the gradient itself; try optim=by_hand"),
        ("optim.gradient_clip=1", "takes each gradient as it is; try optim.gradient_clip=null"),
        ("resources=cpu2 engine=zero1", "learns in one process; try resources=cpu1"),
        ("engine=zero2", "has no effect: model.family=mlp_by_hand computes in numpy"),
        ("stage=regress", "gives numbers between 0 and 1"),
        ("stage.noise=0.5", "stage.data=digits is not drawn"),
        ("stage.data=spiral stage.validation_fraction=0.3", "its own validation examples"),
    ],
)
def test_what_a_network_by_hand_does_not_do_is_refused(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    own = ["stage=classify"] if "stage=" not in words else []
    assert message in refused("run", *own, "model=mlp_by_hand", *words.split())


def train_on_this_rank(stage, inputs, folder, cache):
    """The job of `short` on one of several ranks, under a ZeRO stage; returns what it logged."""
    from orchestrator.stages.classify.train import classify
    from orchestrator.training import distributed

    records = []
    job = JobConfig(
        stage=ClassifyConfig(steps=12, evaluate_every=6, checkpoint_every=7, micro_batch_size=8),
        model=MLPConfig(dropout=0.2),
        optim=OptimConfig(warmup_steps=2),
        engine=EngineConfig(zero_stage=stage, precision="fp32"),
        resources=ResourcesConfig(workers=distributed.world_size()),
    )
    run = Run(folder, torch.device("cpu"), records.append, lambda: False, cache)
    done = classify(job, inputs, run)
    steps = {r["step"]: r["metrics"] for r in records if "metrics" in r and "event" not in r}
    latest = {name: value for metrics in steps.values() for name, value in metrics.items()}
    assert not done.stopped
    return steps, latest


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_under_any_zero_stage_tell_the_losses_of_one_process(two, short, tmp_path, stage):
    inputs = prepare(JobConfig(stage=ClassifyConfig(), model=MLPConfig()), None, print).inputs
    (steps, latest), _ = two.run(train_on_this_rank, stage, inputs, tmp_path, cache_root())
    losses = {step: values["train/loss"] for step, values in steps.items() if step % 6}
    alone = {step: loss for step, loss in metric(short).items() if step % 6}
    assert losses == pytest.approx(alone, rel=1e-4)
    names = {name for name in latest if name.startswith("validation/")}
    assert names == {"validation/loss", "validation/accuracy"}
    for name in names:
        assert latest[name] == pytest.approx(metric(short, name)[12], rel=1e-4)
    assert checkpoint.find(tmp_path).facts["examples"]["position"] == 12 * 32


def test_a_gang_of_ray_workers_tells_the_same_and_mlflow_has_the_picture(short, tmp_path):
    command = [sys.executable, "-m", "orchestrator", "run", "stage=classify", *SHORT]
    done = subprocess.run(
        [*command, "resources=cpu2", "engine=zero2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = (tmp_path / "outputs" / "latest").resolve()
    assert metric(run) == pytest.approx(metric(short), rel=1e-4)
    with sqlite3.connect(tmp_path / "outputs" / "mlflow.db") as store:
        (artifacts,) = store.execute("select artifact_uri from runs").fetchone()
        logged = {key for (key,) in store.execute("select key from metrics")}
    files = {path.name for path in Path(artifacts.removeprefix("file://")).rglob("*")}
    assert {"confusion.png", "confusion.json", "accuracy.png"} <= files
    assert {"validation/accuracy", "validation/loss", "train/accuracy"} <= logged


@pytest.mark.drill  # test_job.py has torchrun; what the ranks of this stage tell is above
def test_torchrun_tells_the_same(short, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    ranks = [*torchrun, "--nproc-per-node", "2", "-m", "orchestrator", "run", "stage=classify"]
    done = subprocess.run(
        [*ranks, *SHORT, "resources=inline", "engine=zero3", "tracking=none"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = (tmp_path / "outputs" / "latest").resolve()
    assert metric(run) == pytest.approx(metric(short), rel=1e-4)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (None, ["stage.label=null"], "add stage.label=COLUMN, one of x, y, kind"),
        (None, ["stage.label=knd"], "has no column knd; did you mean kind?"),
        (None, ["model.inputs=3"], "have 2 features; try model.inputs=2"),
        (None, ["stage.features=[x]", "model.inputs=2"], "have 1 feature; try model.inputs=1"),
        (None, ["model.outputs=1"], "labels up to 1, but model.outputs=1"),
        (lambda row: [*row[:2], -row[2]], [], "column kind must hold a text or a whole number"),
        (lambda row: [*row[:2], row[2] / 2], [], "column kind must hold a text or a whole number"),
        (lambda row: [*row[:2], 1], [], "all 200 examples have the label 1"),
        (lambda row: [row[0] if row[2] else "", *row[1:]], [], "column x: a feature is missing"),
        (lambda row: [*row[:2], row[2] or ""], [], "column kind: a label is missing"),
        (None, ["stage.data=gone.csv"], "stage.data=gone.csv is no file"),
        (None, ["model=gpt_tiny"], "model.family=gpt does not read features"),
        (None, ["stage.validation_fraction=0"], "stage.validation_fraction=0.0 must lie between"),
    ],
)
def test_what_cannot_be_learned_is_refused_before_anything_starts(table, change, settings, message):
    request = table(*filter(None, [change]))
    if "model=gpt_tiny" in settings:  # without the settings of the perceptron
        request = tuple(word for word in request if not word.startswith("model."))
    assert message in refused(*request, *settings)


def test_another_model_seed_or_stage_cannot_go_on_from_a_checkpoint(
    short, tmp_path, monkeypatch, corpus
):
    monkeypatch.chdir(tmp_path)
    again = ("run", "stage=classify", *PLAIN, f"resume={short}", *SHORT, "stage.steps=20")
    assert "model.hidden=[9] must be [64]" in refused(*again, "model.hidden=[9]")
    assert "seed=1 must be 0" in refused(*again, "seed=1")
    assert "the same examples" in refused(*again, "stage.validation_fraction=0.3")
    text = ("data=text", f"data.path={corpus}", "tokenizer=bytes", f"resume={short}")
    other = ("stage=pretrain", "model=gpt_tiny", *PLAIN, *text)
    assert "other settings: stage.name=pretrain must be classify; leave" in refused("run", *other)


def test_text_is_no_work_for_a_model_without_tokens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "model.family=mlp is no language model" in refused("run", "model=mlp", *PLAIN)


def test_training_starts_from_the_weights_of_another_run(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, _ = digits
    tuned = (f"model.weights={run}", "stage.steps=2", "optim.warmup_steps=1")
    answer = typed("run", "stage=classify", *PLAIN, *tuned, "stage.evaluate_every=1")
    assert answer.code == 0, answer
    assert metric(newest(), "validation/accuracy")[1] > 0.9
    said = refused("run", "stage=classify", *PLAIN, *tuned, "model.hidden=[9]")
    assert "layers.0.weight is of shape (64, 64) there and of shape (9, 64) in the model" in said
