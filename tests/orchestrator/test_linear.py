import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from orchestrator.stages.regress.linear import apply, least_squares
from orchestrator.stages.regress.train import MAXIMUM_FLOOR


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
