"""A classification run, whatever carries the model out: what is measured, and what is shown.

B examples of a micro-batch, F features, C classes.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.configs import of_features
from orchestrator.record.comparing.tiles import PLANE
from orchestrator.stages.classify import confusion, mistakes
from orchestrator.stages.features.splits import Batch
from orchestrator.stages.features.training import FeatureTraining, counted_part
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.loop import Metrics
from orchestrator.training.objectives import Objective, Summed, classification


class Classification(FeatureTraining):
    """A classification run."""

    told: torch.Tensor | None = None
    """int64 (N, 2): label and predicted class of each validation example, as measured last."""

    def objective(self) -> Objective[Batch]:
        """The negative log-likelihood of each label."""
        return lambda trainer, batch: classification(*counted_part(trainer, batch))

    def measure(self) -> Metrics:
        """Loss, accuracy and confusion over the whole validation split. Every rank calls it."""
        told = torch.zeros(len(self.validation), 2, dtype=torch.int64, device=self.run.device)

        def noted_loss(trainer: Engine, batch: Batch) -> Summed:
            scores, labels = counted_part(trainer, batch)
            rows = torch.from_numpy(batch.sample_ids[batch.counted]).to(told.device)
            told[rows] = torch.stack([labels, scores.argmax(1)], 1)
            return classification(scores, labels)

        metrics = self.over_validation(noted_loss).metrics("validation")
        sums = distributed.sum_over_ranks(told.flatten().tolist(), self.run.device)
        self.told = torch.tensor(sums, dtype=torch.int64).reshape(-1, 2)
        return metrics

    def evaluate(self, step: int) -> Metrics:
        """Measure, and keep how the plane is divided now. Every rank calls it."""
        metrics = super().evaluate(step)
        if self.boundary is not None and self.run.pictures:
            self.boundary.keep(step, self.shares(self.boundary.features))
        return metrics

    def shares(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The probability (n, C) of each class for scaled features (n, F). Every rank calls it."""
        shares: NDArray[np.float32] = self.outputs(features).softmax(1).cpu().numpy()
        return shares

    @property
    def names(self) -> list[str]:
        """Of the classes; of one that no example has, its number."""
        known = self.inputs.classes or ()
        outputs = of_features(self.role.model).outputs or 0
        return [*known, *map(str, range(len(known), outputs))]

    @property
    def matrix(self) -> confusion.Matrix:
        """(C, C), of the last evaluation."""
        assert self.told is not None
        return confusion.matrix_of(self.told.numpy(), len(self.names))

    def show(self) -> None:
        """Put the pictures of the last measurement on record. Every rank calls it."""
        if self.told is None or not self.run.pictures:
            return
        told, shape = self.told.numpy(), self.inputs.shape
        self._picture("confusion.png", lambda path: confusion.save(self.matrix, self.names, path))
        if shape is not None and (told[:, 0] != told[:, 1]).any():
            own = self.validation, told, self.inputs.standard, shape, self.names
            self._picture("mistakes.png", lambda path: mistakes.draw(*own).savefig(path, dpi=120))
        if (boundary := self.boundary) is not None:
            for name in boundary.files:
                self._picture(name, boundary.save)
            shares = self.shares(boundary.features)
            self._picture(PLANE, lambda path: boundary.save_tile(shares, path))

    def _picture(self, name: str, save: Callable[[Path], None]) -> None:
        if distributed.rank() == 0:
            save(self.run.folder / name)
        self.run.event("artifact", path=name)
