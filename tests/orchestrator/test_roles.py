"""Several models in one process train as each alone, and are saved and resumed together."""

import pytest
import torch

from orchestrator.config import OptimConfig, RoleConfig
from orchestrator.training import checkpoint, distributed
from orchestrator.training.roles import build_role
from tests.orchestrator import tiny

NAMES = ("policy", "critic", "reference")
STEPS, SAVED_AT = 4, 2


def configs(world_size):
    """Two trained models and a frozen one, of different sizes, stages and optimizers."""
    policy, critic, reference = (tiny.job(z, world_size) for z in ("zero1", "zero3", "zero3"))
    critic.model.layers, reference.model.width = 1, 48
    critic.optim = OptimConfig(name="lion", learning_rate=3e-3)
    return {
        "policy": RoleConfig(policy.model, policy.engine, policy.optim),
        "critic": RoleConfig(critic.model, critic.engine, critic.optim),
        "reference": RoleConfig(reference.model, reference.engine, None),
    }


def built(names, start=None):
    """Roles with seeds of their own; two micro-batches of 4 in each step, over all ranks."""
    ranks = distributed.world_size()
    return [
        build_role(
            name,
            configs(ranks)[name],
            device=torch.device("cpu"),
            seed=NAMES.index(name),
            micro_batch=4,
            accumulation_steps=2 // ranks,
            resumed=None if start is None else (checkpoint.open_role(start, name), start.step),
        )
        for name in names
    ]


def losses_of(roles, first=0, last=STEPS, after=lambda step: None):
    """Loss of each role in each step: all go forward, then all backward, then all step."""
    losses, ranks = {role.name: [] for role in roles}, distributed.world_size()
    for step in range(first, last):
        totals = dict.fromkeys(losses, 0.0)
        for batch in next(tiny.batches(tiny.job("zero1", ranks, 2 // ranks), 8 * step)):
            tokens, mask = torch.from_numpy(batch.tokens), torch.from_numpy(batch.loss_mask)
            rows, targets = tokens[:, :-1], tokens[:, 1:]
            summed = {
                role.name: role.engine.forward(rows, targets=targets, loss_mask=mask)
                for role in roles
            }
            for role in reversed(roles):
                loss = summed[role.name] / 68
                totals[role.name] += loss.item()
                if role.config.optim is not None:
                    role.engine.backward(loss)
        for role in roles:
            if role.config.optim is not None:
                role.engine.step(role.config.optim.peak)
        for name, total in totals.items():
            losses[name] += distributed.sum_over_ranks([total], torch.device("cpu"))
        after(step + 1)
    return losses


def alone_and_together(folder):
    alone = {}
    for name in NAMES:
        alone |= losses_of(built([name]))
    roles = built(NAMES)

    def save(step):
        if step == SAVED_AT:
            checkpoint.save(folder, step, {role.name: role.saved for role in roles}, None, {})

    return alone, losses_of(roles, after=save)


def go_on(folder):
    start, _ = checkpoint.newest_valid(folder)
    return losses_of(built(NAMES, start), SAVED_AT)


def test_two_trained_roles_and_a_frozen_one_in_one_process_learn_as_each_alone(one, two, tmp_path):
    answers = [
        *one.run(alone_and_together, tmp_path / "1"),
        *two.run(alone_and_together, tmp_path / "2"),
    ]
    first = answers[0][0]
    for alone, together in answers:
        for name in NAMES:
            assert together[name] == pytest.approx(alone[name], rel=1e-6), name
            assert together[name] == pytest.approx(first[name], rel=1e-4), name
    assert first["policy"][2] < first["policy"][0]  # steps 0 and 2 have equally many targets
    assert first["critic"][-1] != pytest.approx(first["policy"][-1], rel=1e-3)
    for folder in ("1", "2"):  # each world goes on from what either has saved
        for onwards in (*one.run(go_on, tmp_path / folder), *two.run(go_on, tmp_path / folder)):
            for name in NAMES:
                assert onwards[name] == pytest.approx(first[name][SAVED_AT:], rel=1e-4), name
