"""Regression on every rank: train, measure, save, and compare with the best linear model.

N examples, F features.
"""

from functools import cached_property
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
        self.bias = bool(getattr(self.role.model, "bias", True))
        held, told = _sample(self.validation)
        errors = {name: given - told for name, given in self._simple(held).items()}
        self.run.event("baselines", rmse={name: self._rmse(own) for name, own in errors.items()})

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

    @cached_property
    def closed_form(self) -> Numbers:
        """The weights of the best linear model."""
        return least_squares(*_sample(self.examples), bias=self.bias)

    def compare(self) -> tuple[Table, ...]:
        """The model beside the best linear one, as tables and a picture. Every rank calls it."""
        (x, told), (held_x, held_told) = map(_sample, (self.examples, self.validation))
        given = {"this model": self._given(x)} | self._simple(x)
        held = {"this model": self._given(held_x)} | self._simple(held_x)
        roots = {name: (self._rmse(given[name] - told), self._rmse(held[name] - held_told))
                 for name in given}  # fmt: skip
        if self.data == "maximum" and not self.bias:
            roots["any linear layers, mean over the square"] = MAXIMUM_FLOOR, MAXIMUM_FLOOR
        rows = tuple((name, *(f"{root:.4g}" for root in own)) for name, own in roots.items())
        columns = ("errors, root mean square", "training", "validation")
        tables = [Table("regression", columns, rows, bold=0)]
        if self.run.pictures and distributed.rank() == 0:
            errors = apply(self.closed_form, x, bias=self.bias) - told
            floor = float(np.square(errors).mean())
            picture = self._draw(held["this model"], held_told, floor)
            picture.savefig(self.run.folder / PICTURE, dpi=120)
        if self.run.pictures:
            self.run.event("artifact", path=PICTURE)
        return (*tables, *self._formula(), *self._weights(self.closed_form))

    def _simple(self, features: Numbers) -> dict[str, Numbers]:
        """What simpler models tell (N,) of scaled features (N, F), by their names."""
        told = _sample(self.examples)[1]
        linear = "least squares" if self.bias else "least squares without a bias"
        constant = ("the mean", float(told.mean())) if self.bias else ("zero", 0.0)
        return {
            f"{linear}, closed form": apply(self.closed_form, features, bias=self.bias),
            constant[0]: np.full(len(features), constant[1]),
        }

    def _rmse(self, errors: Numbers) -> float:
        """Root of the mean square of scaled errors, in the unit of what is told."""
        return float(np.square(errors).mean() ** 0.5) * self.inputs.standard.target_std

    def _given(self, features: Numbers) -> Numbers:
        """What the model tells (N,) of scaled features (N, F). Every rank calls it."""
        given: Numbers = self.outputs(features.astype(np.float32)).double().cpu().numpy()[:, 0]
        return given

    def _matrices(self) -> list[Numbers]:
        """The weights of each layer, as saved last."""
        saved = self.checkpoints.given
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
