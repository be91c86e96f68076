"""What answers are worth by a model."""

import torch

from models.configs import GPTConfig
from orchestrator.config import EngineConfig, RoleConfig
from orchestrator.stages.rollouts.judging import by_model
from orchestrator.training.roles import build_role
from orchestrator.training.rollout import Rollout

END = 0
ROWS = (([1, 2, 3], [4, END]), ([5], [6, 7, END]), ([8, END, 9], [2, 3]))
"""Prompts, one with an end token inside, and answers, the last of them cut off."""


def rollout(rows, more=0):
    """Answers with `more` tokens of filling behind the longest row."""
    width = max(len(prompt) + len(answer) for prompt, answer in rows) + more
    tokens = torch.full((len(rows), width), END)
    mask = torch.zeros(len(rows), width - 1, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(rows):
        whole = torch.tensor(prompt + answer)
        tokens[row, : len(whole)] = whole
        mask[row, len(prompt) - 1 : len(whole) - 1] = True
    ended = torch.tensor([answer[-1] == END for _, answer in rows])
    return Rollout(tokens, mask, torch.zeros(mask.shape), ended)


def test_a_learned_reward_is_read_at_the_last_token_of_an_answer_whatever_fills_the_row():
    model = GPTConfig(
        vocab_size=31, max_positions=24, layers=2, width=32, heads=4, init_std=0.3, value_head=True
    )
    frozen = RoleConfig(model, EngineConfig(name="torch", precision="fp32"), None)
    role = build_role("reward", frozen, device=torch.device("cpu"), seed=0)
    torch.nn.init.normal_(role.engine.model.value.weight)
    together = by_model(role, rollout(ROWS), micro=3)
    alone = torch.cat([by_model(role, rollout([row]), micro=1) for row in ROWS])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together, by_model(role, rollout(ROWS, more=5), micro=2), atol=1e-5)
    for reward, (prompt, answer) in zip(alone, ROWS, strict=True):
        with torch.no_grad():
            values = role.engine.forward(torch.tensor([prompt + answer]))
        assert torch.allclose(reward, values[0, -1], atol=1e-5)
