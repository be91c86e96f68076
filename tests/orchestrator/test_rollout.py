"""Rollouts: what a sampler sees, what the trainer sees of it, and who has which answers."""

import numpy as np
import pytest
import torch

from models.configs import GPTConfig
from orchestrator.config import EngineConfig, OptimConfig, RoleConfig
from orchestrator.stages.examples.ragged import joined
from orchestrator.stages.rollouts.prompts import Split
from orchestrator.training.roles import build_role
from orchestrator.training.rollout import sample, step_ids, token_logprobs


def role(positions="learned"):
    model = GPTConfig(
        vocab_size=31, max_positions=24, layers=2, width=32, heads=4, positions=positions,
        init_std=0.3,
    )  # fmt: skip
    engine = EngineConfig(name="torch", precision="fp32")
    config = RoleConfig(model, engine, OptimConfig())
    return build_role("model", config, device=torch.device("cpu"), seed=0)


PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_the_trainer_sees_the_log_probabilities_that_the_sampler_saw(positions, temperature):
    own = role(positions)
    settings = {"most_tokens": 8, "temperature": temperature, "end": 0, "micro": 4}
    found = sample(own, PROMPTS, [2, 1, 3], range(6), **settings)
    seen = token_logprobs(own.engine, found, temperature, 4)
    assert torch.allclose(seen, found.sampled, atol=1e-5)
    assert torch.equal(seen, token_logprobs(own.engine, found, temperature, 4))
    alone = sample(own, PROMPTS[:1], [1], [1], **settings)  # the second answer to the first prompt
    n = alone.mask.shape[1]
    assert torch.equal(alone.tokens[0], found.tokens[1, : n + 1])
    assert torch.allclose(
        token_logprobs(own.engine, alone, temperature, 1)[0], seen[1, :n], atol=1e-5
    )


def test_what_ends_an_answer_is_of_the_answer_and_what_fills_a_row_is_not():
    own = role()
    settings = {"most_tokens": 12, "temperature": 1.0, "end": 0, "micro": 4}
    found = sample(own, PROMPTS, [8, 8, 8], range(24), **settings)
    assert 0 < found.ended.sum() < 24
    for row in range(24):
        target = found.tokens[row, 1:][found.mask[row]]
        assert (target == 0).sum() == int(found.ended[row])
        assert not found.ended[row] or target[-1] == 0
        assert found.ended[row] or len(target) == 12
        prompt = PROMPTS[row // 8]
        assert found.tokens[row, : len(prompt)].tolist() == prompt
        assert not found.mask[row, : len(prompt) - 1].any()


def test_few_prompts_of_a_split_come_from_all_over_it():
    rows = [[n, n + 1] for n in range(10)]
    whole = Split(*joined(rows), [(str(n), "") for n in range(10)])
    some = whole.spread(4)
    assert [asked for asked, _ in some.texts] == ["0", "2", "5", "7"]
    own = some.batch(np.arange(4), np.arange(4), np.ones(4, dtype=np.bool_))
    assert own.tokens == [rows[0], rows[2], rows[5], rows[7]]
    assert whole.spread(10) is whole


def test_a_mini_batch_holds_the_same_answers_on_any_number_of_ranks():
    alone = step_ids(3, 24, 2, 3, 0, 1).reshape(2, -1)
    for world in (2, 4):
        ranks = [
            step_ids(3, 24, 2, 24 // 2 // world, rank, world).reshape(2, -1)
            for rank in range(world)
        ]
        for number in range(2):
            together = sorted(n for own in ranks for n in own[number])
            assert (
                together == sorted(alone[number]) == list(range(48 + 12 * number, 60 + 12 * number))
            )
