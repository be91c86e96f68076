"""Losses against those of TRL's own trainers, on tables of logits in float64.

TRL needs an environment of its own, which has this project's packages, too:

    pip install --no-deps trl==1.12.0 accelerate
    ORCHESTRATE_TRL_PYTHON=PYTHON python -m pytest -n 0 tests/orchestrator/test_trl.py
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from orchestrator.training.kl import kl_estimate
from orchestrator.training.policy_loss import policy_loss, step_weight, token_weights
from orchestrator.training.preferences import answer_logprobs, dpo, ipo, kto, orpo, simpo
from orchestrator.training.rankings import bradley_terry, centring

PYTHON = os.environ.get("ORCHESTRATE_TRL_PYTHON")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="ORCHESTRATE_TRL_PYTHON names no Python")

V, B, T, BETA, GAP, KL, CENTRING = 7, 4, 6, 0.3, 0.8, 0.05, 0.02
LOW, HIGH = 0.2, 0.28
GRPO = {  # loss, aggregation; TRL's type, level and bounds
    "grpo": ("clip", "sequence", "grpo", "token", LOW, HIGH),
    "dapo": ("clip", "token", "dapo", "token", LOW, HIGH),
    "dr_grpo": ("clip", "constant", "dr_grpo", "token", LOW, HIGH),
    "gspo": ("gspo", "sequence", "grpo", "sequence", LOW, HIGH),
    "cispo": (
        "cispo",
        "token",
        "cispo",
        "token",
        0.0,
        1 + HIGH,
    ),  # which bounds no ratio from below
}


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


POLICY, REFERENCE, OLD = drawn(0, V, V), drawn(1, V, V), drawn(0, V, V) + 0.6 * drawn(2, V, V)
ROWS = torch.randint(V, (2 * B, T), generator=torch.Generator().manual_seed(3))
MASK = torch.zeros(2 * B, T - 1, dtype=torch.bool)  # of targets; answers of 1 to 4 tokens
for row in range(2 * B):
    MASK[row, 1 : 2 + row % 4] = True


def logprobs(table, rows=ROWS):
    """Of each target, (rows, T - 1)."""
    own = table[rows[:, :-1]].log_softmax(-1)
    return own.gather(-1, rows[:, 1:, None])[..., 0]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """TRL's losses by name."""
    out = tmp_path_factory.mktemp("trl") / "losses.json"
    asked = {
        "out": str(out), "policy": POLICY.tolist(), "reference": REFERENCE.tolist(),
        "rows": ROWS.tolist(), "beta": BETA, "gap": GAP, "centring": CENTRING, "longest": T - 1,
        "mask": torch.nn.functional.pad(MASK, (1, 0)).int().tolist(),
        "logprobs": (-drawn(4, B, 2).abs()).tolist(), "rewards": drawn(5, B, 2).tolist(),
        "margins": drawn(6, B).abs().tolist(), "kl_coefficient": KL,
        "answers": ROWS.tolist(), "answer_mask": MASK.int().tolist(),
        "advantages": drawn(7, 2 * B).tolist(), "old": logprobs(OLD).tolist(),
        "reference_logprobs": logprobs(REFERENCE).tolist(),
        "grpo": [[name, *own[2:]] for name, own in GRPO.items()],
    }  # fmt: skip
    quiet = {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("trl_losses.py")
    subprocess.run(
        [PYTHON, script], input=json.dumps(asked), text=True, check=True, env=os.environ | quiet
    )
    return json.loads(out.read_text())


def gains():
    """Of each answer, (B, 2): chosen and rejected; and their tokens."""
    own = logprobs(POLICY) - logprobs(REFERENCE)
    summed = answer_logprobs(-own, MASK)
    return summed.view(2, B).T, MASK.sum(1).view(2, B).T


def test_losses_of_preferences_are_those_of_trl(theirs):
    own, lengths = gains()
    margin = own[:, 0] - own[:, 1]
    assert dpo(margin, BETA).mean().item() == pytest.approx(theirs["dpo"], rel=1e-12)
    per_token = own / lengths
    found = ipo(per_token[:, 0] - per_token[:, 1], BETA).mean()
    assert found.item() == pytest.approx(theirs["ipo"], rel=1e-12)
    table = logprobs(POLICY, ROWS.roll(1, 0)) - logprobs(REFERENCE, ROWS.roll(1, 0))
    distance = answer_logprobs(-table, MASK.roll(1, 0)).mean().clamp(min=0)
    assert kto(own, distance, BETA).mean().item() == pytest.approx(theirs["kto"], rel=1e-12)
    single = -drawn(4, B, 2).abs()
    ones = torch.ones(B, 2)
    assert simpo(single, ones, BETA, GAP).tolist() == pytest.approx(theirs["simpo"], rel=1e-6)
    odds = -(orpo(single, ones, BETA) + single[:, 0])  # without the loss of the chosen answer
    assert odds.tolist() == pytest.approx(theirs["orpo"], rel=1e-5), "which they have in float32"


def test_the_loss_of_a_reward_model_is_that_of_trl(theirs):
    rewards, there = drawn(5, B, 2), torch.ones(B, 2, dtype=torch.bool)
    losses = bradley_terry(rewards, there, drawn(6, B).abs())
    found = losses + CENTRING * centring(rewards, there)
    assert found.mean().item() == pytest.approx(theirs["reward"], rel=1e-12)


@pytest.mark.parametrize("name", GRPO)
def test_losses_of_policies_are_those_of_trl(name, theirs):
    how, aggregation = GRPO[name][:2]
    now, old, reference = (logprobs(table) for table in (POLICY, OLD, REFERENCE))
    low = 1.0 if how == "cispo" else LOW
    advantages = drawn(7, 2 * B)[:, None].expand(MASK.shape)
    losses, clipped = policy_loss(now, old, advantages, MASK, how=how, low=low, high=HIGH)
    assert 0 < clipped.sum() < MASK.sum()
    losses = losses + KL * kl_estimate(now, reference, "k3")
    weights = token_weights(MASK, aggregation, T - 1)
    found = (losses * weights).sum() / step_weight(MASK, aggregation)
    assert found.item() == pytest.approx(theirs[name], rel=1e-6)
