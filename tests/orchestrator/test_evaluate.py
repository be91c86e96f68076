"""The stage `evaluate`: against the run's own figures, a slow loop, and closed forms."""

import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cluster.heart import Heart
from data import DataConfig, TokenizerConfig, prepare
from orchestrator.record import lines
from orchestrator.stages.evaluate.measure import Score, score_documents, together
from orchestrator.training import checkpoint, distributed, engine
from tests.orchestrator import tiny
from tests.orchestrator.typed import on, refused, trained, typed

ROOT = Path(__file__).parents[2]
EVALUATE = (
    *("stage=evaluate", "data=text", "data.sequence_length=32", "resources=inline"),
    *("resources.gpus_per_worker=0", "engine=torch", "engine.precision=fp32", "tracking=none"),
)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def evaluated(*overrides):
    answer = typed("run", *EVALUATE, *overrides)
    assert answer.code == 0, answer
    return answer, json.loads(Path("outputs/latest/result.json").read_text())


def test_a_checkpoint_scores_what_its_own_run_said_of_it(corpus):
    run = trained(corpus)
    answer, result = evaluated(f"checkpoint={run}", f"data.path={corpus}")
    own = json.loads((run / "result.json").read_text())["metrics"]
    for name in ("validation/loss", "validation/perplexity", "validation/bits_per_byte"):
        assert result["metrics"][name] == pytest.approx(own[name], rel=1e-6)
    low, high = (result["metrics"][f"validation/bits_per_byte_{end}"] for end in ("low", "high"))
    assert low < own["validation/bits_per_byte"] < high
    assert (result["status"], result["steps"], result["tokens"]) == ("done", 0, None)
    kept = yaml.safe_load(Path("outputs/latest/config.yaml").read_text())
    assert "checkpoint" in kept
    assert not {"model", "optim", "tokenizer", "resume"} & kept.keys(), "it has read none of them"
    assert "95%" in answer.out
    assert "step 0" not in answer.out
    events, _ = lines.read(Path("outputs/latest/events.jsonl"))
    told = next(event for event in events if event["event"] == "evaluated")
    assert told["manifest_sha256"] == checkpoint.find(run).manifest_sha256
    assert told["step"] == 2


def test_a_gang_of_ray_workers_in_shards_scores_the_same(corpus, tmp_path):
    run = trained(corpus)
    words = [word for word in EVALUATE if word not in ("resources=inline", "engine=torch")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "orchestrator", "run", *words, f"checkpoint={run}"),
            *(f"data.path={corpus}", "resources=cpu2", "engine=zero3"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "outputs" / "latest" / "result.json").read_text())
    own = json.loads((run / "result.json").read_text())["metrics"]
    for name in ("validation/loss", "validation/perplexity", "validation/bits_per_byte"):
        assert found["metrics"][name] == pytest.approx(own[name], rel=1e-5)


def test_other_data_is_read_with_the_checkpoints_own_tokenizer(corpus, tmp_path):
    (tmp_path / "other").mkdir()
    for number in range(40):
        (tmp_path / "other" / f"{number}.txt").write_text(
            f"Document {number} of something else. " * 3
        )
    answer, result = evaluated(
        *(f"checkpoint={trained(corpus)}", "data.path=other", "stage.split=train"),
        "stage.confidence=0.999",
    )
    assert "99.9%" in answer.out
    assert set(result["metrics"]) == {
        f"train/{name}"
        for name in (
            *("loss", "perplexity", "bits_per_byte"),
            *("bits_per_byte_low", "bits_per_byte_high"),
        )
    }


def test_a_mixture_is_scored_by_dataset_and_all_together(corpus, tmp_path):
    (tmp_path / "other").mkdir()
    for number in range(60):
        (tmp_path / "other" / f"{number}.txt").write_text(f"Number {number} is here. " * 5)
    datasets = f"{{a: {{source: text, path: {corpus}}}, b: {{source: text, path: other}}}}"
    answer = typed(
        *("run", *EVALUATE[:1], "data=mixture", *EVALUATE[2:]),
        *(f"checkpoint={trained(corpus)}", f"data.datasets={datasets}"),
    )
    assert answer.code == 0, answer
    metrics = json.loads(Path("outputs/latest/result.json").read_text())["metrics"]
    a, b, both = (metrics[f"validation/{name}bits_per_byte"] for name in ("a/", "b/", ""))
    assert min(a, b) < both < max(a, b)
    for words in ("a ", "b ", "all "):
        assert words in answer.out


