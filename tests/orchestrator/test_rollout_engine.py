"""A rollout engine: what it is sent is what it writes with."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.placement import GangRefused, refuse_what_never_fits
from models.configs import GPTConfig
from orchestrator.compose import compose_one
from orchestrator.config import EngineConfig, OptimConfig, ResourcesConfig, RoleConfig
from orchestrator.plan.devices import placement_of
from orchestrator.plan.engines import engine_memory
from orchestrator.stages.rollouts.driving import work_of
from orchestrator.stages.rollouts.updating import importance
from orchestrator.stages.stage import RoleOutline
from orchestrator.training.engine import whole_weights
from orchestrator.training.roles import build_role
from orchestrator.training.rollout import sample
from orchestrator.training.rollout_engine import (
    Asked,
    EngineSettings,
    RolloutEngine,
    WeightsDiffer,
    gathered_weights,
    precision_of,
)

ROOT = Path(__file__).parents[2]
CONFIG = GPTConfig(vocab_size=31, max_positions=24, layers=2, width=32, heads=4, init_std=0.3)
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8]]


def policy(seed):
    """A policy in training."""
    role = RoleConfig(CONFIG, EngineConfig(name="torch", precision="fp32"), OptimConfig())
    return build_role("model", role, device=torch.device("cpu"), seed=seed)


def engine_for(role):
    return RolloutEngine(EngineSettings(CONFIG, precision_of(role.engine), "cpu"), 0)


def answers(engine):
    return engine.write(Asked(PROMPTS, [7, 8, 9], 12, 0.8, 3))[0]


def test_an_engine_writes_what_the_policy_writes_and_nothing_of_old_weights_is_left():
    first, second = policy(1), policy(2)
    engine = engine_for(first)
    engine.load(gathered_weights(first.engine))
    before = answers(engine)
    own = sample(
        first, PROMPTS, [1] * 3, [7, 8, 9], most_tokens=12, temperature=0.8, end=3, micro=3
    )
    assert [tokens for tokens, _ in before] == [
        row[mask].tolist() for row, mask in zip(own.tokens[:, 1:], own.mask, strict=True)
    ]
    engine.load(gathered_weights(second.engine))
    fresh = engine_for(second)
    fresh.load(gathered_weights(second.engine))
    assert answers(engine) == answers(fresh) != before


def test_weights_that_arrive_otherwise_than_they_were_sent_are_an_error_that_names_the_tensor():
    role = policy(1)
    engine, sent = engine_for(role), gathered_weights(role.engine)
    name = "blocks.1.ffn.up.weight"
    bent = sent.arrays[name].copy()
    bent[5] ^= 1
    with pytest.raises(WeightsDiffer, match=f"the weights of {name} are not those that were sent"):
        engine.load(replace(sent, arrays=sent.arrays | {name: bent}))
    missing = {own: array for own, array in sent.arrays.items() if own != name}
    with pytest.raises(WeightsDiffer, match=f"{name} is on one side only"):
        engine.load(replace(sent, arrays=missing))


def sharded(seed):
    """How many weights are whole at a time, and the digests of those that rank 0 sends."""
    role = RoleConfig(
        CONFIG, EngineConfig(name="deepspeed", zero_stage=3, precision="fp32"), OptimConfig()
    )
    built = build_role("model", role, device=torch.device("cpu"), seed=seed)
    parameters = list(built.engine.model.parameters())
    whole = [
        sum(p.numel() == p.ds_numel for p in parameters) for _ in whole_weights(built.engine.model)
    ]
    sent = gathered_weights(built.engine)
    return whole, None if sent is None else sent.digests


def test_under_zero_3_weights_are_sent_whole_and_one_tensor_is_whole_at_a_time(two):
    first, second = two.run(sharded, 1)
    expected = gathered_weights(policy(1).engine).digests
    assert first[1] == expected
    assert second[1] is None
    assert max(first[0]) == max(second[0]) == 1


def test_engines_take_room_beside_the_workers():
    placement = placement_of(ResourcesConfig(workers=2), [2], beside=1)
    assert [placement.room([{"CPU": cores}]) for cores in (0, 2, 3)] == [0, 1, 2]
    refuse_what_never_fits(placement, [{"CPU": 2}, {"CPU": 1}], "this machine")
    with pytest.raises(GangRefused, match=r"as much for 1 more .* set resources.workers=1"):
        refuse_what_never_fits(placement, [{"CPU": 2}], "this machine")


def test_importance_is_the_ratio_of_probabilities_and_is_truncated():
    ours, theirs = torch.tensor([[-1.0, -2.0, -0.5]]), torch.tensor([[-2.0, -1.0, -0.5]])
    found = importance(ours.requires_grad_(), theirs, 2.0)
    assert not found.requires_grad
    assert found.numpy() == pytest.approx(np.array([[2.0, np.exp(-1.0), 1.0]]))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_plan_knows_what_memory_an_engine_takes(precision):
    """Measured in a process of its own: weights, the same in reading order, cache, a pass."""
    sizes = {"vocab_size": 4096, "max_positions": 256, "layers": 6, "width": 192, "heads": 3}
    rows, prompt, answer = 128, 112, 16
    job = compose_one(
        [
            *("stage=grpo", "model.weights=RUN", *(f"model.{k}={v}" for k, v in sizes.items())),
            *(f"stage.global_batch_size={2 * rows}", f"stage.answer_tokens={answer}"),
            *("stage.engines=2", f"engine.precision={precision}", "resources=cpu1"),
        ]
    )
    role = RoleConfig(GPTConfig(**sizes), job.engine, job.optim)
    outlined = RoleOutline.of(role, work_of(job, "model"))
    planned = engine_memory(outlined, job, prompt + answer)
    assert planned.answers == rows
    asked = {"model": sizes, "precision": precision, "rows": rows}
    script = Path(__file__).with_name("engine_memory.py")
    asked |= {"prompt": prompt, "answer": answer}
    command = [sys.executable, str(script), json.dumps(asked)]
    found = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    # Holes that passes leave in the heap take up to 12% in fp32, another share each time.
    assert float(found.stdout) == pytest.approx(planned.most, rel=0.15), planned
