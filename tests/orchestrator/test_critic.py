"""What PPO adds to a policy: its critic, and the settings of both."""

import pytest
import torch

from orchestrator.stages.ppo.stage import PPOConfig
from orchestrator.stages.ppo.train import Valued, explained_variance
from orchestrator.training.rollout import Rollout


def test_a_critic_that_knows_all_explains_all_and_one_that_knows_the_mean_nothing():
    returns = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    nothing = torch.zeros(2, 3)
    rollout = Rollout(torch.zeros(2, 4, dtype=torch.int64), mask, nothing, mask[:, 0])
    for values, wanted in ((returns, 1.0), (torch.full((2, 3), 7 / 3), 0.0)):
        own = Valued(rollout, nothing[:, 0], nothing, nothing, nothing, values, returns)
        assert explained_variance(own) == pytest.approx(wanted)
    flat = Valued(rollout, nothing[:, 0], nothing, nothing, nothing, returns, nothing)
    assert explained_variance(flat) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.5}, "stage.gamma=1.5 must be from 0 to 1"),
        ({"value_clip": 0.0}, "stage.value_clip=0.0 must be greater than 0"),
        ({"kl_target": 6.0, "kl_coefficient": 0.0}, "stays 0 when multiplied"),
        ({"clip_low": 1.0}, "stage.clip_low=1.0 must be below 1"),
        ({"ema_decay": 1.0}, "stage.ema_decay=1.0 must lie between 0 and 1"),
        ({"ptx_coefficient": -1.0}, "at least 0 and finite; try stage.ptx_coefficient=0.5"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PPOConfig(**settings)
