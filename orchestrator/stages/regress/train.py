"""Regression on every rank: train, measure, save, and compare with the best linear model.

N examples, F features.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.configs import MLPConfig
from orchestrator.config import JobConfig
from orchestrator.record.figures import COLORS, GRID, MUTED
from orchestrator.stages.features.splits import Batch, Inputs, Split
from orchestrator.stages.features.training import FeatureTraining, counted_part
from orchestrator.stages.regress.kinks import formula, written_out
from orchestrator.stages.regress.linear import apply, least_squares
from orchestrator.stages.result import Result, Table
from orchestrator.stages.run import Run
from orchestrator.training import checkpoint, distributed
from orchestrator.training.loop import Metrics
from orchestrator.training.objectives import Objective, squared_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = NDArray[np.float64]
PICTURE = "regression.png"
MOST_SOLVED = 10_000  # training examples that the closed form is worked out from
MOST_DRAWN = 1_000
MAXIMUM_FLOOR = (1 / 6) ** 0.5
"""Of the larger of two numbers by layers that are linear. It is (x + y) / 2 + |x - y| / 2, whose
second part is orthogonal to x and y; with both uniform on [-1, 1], E (x - y)^2 / 4 = 1/6."""


def regress(config: JobConfig, inputs: Inputs, run: Run) -> Result:
    """Train, measure, save; every rank calls it."""
    training = Regression(config, inputs, run)
    outcome = training.carry_out()
    return Result(
        stopped=outcome.stopped,
        reason=training.checkpoints.reason(outcome),
        tables=() if outcome.stopped else training.compare(),
    )


class Regression(FeatureTraining):
    """A regression run. Losses are squared errors of scaled numbers, rmse is in their own unit."""

    def __init__(self, config: JobConfig, inputs: Inputs, run: Run) -> None:
        """As any run on rows of numbers."""
        self.losses: list[tuple[int, float]] = []  # step and training loss
        super().__init__(config, inputs, run)

    def objective(self) -> Objective[Batch]:
        """The squared error of each number."""
        return lambda trainer, batch: squared_error(*counted_part(trainer, batch))

    def log(self, step: int, metrics: Metrics) -> None:
        """Record, and keep the loss for the picture."""
        self.losses.append((step, metrics["train/loss"]))
        super().log(step, metrics)

    def measure(self) -> Metrics:
        """Squared error, and its root in the unit of what is told. Every rank calls it."""
        metrics = self.over_validation(self.objective()).metrics("validation")
        root = metrics["validation/loss"] ** 0.5
        return metrics | {"validation/rmse": root * self.inputs.standard.target_std}

    def compare(self) -> tuple[Table, ...]:
        """The model beside the best linear one, as tables and a picture. Every rank calls it."""
        bias = getattr(self.role.model, "bias", True)
        (x, told), (held_x, held_told) = map(_sample, (self.examples, self.validation))
        own, held_own = self._given(x), self._given(held_x)
        weights = least_squares(x, told, bias=bias)
        best, held_best = (apply(weights, part, bias=bias) for part in (x, held_x))
        without = "" if bias else ", without a bias"
        mean = float(told.mean()) if bias else 0.0
        rows = [
            self._row("this model", own - told, held_own - held_told),
            self._row(f"least squares{without}, closed form", best - told, held_best - held_told),
            self._row("the mean" if bias else "zero", mean - told, mean - held_told),
        ]
        if self.data == "maximum" and not bias:
            expected = f"{MAXIMUM_FLOOR:.4g}"
            rows.append(("any linear layers, mean over the square", expected, expected))
        columns = ("errors, root mean square", "training", "validation")
        tables = [Table("regression", columns, tuple(rows), bold=0)]
        if self.run.pictures and distributed.rank() == 0:
            floor = float(np.square(best - told).mean())
            self._draw(held_own, held_told, floor).savefig(self.run.folder / PICTURE, dpi=120)
        if self.run.pictures:
            self.run.event("artifact", path=PICTURE)
        return (*tables, *self._formula(), *self._weights(weights))

    def _row(self, name: str, errors: Numbers, held_errors: Numbers) -> tuple[str, ...]:
        unit = self.inputs.standard.target_std
        roots = (float(np.square(own).mean() ** 0.5) * unit for own in (errors, held_errors))
        return (name, *(f"{root:.4g}" for root in roots))

    def _given(self, features: Numbers) -> Numbers:
        """What the model tells (N,) of scaled features (N, F). Every rank calls it."""
        given: Numbers = self.outputs(features.astype(np.float32)).double().cpu().numpy()[:, 0]
        return given

    def _matrices(self) -> list[Numbers]:
        """The weights of each layer, as saved last."""
        saved = self.checkpoints.best or self.checkpoints.newest
        assert saved is not None  # training ends with one
        model = checkpoint.load_model(saved)
        return [p.detach().double().numpy() for p in model.parameters() if p.dim() == 2]

    def _weights(self, weights: Numbers) -> tuple[Table, ...]:
        """Of a linear model: its weights beside those of the closed form."""
        config = self.role.model
        if not isinstance(config, MLPConfig) or config.hidden or distributed.rank():
            return ()
        (own,) = self._matrices()
        names = self.inputs.standard.names
        rows = [
            (name, f"{mine:.4f}", f"{theirs:.4f}")
            for name, mine, theirs in zip(names, own[0], weights, strict=False)
        ]
        return (Table("weights", ("feature", "weight", "closed form"), tuple(rows)),)

    def _formula(self) -> tuple[Table, ...]:
        """Of one layer of ReLU units without biases: the function that it is, written out."""
        config, standard = self.role.model, self.inputs.standard
        scaled = any(standard.mean) or set(standard.std) != {1.0}
        if not isinstance(config, MLPConfig) or scaled or distributed.rank():
            return ()
        if config.bias or config.activation != "relu" or len(config.hidden) != 1:
            return ()
        hidden, outputs = self._matrices()
        written = formula(*written_out(hidden, outputs[0]), standard.names)
        rows = [("this network", written)]
        if self.data == "maximum":
            rows.append(("the larger of both", "x + (y - x)+"))
        return (Table("formula", ("", "written out; (z)+ is z above 0, and 0 below"), tuple(rows)),)

    def _draw(self, given: Numbers, told: Numbers, floor: float) -> "Figure":
        """The loss on its way, beside the floor of linear models; what was told of what."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2)
        steps, losses = zip(*self.losses, strict=True) if self.losses else ((), ())
        left.plot(steps, losses, color=COLORS[0], linewidth=1, label="this model, each step")
        if floor > 0:
            label = "best linear model, closed form"
            left.axhline(floor, color=COLORS[1], linestyle="--", label=label)
        left.set_yscale("log")
        left.set_xlabel("optimizer step")
        left.set_ylabel("squared error on training examples")
        left.legend(frameon=False, fontsize=9)
        standard = self.inputs.standard
        own, asked = (
            x[:MOST_DRAWN] * standard.target_std + standard.target_mean for x in (given, told)
        )
        right.axline((float(asked.mean()),) * 2, slope=1, color=MUTED, linewidth=1)
        right.scatter(asked, own, s=12, color=COLORS[0], alpha=0.6, linewidth=0)
        right.set_xlabel("validation example")
        right.set_ylabel("what the model tells of it")
        for axes in (left, right):
            axes.grid(color=GRID, linewidth=0.8)
            axes.set_axisbelow(True)
        return figure


def _sample(split: Split) -> tuple[Numbers, Numbers]:
    """Scaled features (N, F) and numbers (N,) of a split, or of its beginning."""
    features, told = split.take(np.arange(min(len(split), MOST_SOLVED)))
    return features.astype(np.float64), told.astype(np.float64)[:, 0]
