"""A batch that breaks the loss: saved, left out once if that is wanted, and replayed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import orchestrator.stages.pretrain.replay as replaying
import orchestrator.stages.pretrain.train as training
from data.files import cache_root
from orchestrator.compose import compose_one
from orchestrator.plan.planning import make_plan
from orchestrator.record import lines
from orchestrator.record.checkpoints.finding import newest_valid
from orchestrator.stages.language.objective import next_token
from orchestrator.stages.pretrain.replay import observe
from orchestrator.stages.run import Run
from orchestrator.training.bad_loss import LEAST, Losses, LossSpike, NonFiniteLoss
from tests.orchestrator import tiny
from tests.orchestrator.typed import on, refused, typed

STEPS, BAD, BATCH = 8, 6, 4
POISON = (BAD - 1) * BATCH + 2  # a sequence of the bad step


@pytest.fixture
def here(tmp_path, monkeypatch, corpus):
    """A folder of its own, and the words of a small job there."""
    monkeypatch.chdir(tmp_path)
    quick = ("stage.sample_tokens=0", "stage.evaluate_every=null", "stage.checkpoint_every=4")
    return [*on(corpus), f"stage.steps={STEPS}", *quick]


def poisoned(factor, *samples):
    """The objective, with a loss that is `factor` times as large for these sequences."""

    def objective(engine, batch):
        summed = next_token(engine, batch)
        hit = bool(np.isin(batch.sample_ids, samples).any()) and batch.loss_mask.any()
        return replace(summed, loss=summed.loss * factor) if hit else summed

    return objective


def events(folder, kind):
    return [line for line in lines.read(folder / "events.jsonl")[0] if line["event"] == kind]


def losses(folder):
    """Loss of each step; each step is on record once."""
    own, _ = lines.read(folder / "metrics.jsonl")
    steps = [line["step"] for line in own if "train/gradient_norm" in line["metrics"]]
    assert steps == sorted(set(steps))
    return {n["step"]: n["metrics"]["train/loss"] for n in own if "train/loss" in n["metrics"]}


def run(*words):
    answer = typed("run", *words)
    return answer, json.loads(Path("outputs/latest/result.json").read_text())


def test_a_bad_step_ends_the_run_and_its_documents_and_rows_are_kept_and_it_can_be_replayed(
    here, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "next_token", poisoned(float("nan"), POISON))
    answer, result = run(*here)
    assert answer.code == 1
    assert result["error"]["class"] == "numerical"
    folder = (tmp_path / "outputs" / "latest").resolve()
    [spike] = events(folder, "spike")
    described = json.loads((folder / spike["batch"]).read_text())
    assert (described["step"], described["left_out"]) == (BAD, False)
    explained = json.loads(typed("data", "explain", str(BAD), "--json", *here).out)
    assert described["samples"] == explained
    rows = np.load((folder / spike["batch"]).with_suffix(".npz"))
    assert rows["samples"].tolist() == [own["sample"] for own in explained]
    assert rows["tokens"].shape == (BATCH, 33)

    monkeypatch.setattr(replaying, "next_token", poisoned(float("nan"), POISON))
    answer, result = run(f"resume={folder}", f"stage.replay={BAD}")
    assert answer.code == 0, answer
    assert result["steps"] == BAD - 1
    assert f"step {BAD} has a loss of nan" in answer.out
    assert "no module with an output that is not finite" in answer.out
    assert (
        f"sequences whose loss is not finite: {[own['sample'] for own in explained]}" in answer.out
    )
    assert "tok" in answer.out
    assert sorted(losses(folder))[-1] == BAD - 1
    message = refused("run", f"resume={folder}", "stage.replay=4")
    assert "stage.replay=4 must be after the step of the checkpoint, 4" in message
    assert "add resources=inline" in refused(
        "run", *here, "resources=cpu2", "engine=zero1", "stage.replay=4"
    )


def test_a_bad_step_is_left_out_once_and_the_data_is_accounted_for(here, tmp_path, monkeypatch):
    clean = tmp_path / "clean"
    assert typed("run", *here, f"outputs={clean}").code == 0
    monkeypatch.setattr(training, "next_token", poisoned(float("nan"), POISON))
    answer, _ = run(*here, "stage.on_bad_loss=skip")
    assert answer.code == 0, answer
    folder = (tmp_path / "outputs" / "latest").resolve()
    [back] = events(folder, "rolled_back")
    assert (back["step"], back["from_step"], len(events(folder, "resumed"))) == (BAD, 4, 0)
    ours, theirs = losses(folder), losses((clean / "latest").resolve())
    assert {s: theirs[s] for s in range(1, BAD)} == {s: ours[s] for s in range(1, BAD)}
    assert sorted(ours) == [s for s in range(1, STEPS + 1) if s != BAD]
    assert ours[STEPS] != theirs[STEPS]
    newest, _ = newest_valid(folder / "checkpoints")
    assert newest.data.skipped.sequences == BATCH
    verified = typed("data", "verify", f"resume={folder}")
    assert verified.code == 0, verified


def train_on_this_rank(config, inputs, folder, cache, factor, samples):
    """The job with spoilt samples, on one of several ranks; returns what it recorded."""
    records = []
    run = Run(folder, torch.device("cpu"), records.append, lambda: False, cache)
    training.next_token = poisoned(factor, *samples)
    try:
        training.pretrain(config, inputs, run)
    finally:
        training.next_token = next_token
    return records


@pytest.mark.parametrize("engine", ["zero1", "zero2", "zero3"])
def test_ranks_go_back_together_if_one_has_a_nan_and_end_as_without_that_batch(
    engine, here, tmp_path, two
):
    ranks = ("resources=cpu2", "resources.cpus_per_worker=1", f"engine={engine}")
    config = compose_one([*here, *ranks, "engine.precision=fp32", "stage.on_bad_loss=skip"])
    inputs = make_plan(config, lambda line: None).ready.inputs

    def train(name, factor, samples):
        arguments = (config, inputs, tmp_path / name, cache_root(), factor, samples)
        records, others = two.run(train_on_this_rank, *arguments)
        assert others == []
        steps = [r["step"] for r in records if "train/gradient_norm" in r.get("metrics", ())]
        assert steps == list(range(1, STEPS + 1))
        end, _ = newest_valid(tmp_path / name / "checkpoints")
        return end, [r for r in records if r.get("event") in ("rolled_back", "spike")]

    skipped, [back] = train("skipped", float("nan"), [POISON])
    assert (back["event"], back["step"], back["from_step"]) == ("rolled_back", BAD, 4)
    described = json.loads((tmp_path / "skipped" / back["batch"]).read_text())
    step = range((BAD - 1) * BATCH, BAD * BATCH)
    assert [own["sample"] for own in described["samples"]] == list(step)
    assert skipped.data.skipped.sequences == BATCH
    # A step whose loss is 0 times what it was has no gradient, either.
    without, nothing = train("without", 0.0, step)
    assert nothing == []
    assert {n: f.sha256 for n, f in skipped.files.items()} == {
        n: f.sha256 for n, f in without.files.items()
    }


def test_a_second_bad_step_before_the_next_checkpoint_ends_the_run(here, monkeypatch):
    monkeypatch.setattr(training, "next_token", poisoned(float("nan"), POISON, BAD * BATCH))
    answer, result = run(*here, "stage.on_bad_loss=skip")
    assert (answer.code, result["error"]["class"]) == (1, "numerical")
    assert f"step {BAD + 1} is not finite" in result["error"]["message"]
    folder = Path("outputs/latest").resolve()
    assert [own["step"] for own in events(folder, "rolled_back")] == [BAD]
    assert [own["step"] for own in events(folder, "spike")] == [BAD + 1]


def test_a_spike_is_told_by_the_spread_of_the_losses_before_it():
    rng = np.random.default_rng(3)
    usual = [3 + 0.1 * float(own) for own in rng.normal(size=100)]
    watched = Losses(6.0)
    for step, loss in enumerate(usual, 1):
        watched.check(step, loss, [], [])
    watched.check(101, 3.4, [], [])
    with pytest.raises(LossSpike, match=r"the loss of step 102 is 4, .* above 3") as caught:
        watched.check(102, 4.0, [], [])
    assert caught.value.step == 102
    early = Losses(6.0)
    for step in range(1, LEAST + 1):
        early.check(step, 2.0**step, [], [])
    with pytest.raises(NonFiniteLoss):
        Losses(None).check(1, float("inf"), [], [])


def observed(name, spoil):
    config = tiny.job(name, 1, accumulation=2)
    engine, batches = tiny.build(config), next(tiny.batches(config))
    assert len(batches) > 1
    if spoil is not None:
        with torch.no_grad():
            dict(engine.model.named_parameters())[spoil].view(-1)[0] = float("nan")
    return engine, batches, observe(engine, batches, config.seed), config


def test_gradient_norms_of_a_replay_are_those_of_plain_autograd():
    engine, batches, seen, _ = observed("torch", None)
    weight = sum(batch.weight for batch in batches)
    engine.model.zero_grad()
    total = 0.0
    for batch in batches:
        tokens = torch.from_numpy(batch.tokens)
        each = engine.model(tokens[:, :-1], targets=tokens[:, 1:])
        loss = (each * torch.from_numpy(batch.loss_mask)).sum() / weight
        loss.backward()
        total += loss.item()
    assert seen.loss == pytest.approx(total, rel=1e-6)
    for name, parameter in engine.model.named_parameters():
        norm = float(parameter.grad.double().square().sum())
        assert seen.squares[name] == pytest.approx(norm, rel=1e-4, abs=1e-15), name
    assert seen.first_bad_output is seen.first_bad_gradient is None
    assert seen.bad_samples == []


def seen_by(name):
    _, _, seen, _ = observed(name, None)
    return seen.loss, seen.squares, seen.notices(1)


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3"])
def test_a_replay_under_any_zero_stage_sees_what_one_without_sees(name, one):
    [(loss, squares, told)] = one.run(seen_by, name)
    expected, norms, said = seen_by("torch")
    assert loss == pytest.approx(expected, rel=1e-6)
    assert squares == pytest.approx(norms, rel=1e-4, abs=1e-15)
    assert told[1:] == said[1:]


def test_the_first_module_whose_output_is_not_finite_is_named():
    names = [name for name, _ in observed("torch", None)[0].model.named_parameters()]
    spoilt = next(name for name in names if "blocks.1" in name and name.endswith("weight"))
    _, batches, seen, _ = observed("torch", spoilt)
    assert seen.first_bad_output == spoilt.rpartition(".")[0]
    assert seen.first_bad_gradient is not None
    assert seen.bad_samples == [int(i) for own in batches for i in own.sample_ids]
