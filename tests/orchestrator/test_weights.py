"""`model.weights`: from the weights of another run, without its optimizer or position."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from orchestrator.config import EngineConfig, OptimConfig
from orchestrator.record import lines
from orchestrator.training import checkpoint, engine
from orchestrator.training.checkpoint import SavedRole
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
@pytest.mark.parametrize("setting", ["model.weights", "roles.model.model.weights"])
def test_weights_of_another_model_are_refused_by_the_first_difference(
    corpus, overrides, said, setting
):
    answer = refused("run", *on(corpus), f"{setting}={trained(corpus)}", *overrides)
    assert said in answer


def test_one_model_of_a_checkpoint_with_several_is_taken_by_its_role(corpus, tmp_path):
    single = checkpoint.find(trained(corpus))
    roles = {}
    for name, seed in (("policy", 1), ("critic", 2)):
        model, device = single.model_config(), torch.device("cpu")
        built = engine.build(
            model, EngineConfig(name="torch"), OptimConfig(), device=device, seed=seed
        )
        roles[name] = SavedRole(built.state, model, None)
    both = checkpoint.save(tmp_path / "checkpoints", 3, roles, single.tokenizer, {})
    said = refused("run", *on(corpus), f"model.weights={both.path}")
    assert "policy" in said
    assert "critic" in said
    losses = []
    for role in ("policy", "critic"):
        words = (f"model.weights={both.path}", f"model.weights_role={role}")
        assert typed("run", *on(corpus), *STILL, *words).code == 0
        losses.append(json.loads(Path("outputs/latest/result.json").read_text())["metrics"])
    ours = typed(
        *("run", "stage=evaluate", f"checkpoint={both.path}", "stage.role=critic", "tracking=none"),
        *("data=text", f"data.path={corpus}", "data.sequence_length=32", "resources=inline"),
        *("resources.gpus_per_worker=0", "engine=torch", "engine.precision=fp32"),
    )
    assert ours.code == 0, ours
    scored = json.loads(Path("outputs/latest/result.json").read_text())["metrics"][
        "validation/loss"
    ]
    assert losses[1]["validation/loss"] == pytest.approx(scored, rel=1e-6)
    assert losses[0]["validation/loss"] != pytest.approx(scored, rel=1e-6)


def test_every_job_of_a_sweep_begins_where_the_first_one_does(corpus):
    """`outputs/latest` is the run of before the sweep, also for the second job."""
    assert typed("run", *on(corpus), "stage.steps=3").code == 0
    first = Path("outputs/latest").resolve()
    small = (*on(corpus), "stage.checkpoint_every=3", "seed=1")
    words = ("model.weights=outputs/latest", "-m", "optim.learning_rate=1e-3,1e-2")
    assert typed("run", *small, "stage.steps=3", *words).code == 0
    words = ("resume=outputs/latest", "-m", "stage.steps=5,7")
    assert typed("run", *on(corpus), *words).code == 0
    begun = {
        kind: [
            str((file.parent / event["path"]).resolve())
            for file in sorted(Path("outputs").glob("*/*/events.jsonl"))
            for event in lines.read(file)[0]
            if event["event"] == kind
        ]
        for kind in ("weights", "resumed")
    }
    assert begun["weights"] == [str(first / "checkpoints" / "step_00000003")] * 2
    assert len(set(begun["resumed"])) == 1 < len(begun["resumed"])


def test_a_run_goes_on_without_the_weights_that_it_began_with(corpus, tmp_path):
    begun_with = exported(corpus, tmp_path / "exported")
    words = (*on(corpus), f"model.weights={begun_with}", "optim.warmup_steps=0")
    assert typed("run", *words, "stage.steps=1").code == 0
    shutil.rmtree(begun_with)
    answer = typed("run", *words, "stage.steps=2", "resume=outputs/latest")
    assert answer.code == 0, answer
    events, _ = lines.read(Path("outputs/latest/events.jsonl"))
    assert [e["step"] for e in events if e["event"] == "resumed"] == [1]
    assert not [e for e in events if e["event"] == "weights"]


def test_settings_that_change_nothing_that_the_weights_compute_may_differ(corpus):
    words = (
        "model.dropout=0.2",
        "model.kv_heads=2",
        "model.max_positions=64",
    )
    answer = typed("plan", *on(corpus), f"model.weights={trained(corpus)}", *words)
    assert answer.code == 0, answer


def test_a_tokenizer_that_comes_out_the_same_is_the_same_and_another_is_refused(corpus, tmp_path):
    learned = [word for word in on(corpus) if word != "tokenizer=bytes"]
    learned.append("tokenizer.vocab_size=300")
    assert typed("run", *learned, "stage.steps=2").code == 0
    run = Path("outputs/latest").resolve()
    assert typed("plan", *learned, f"model.weights={run}").code == 0
    (tmp_path / "other").mkdir()
    for number in range(40):
        (tmp_path / "other" / f"{number}.txt").write_text(f"Another text, {number}. " * 9)
    elsewhere = [word for word in learned if not word.startswith("data.path=")]
    answer = typed("plan", "--with-data", *elsewhere, "data.path=other", f"model.weights={run}")
    assert answer.code == 2
    assert "add tokenizer=file tokenizer.path=" in answer.err


def test_weights_that_are_not_there_are_refused(corpus):
    assert "model.weights=nowhere does not exist" in refused(
        "run", *on(corpus), "model.weights=nowhere"
    )
    words = (f"model.weights={trained(corpus)}", "model.weights_role=critic")
    assert "critic" in refused("run", *on(corpus), *words)


def test_another_optimizer_is_refused_with_the_way_to_go_on(corpus):
    run = trained(corpus)
    said = refused("run", *on(corpus), "stage.steps=4", f"resume={run}", "optim=sgd")
    assert "can't go on from the state of adamw" in said
    assert f"model.weights={run}" in said
