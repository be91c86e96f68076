"""Regression in the process that starts the job."""

from orchestrator.stages.features.driving import FeaturesDriver
from orchestrator.stages.stage import Score, Shown

_driver = FeaturesDriver(
    training=(Shown("train/loss", "train loss {:.3g}"),),
    evaluation=(
        Shown("validation/rmse", "validation rmse {:.4g}"),
        Shown("validation/loss", "validation loss {:.3g}"),
    ),
    score=Score("validation/rmse"),
    classes=False,
)
outline, estimate, prepare = _driver.outline, _driver.estimate, _driver.prepare
