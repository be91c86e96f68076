"""Averaged weights, against the sum that they are."""

import torch

from models.configs import MLPConfig
from orchestrator.config import EngineConfig, OptimConfig, RoleConfig
from orchestrator.training.averaging import MovingAverage
from orchestrator.training.roles import build_role
from orchestrator.training.state import WEIGHT


def test_a_moving_average_is_the_weighted_sum_of_all_weights_so_far():
    settings = EngineConfig(name="torch", precision="fp32")
    role = RoleConfig(MLPConfig(inputs=3, outputs=2, hidden=[4]), settings, OptimConfig())
    own = build_role("model", role, device=torch.device("cpu"), seed=0)
    average, seen = MovingAverage(own, 0.8), []
    for _ in range(5):
        seen.append({n: p.detach().clone() for n, p in own.engine.model.named_parameters()})
        own.engine.backward(own.engine.forward(torch.randn(6, 3)).square().sum())
        own.engine.step(0.1)
        average.update()
    seen.append(dict(own.engine.model.named_parameters()))
    for part in average.saved.state():
        weights = [each[part.name].detach().flatten() for each in seen]
        wanted = 0.8**5 * weights[0]
        wanted = wanted + 0.2 * sum(0.8 ** (5 - n) * weights[n] for n in range(1, 6))
        torch.testing.assert_close(part.tensors[WEIGHT], wanted)
