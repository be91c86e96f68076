from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from orchestrator.record.runs import runs
from orchestrator.stages.regress.linear import apply, least_squares
from orchestrator.stages.regress.train import MAXIMUM_FLOOR
from tests.orchestrator.typed import typed


@pytest.mark.parametrize("bias", [True, False])
def test_the_closed_form_is_that_of_scikit_learn(bias):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(60, 4)), draw.normal(size=60) + 3
    theirs = LinearRegression(fit_intercept=bias).fit(x, y)
    weights = least_squares(x, y, bias=bias)
    assert weights[:4] == pytest.approx(theirs.coef_)
    assert apply(weights, x, bias=bias) == pytest.approx(theirs.predict(x))


def test_the_floor_of_linear_layers_for_the_maximum_is_what_least_squares_leave():
    x = np.random.default_rng(0).uniform(-1, 1, (200_000, 2))
    errors = apply(least_squares(x, x.max(1), bias=False), x, bias=False) - x.max(1)
    assert np.square(errors).mean() ** 0.5 == pytest.approx(MAXIMUM_FLOOR, rel=0.01)


def test_relu_units_find_the_maximum_and_linear_layers_stay_at_their_floor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("stage.steps=300", "stage.evaluate_every=100", "resources=inline", "tracking=none")
    answer = typed("run", "sweep=maximum", *words)
    assert answer.code == 0, answer
    linear, relu = runs(Path("outputs"))
    assert relu.metrics["validation/rmse"] < 0.05
    beaten = linear.result["baselines"]["validation/rmse"]
    floor = beaten["least squares without a bias, closed form"]
    assert linear.metrics["validation/rmse"] == pytest.approx(floor, rel=0.01)
    assert floor == pytest.approx(MAXIMUM_FLOOR, rel=0.05)
    rows = [line.split()[-1] for line in answer.out.splitlines()[-3:-1]]
    assert rows == ["model.activation=relu", "model.activation=identity"], "best first"
    assert "written out" in answer.out, "the formula of the ReLU units"
    assert len(list(Path("outputs").glob("*/*-sweep-*/comparison.png"))) == 1
