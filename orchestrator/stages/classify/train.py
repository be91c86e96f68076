"""Classification on every rank: train, evaluate, save, and show which class was taken for which."""

from models.configs import ByHandConfig
from orchestrator.config import JobConfig
from orchestrator.stages.classify import confusion
from orchestrator.stages.classify.by_hand import ByHand
from orchestrator.stages.classify.classification import Classification
from orchestrator.stages.features.splits import Inputs
from orchestrator.stages.result import Result
from orchestrator.stages.run import Run


def classify(config: JobConfig, inputs: Inputs, run: Run) -> Result:
    """Train, evaluate, save; every rank calls it."""
    by_hand = isinstance(config.role("model").model, ByHandConfig)
    training = (ByHand if by_hand else Classification)(config, inputs, run)
    outcome = training.carry_out()
    training.show()
    return Result(
        stopped=outcome.stopped,
        reason=training.checkpoints.reason(outcome),
        tables=()
        if training.told is None
        else (
            confusion.table(training.matrix, training.names),
            confusion.accuracy_table(training.matrix),
        ),
    )
