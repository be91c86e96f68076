"""`orchestrate prune`, and training what it has left."""

from dataclasses import replace

import pytest
import torch

from models import pruning
from orchestrator.training import checkpoint
from orchestrator.training.state import WEIGHT
from tests.orchestrator import tiny
from tests.orchestrator.gathered import Memory, gathered
from tests.orchestrator.typed import refused, typed
from tests.orchestrator.typed import trained as trained_run


def sparse(engine, world_size=1):
    plain = tiny.job(engine, world_size)
    return replace(plain, model=replace(plain.model, sparse=True))


def trained(jobs, steps=3):
    """Of each job, begun with half of its weights at zero, the losses, and the state behind."""
    found = {}
    for name, own in jobs.items():
        engine, losses = tiny.build(own), []
        before = {n: t[WEIGHT].clone() for n, t in gathered(engine).tensors.items()}
        half, _ = pruning.by_magnitude(before, own.model, 0.5)
        engine.load_state(Memory({n: {WEIGHT: t} for n, t in half.items()}), 0, optimizer=False)
        tiny.run(own, engine, steps, log=lambda _, m, to=losses: to.append(m["train/loss"]))
        found[name] = losses, half, gathered(engine)
    return found


def test_zeros_stay_zeros_under_every_zero_stage_as_in_one_process(one, two):
    losses, half, after = one.run(trained, {"torch": sparse("torch")})[0]["torch"]
    jobs = {name: sparse(name, 2) for name in ("zero0", "zero1", "zero2", "zero3")}
    for found in [{"torch": (losses, half, after)}, *two.run(trained, jobs)]:
        for name, (own, begun, state) in found.items():
            assert own == pytest.approx(losses, rel=1e-4), name
            for tensor in pruning.names_of(sparse("torch").model):
                now, then = state.tensors[tensor][WEIGHT], begun[tensor]
                assert torch.equal(now.view_as(then) == 0, then == 0), (name, tensor)
                assert not torch.equal(now.view_as(then), then), (name, tensor)


def test_a_run_is_pruned_into_a_folder_that_jobs_start_from(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = str(trained_run(corpus))
    answer = typed("prune", run, "half", "--neurons", "64", "--sparsity", "0.5")
    assert answer.code == 0, answer
    found = checkpoint.open_weights(tmp_path / "half")
    assert found.model_config.ffn_width == 64
    tensors = {name: checkpoint.read_whole(found.reader, name) for name in found.reader.names()}
    zeros, whole = (
        sum(of(tensors[name]) for name in pruning.names_of(found.model_config))
        for of in (lambda own: int((own == 0).sum()), torch.numel)
    )
    assert zeros == pytest.approx(whole / 2, abs=2)
    _, _, said = answer.out.partition("train again: orchestrate run ")
    again = said[: said.index("how good:")].split()
    assert {"stage.steps=1", "optim.warmup_steps=0"} < set(again), "a third of its 2 steps, or one"
    job = (*again, "data=text", f"data.path={corpus}", "data.sequence_length=32")
    plan = typed("plan", *job)
    assert plan.code == 0, plan
    assert f"gpt, {sum(map(torch.numel, tensors.values())):,} parameters" in plan.out
    assert "optim.name=muon" in refused("run", *job, "optim=muon")
    for wrong, message in (
        (["--sparsity", "2"], "must lie between 0 and 1; try --sparsity 0.5"),
        (["--neurons", "1000"], "below the"),
        (["--pattern", "4:2"], "try --pattern 2:4"),
        ([], "nothing is to be pruned"),
    ):
        assert message in refused("prune", run, "none", *wrong)
