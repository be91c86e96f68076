"""Engines against a loop written by hand, against each other, and cut over ranks in any way."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import models
from orchestrator.config import OptimConfig
from orchestrator.training import checkpoint, distributed
from orchestrator.training.engine import build
from orchestrator.training.loop import every
from orchestrator.training.optim import learning_rate
from tests.orchestrator import tiny

ZERO = ("zero0", "zero1", "zero2", "zero3")


def losses_and_norms(jobs, steps=20):
    return {key: tiny.train(job, steps) for key, job in jobs.items()}


def by_hand(config, steps):
    """What the losses and norms must be: one process, whole batches, mean over valid tokens."""
    torch.manual_seed(config.seed)
    model, optim = models.build(config.model), config.optim
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    adamw = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": optim.weight_decay}, {"params": vectors}],
        betas=(optim.beta1, optim.beta2),
        eps=optim.epsilon,
        weight_decay=0.0,
        foreach=False,
    )
    losses, norms = [], []
    for step in range(1, steps + 1):
        batch = tiny.rows(np.arange(8 * (step - 1), 8 * step))
        tokens, mask = torch.from_numpy(batch.tokens), torch.from_numpy(batch.loss_mask)
        logits = model(tokens[:, :-1])[mask]
        loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:][mask])
        adamw.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
        if optim.gradient_clip is not None and norm > optim.gradient_clip:
            for parameter in model.parameters():
                parameter.grad *= optim.gradient_clip / norm
        for group in adamw.param_groups:
            group["lr"] = learning_rate(optim, step, 20)
        adamw.step()
        losses.append(loss.item())
        norms.append(norm)
    return losses, norms


@pytest.fixture(scope="module")
def expected():
    """Losses and norms by hand, for each gradient_clip."""
    return {clip: by_hand(tiny.job("torch", gradient_clip=clip), 20) for clip in (1.0, 0.2, None)}


@pytest.mark.parametrize("clip", [1.0, 0.2, None])
def test_every_engine_on_two_ranks_with_ragged_rows_trains_as_by_hand(two, expected, clip):
    jobs = {name: tiny.job(name, 2, gradient_clip=clip) for name in ZERO}
    losses, norms = expected[clip]
    for rank in two.run(losses_and_norms, jobs):
        for name in ZERO:
            assert rank[name][0] == pytest.approx(losses, rel=1e-4), name
            assert rank[name][1] == pytest.approx(norms, rel=1e-3), name


def test_l1_and_nesterov_are_the_same_on_two_ranks_under_any_zero_stage(two):
    optim = OptimConfig("sgd", nesterov=True, l1=0.01, warmup_steps=2)
    alone, _ = tiny.train(replace(tiny.job("torch"), optim=optim), 6)
    without, _ = tiny.train(replace(tiny.job("torch"), optim=replace(optim, l1=0.0)), 6)
    assert alone != pytest.approx(without, rel=1e-3)
    jobs = {name: replace(tiny.job(name, 2), optim=optim) for name in ZERO}
    for rank in two.run(losses_and_norms, jobs, 6):
        for name in ZERO:
            assert rank[name][0] == pytest.approx(alone, rel=1e-4), name


def test_the_three_clips_of_the_test_above_do_differ(expected):
    """Norms are on both sides of 1.0, so clipping where none was asked for would be seen."""
    assert min(expected[None][1]) < 1.0 < max(expected[None][1])
    for a, b in ((1.0, 0.2), (1.0, None), (0.2, None)):
        assert expected[a][0] != pytest.approx(expected[b][0], rel=1e-4)


def test_one_process_of_any_engine_trains_as_by_hand(one, expected):
    jobs = {name: tiny.job(name) for name in ("torch", *ZERO)}
    for losses, norms in one.run(losses_and_norms, jobs)[0].values():
        assert losses == pytest.approx(expected[1.0][0], rel=1e-4)
        assert norms == pytest.approx(expected[1.0][1], rel=1e-3)


def test_dropout_does_not_depend_on_how_a_step_is_cut_over_ranks_and_micro_batches(one, two):
    def cut(name, world_size, accumulation):
        return tiny.job(name, world_size, accumulation, dropout=0.2)

    whole = one.run(losses_and_norms, {"torch": cut("torch", 1, 1)})[0]["torch"]
    assert whole[0] != pytest.approx(one.run(losses_and_norms, {0: tiny.job("torch")})[0][0][0])
    alone = {name: cut(name, 1, cuts) for name, cuts in (("torch", 2), ("zero0", 4), ("zero3", 8))}
    shared = {name: cut(name, 2, cuts) for name, cuts in (("zero0", 1), ("zero2", 2), ("zero3", 4))}
    for rank in (*one.run(losses_and_norms, alone), *two.run(losses_and_norms, shared)):
        for name, (losses, norms) in rank.items():
            assert losses == pytest.approx(whole[0], rel=1e-4), name
            assert norms == pytest.approx(whole[1], rel=1e-3), name


def test_loss_and_gradient_norm_do_not_depend_on_how_a_step_is_cut(one, two, expected):
    for world, cuts in ((one, (1, 2, 8)), (two, (1, 2, 4))):
        jobs = {cut: tiny.job("zero1", world.world_size, cut) for cut in cuts}
        for losses, norms in world.run(losses_and_norms, jobs, 5)[0].values():
            assert losses == pytest.approx(expected[1.0][0][:5], rel=1e-5)
            assert norms == pytest.approx(expected[1.0][1][:5], rel=1e-4)


def test_bf16_of_every_stage_stays_close_to_fp32(two, expected):
    jobs = {name: tiny.job(name, 2, accumulation=2, precision="bf16") for name in ZERO}
    for name, (losses, norms) in two.run(losses_and_norms, jobs)[0].items():
        assert losses == pytest.approx(expected[1.0][0], rel=0.03), name
        assert norms == pytest.approx(expected[1.0][1], rel=0.3), name
        assert losses != pytest.approx(expected[1.0][0], rel=1e-6), name


def frozen_scores(names):
    """What a frozen linear model in bf16 says of features in fp32, under each engine."""
    scores = {}
    for name in names:
        settings = tiny.job(name, precision="bf16").engine
        frozen = build(lambda: nn.Linear(8, 3), settings, None, device=torch.device("cpu"), seed=1)
        scores[name] = frozen.forward(torch.arange(16.0).view(2, 8)).tolist()
    return scores


def test_a_frozen_model_in_bf16_takes_features_in_fp32(one):
    torch.manual_seed(1)
    features = torch.arange(16, dtype=torch.bfloat16).view(2, 8)
    expected = nn.Linear(8, 3).bfloat16()(features).tolist()
    for name, scores in one.run(frozen_scores, ("torch", "zero0", "zero3"))[0].items():
        assert scores == expected, name


def test_offloaded_optimizer_state_gives_the_same_losses(two, expected):
    jobs = {name: tiny.job(name, 2, offload_optimizer=True) for name in ("zero2", "zero3")}
    for losses, norms in two.run(losses_and_norms, jobs)[0].values():
        assert losses == pytest.approx(expected[1.0][0], rel=1e-4)
        assert norms == pytest.approx(expected[1.0][1], rel=1e-3)


def test_activation_checkpointing_changes_nothing_also_with_dropout(one):
    jobs = {
        (name, saving): tiny.job(name, dropout=0.2, activation_checkpointing=saving)
        for name in ("torch", "zero3")
        for saving in (False, True)
    }
    answer = one.run(losses_and_norms, jobs)[0]
    for name in ("torch", "zero3"):
        assert answer[name, True][0] == pytest.approx(answer[name, False][0], rel=1e-5)


def step_beyond_fp32(root, names):
    """A finite loss and gradient, and a step that makes weights infinite; what its save says."""
    answer = {}
    for name in names:
        config = tiny.job(name, distributed.world_size())
        trainer = tiny.build(config)
        role = checkpoint.SavedRole(trainer.state, config.model, "adamw")

        def save(step, role=role, name=name):
            checkpoint.save(root / name, step, {"model": role}, None, {})

        schedule = {"save_at": every(1), "learning_rate": lambda step: 3e38 if step > 1 else 1e-3}
        with pytest.raises((checkpoint.NonFiniteState, checkpoint.SaveFailed)) as caught:
            tiny.run(config, trainer, 2, save=save, schedule=schedule)
        answer[name] = str(caught.value)
    return answer


def test_a_step_that_makes_weights_infinite_leaves_the_checkpoint_before_it(one, two, tmp_path):
    for world, names in ((one, ("torch",)), (two, ("zero1", "zero3"))):
        for rank in world.run(step_beyond_fp32, tmp_path, names):
            for name in names:
                assert "non-finite" in rank[name]
                assert [path.name for path in (tmp_path / name).iterdir()] == ["step_00000001"]
