"""`model.weights`: from the weights of another run, without its optimizer or position."""

import json
from pathlib import Path

import pytest

from orchestrator.record import lines
from orchestrator.training import checkpoint
from tests.orchestrator.typed import on, refused, trained, typed

STILL = (
    "stage.steps=1",
    "optim.warmup_steps=0",
    "optim.learning_rate=1e-30",
    "optim.weight_decay=0",
)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def exported(corpus, folder):
    checkpoint.export(checkpoint.find(trained(corpus)), folder)
    return folder


@pytest.mark.parametrize("origin", ["run", "checkpoint", "exported folder"])
def test_a_run_begins_with_the_weights_of_another_at_step_0(corpus, tmp_path, origin):
    run = trained(corpus)
    path = {
        "run": run,
        "checkpoint": run / "checkpoints" / "step_00000002",
        "exported folder": exported(corpus, tmp_path / "exported"),
    }[origin]
    answer = typed("run", *on(corpus), *STILL, f"model.weights={path}")
    assert answer.code == 0, answer
    result = json.loads(Path("outputs/latest/result.json").read_text())
    before = json.loads((run / "result.json").read_text())["metrics"]["validation/loss"]
    assert result["metrics"]["validation/loss"] == pytest.approx(before, rel=1e-5)
    assert result["steps"] == 1
    events, _ = lines.read(Path("outputs/latest/events.jsonl"))
    origins = [event for event in events if event["event"] == "weights"]
    assert [event["manifest_sha256"] for event in origins] == [checkpoint.find(run).manifest_sha256]
    assert not [event for event in events if event["event"] == "resumed"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("model.width=64",),
            "embedding.weight is of shape (257, 32) there and of shape (257, 64)",
        ),
        (("model.layers=2",), "blocks.1.attention_norm.weight is absent there"),
        (("model.heads=1",), "model.heads=1 must be 2"),
        (("tokenizer=bpe", "tokenizer.vocab_size=300"), "add tokenizer=file tokenizer.path="),
    ],
)
def test_weights_of_another_model_are_refused_by_the_first_difference(corpus, overrides, said):
    answer = refused("run", *on(corpus), f"model.weights={trained(corpus)}", *overrides)
    assert said in answer


def test_weights_that_are_not_there_are_refused(corpus):
    assert "nowhere does not exist" in refused("run", *on(corpus), "model.weights=nowhere")


def test_another_optimizer_is_refused_with_the_way_to_go_on(corpus):
    run = trained(corpus)
    said = refused("run", *on(corpus), "stage.steps=4", f"resume={run}", "optim=sgd")
    assert "can't go on from the state of adamw" in said
    assert f"model.weights={run}" in said