def test_the_scores_stand_on_the_checkpoints_own_model_in_mlflow(corpus, tmp_path):
    tracked = ("tracking=mlflow", "tracking.system_metrics=false")
    words = [word for word in on(corpus) if word != "tracking=none"]
    assert typed("run", *words, *tracked, "stage.steps=2", "outputs=outputs").code == 0
    trained_run = Path("outputs/latest").resolve()
    _, result = evaluated(f"checkpoint={trained_run}", f"data.path={corpus}", *tracked)
    with sqlite3.connect("outputs/mlflow.db") as store:
        models = store.execute("select model_id, name from logged_models").fetchall()
        rows = store.execute(
            "select model_id, metric_name, metric_value, dataset_name from logged_model_metrics "
            "where run_id = ?",
            [result["mlflow_run_id"]],
        ).fetchall()
        points = store.execute(
            "select key, count(*) from metrics where run_uuid = ? group by key",
            [result["mlflow_run_id"]],
        ).fetchall()
        inputs = store.execute(
            "select destination_id from inputs where source_id = ? and source_type = 'RUN_INPUT'",
            [result["mlflow_run_id"]],
        ).fetchall()
    assert len(models) == 1
    assert {row[0] for row in rows} == {models[0][0]}
    scores = {name: value for _, name, value, _ in rows}
    assert scores == pytest.approx(result["metrics"])
    assert {row[3] for row in rows} == {f"{corpus.name}/validation"}
    assert inputs == [(models[0][0],)]
    assert {count for _, count in points} == {1}, "the run has each score once"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), "stage=evaluate needs checkpoint=RUN_FOLDER"),
        (("checkpoint=nowhere",), "nowhere does not exist"),
        (("checkpoint=.",), "holds no valid checkpoint"),
        (("checkpoint={run}", "stage.role=critic"), "critic"),
        (("checkpoint={run}", "data.sequence_length=64"), "try data.sequence_length=32"),
        (("checkpoint={run}", "stage.split=test"), "stage.split=test is not one of"),
        (("checkpoint={run}", "stage.confidence=1"), "stage.confidence=1"),
        (("checkpoint={run}", "optim.learning_rate=1"), "stage=evaluate does not read it"),
        (("checkpoint={run}", "tokenizer=bytes"), "stage=evaluate does not read it"),
        (("checkpoint={run}", "resume={run}"), "stage=evaluate does not read it"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(corpus, overrides, said):
    words = (word.format(run=trained(corpus)) for word in overrides)
    assert said in refused("run", *EVALUATE, f"data.path={corpus}", *words)


def test_a_damaged_checkpoint_is_refused(corpus, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained(corpus), copy)
    weights = next((copy / "checkpoints" / "step_00000002").rglob("weights-0.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "is damaged" in refused("run", *EVALUATE, f"data.path={corpus}", f"checkpoint={copy}")


def nats_of_documents(corpus, run):
    """`score_documents` on this world, of the validation split of the corpus."""
    config = tiny.job("zero3", distributed.world_size())
    prepared = prepare(DataConfig(source="text", path=str(corpus)), TokenizerConfig(kind="bytes"))
    config.data.sequence_length, config.stage.micro_batch_size = 32, 3
    weights = checkpoint.open_weights(run)
    model = engine.build(
        weights.model_config,
        config.engine,
        None,
        device=torch.device("cpu"),
        reader=weights.reader,
    )
    return score_documents(model, prepared.validation, config, Heart())


def test_every_token_is_credited_to_its_document_on_one_rank_and_on_two(one, two, corpus):
    run = trained(corpus)
    alone = one.run(nats_of_documents, corpus, run)[0]
    prepared = prepare(DataConfig(source="text", path=str(corpus)), TokenizerConfig(kind="bytes"))
    shards, model = prepared.validation, checkpoint.load_writer(checkpoint.find(run)).eval()
    stream = [shards.manifest.end_of_text, *shards.read(0, shards.tokens).tolist()]
    slow = np.zeros(shards.documents)
    for start in range(0, shards.tokens, 32):
        row = torch.tensor([stream[start : start + 33]])
        with torch.no_grad():
            logprobs = model(row[:, :-1]).log_softmax(-1)[0]
        for place, target in enumerate(row[0, 1:].tolist()):
            document = int(np.searchsorted(shards.offsets, start + place, side="right")) - 1
            slow[document] -= float(logprobs[place, target])
    assert alone.nats == pytest.approx(slow, rel=1e-5)
    assert alone.tokens.sum() == shards.tokens
    assert alone.bytes.sum() == shards.manifest.bytes
    for rank in two.run(nats_of_documents, corpus, run):
        assert rank.nats == pytest.approx(alone.nats, rel=1e-5)


def score(documents, spread, seed=0):
    draw = np.random.default_rng(seed)
    size = draw.integers(50, 150, documents).astype(float)
    return Score(size * (1 + spread * draw.standard_normal(documents)), size, size)


def test_an_interval_is_that_of_the_ratio_of_two_sums():
    own = score(4000, 0.3)
    low, high = own.interval(2000, 0.95, seed=1)
    ratio = own.nats.sum() / own.bytes.sum()
    # Delta method (Cochran 1977, section 6.3): the variance of a ratio of two means.
    rest = own.nats - ratio * own.bytes
    error = rest.std() / math.sqrt(len(rest)) / own.bytes.mean()
    assert (high - low) / 2 * math.log(2) == pytest.approx(1.96 * error, rel=0.1)
    assert (high + low) / 2 * math.log(2) == pytest.approx(ratio, abs=0.2 * error)
    assert own.interval(2000, 0.95, seed=1) == (low, high)


def test_documents_that_are_all_alike_leave_no_doubt():
    low, high = score(100, 0.0).interval(200, 0.95, seed=0)
    assert low == pytest.approx(high)
    alone = score(1, 0.3)
    assert alone.interval(200, 0.95, seed=0) == (alone.metrics()["bits_per_byte"],) * 2


def test_more_documents_narrow_an_interval():
    widths = [np.diff(score(n, 0.3).interval(500, 0.95, seed=0))[0] for n in (100, 10_000)]
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.5)


def test_scores_of_datasets_add_up():
    a, b = score(10, 0.1, seed=1), score(20, 0.1, seed=2)
    both = together([a, b])
    bits = [own.metrics()["bits_per_byte"] for own in (a, b, both)]
    weights = [own.bytes.sum() for own in (a, b)]
    assert bits[2] == pytest.approx(np.average(bits[:2], weights=weights))
