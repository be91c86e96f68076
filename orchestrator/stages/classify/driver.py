"""Classification in the process that starts the job."""

from orchestrator.stages.features.driving import FeaturesDriver
from orchestrator.stages.stage import Score, Shown

_driver = FeaturesDriver(
    training=(
        Shown("train/loss", "train loss {:.3f}"),
        Shown("train/accuracy", "train accuracy {:.1%}"),
    ),
    evaluation=(
        Shown("validation/accuracy", "validation accuracy {:.1%}"),
        Shown("validation/loss", "validation loss {:.3f}"),
    ),
    score=Score("validation/accuracy", lower_is_better=False),
    classes=True,
)
outline, estimate, prepare = _driver.outline, _driver.estimate, _driver.prepare
