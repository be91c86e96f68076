"""Training on rows of numbers, on every rank: what classification and regression have in common.

B examples of a micro-batch, F features, O outputs.
"""

import torch
from numpy import float32
from numpy.typing import NDArray
from torch import Tensor

from models.cost import flops_per_sample
from orchestrator.config import JobConfig
from orchestrator.record.checkpoints import Checkpoint
from orchestrator.stages.examples.feeding import evaluation
from orchestrator.stages.examples.training import ExampleTraining
from orchestrator.stages.features.boundary import Boundary
from orchestrator.stages.features.driving import role_for
from orchestrator.stages.features.resuming import about, start_position
from orchestrator.stages.features.section import FeaturesConfig
from orchestrator.stages.features.splits import Batch, Inputs
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.loop import Metrics, Totals, Trained, evaluate, evaluating
from orchestrator.training.objectives import Objective


class FeatureTraining(ExampleTraining[Batch]):
    """A run on rows of numbers."""

    def __init__(self, config: JobConfig, inputs: Inputs, run: Run) -> None:
        """Open the examples, make the model, and go to where the run goes on.

        Raises:
            ValueError: the checkpoint belongs to another model or to other examples.
        """
        self.inputs, role = inputs, role_for(config, inputs)
        self.data = config.section(FeaturesConfig).data
        self.validation = inputs.open("validation", run.cache)
        self.boundary = Boundary.of(inputs, run.cache)
        self.examples, flops = inputs.open("train", run.cache), flops_per_sample(role.model)
        super().__init__(config, run, role, self.examples, inputs.fingerprint, about(inputs), flops)

    def measure(self) -> Metrics:
        """Measure the model on the validation split. Every rank calls it."""
        raise NotImplementedError

    def position_of(self, start: Checkpoint) -> int:
        """Where the run goes on. Raises ValueError for another model or other examples."""
        return start_position(start, self.config, self.role.model, self.inputs)

    def evaluate(self, step: int) -> Metrics:
        """Measure, and record that. Every rank calls it."""
        metrics = self.measure()
        self.record(step, metrics)
        return metrics

    def carry_out(self) -> Trained:
        """Train to the last step or until a stop; then the best model is back, if that is kept."""
        outcome = self.fit()
        if self.restore_best():
            self.measure()  # for what is shown of it; its metrics are on record
        return outcome

    def restore_best(self) -> bool:
        """Take back the weights of the best evaluation; whether they are others than these."""
        return self.checkpoints.restore_best(self.model)

    def over_validation(self, objective: Objective[Batch]) -> Totals:
        """The objective over the whole validation split. Every rank calls it."""
        ranks = distributed.rank(), distributed.world_size()
        shares = evaluation(self.validation, self.config.batch.micro, *ranks)
        return evaluate(self.model.engine, objective, shares, self.run.heart)

    def outputs(self, features: NDArray[float32]) -> Tensor:
        """What the model gives (n, O) for scaled features (n, F). Every rank calls it."""
        with evaluating(self.model.engine):
            found: Tensor = self.model.engine.forward(
                torch.from_numpy(features).to(self.run.device)
            )
        return found.float()


def counted_part(trainer: Engine, batch: Batch) -> tuple[Tensor, Tensor]:
    """Outputs (n, O) and what was to be told (n, ...) of the examples of a batch that count."""
    features, told, counted = (
        torch.from_numpy(array).to(trainer.device)
        for array in (batch.features, batch.labels, batch.counted)
    )
    return trainer.forward(features)[counted], told[counted]
