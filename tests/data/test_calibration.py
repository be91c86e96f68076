import numpy as np
import pytest

from data.drift.calibration import (
    jensen_shannon,
    kolmogorov_smirnov,
    rate_difference,
    student_inflation,
    thresholds,
    unseen,
)


def test_jensen_shannon_and_kolmogorov_smirnov_agree_with_scipy():
    distance = pytest.importorskip("scipy.spatial.distance")
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 20, (5, 30)), rng.integers(0, 20, (5, 30))
    expected = [distance.jensenshannon(p, q, base=2) for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(jensen_shannon(a, b), expected)
    stats = pytest.importorskip("scipy.stats")
    values = [np.repeat(np.arange(30), counts[0]) for counts in (a, b)]
    assert kolmogorov_smirnov(a, b)[0] == pytest.approx(stats.ks_2samp(*values).statistic)


@pytest.mark.parametrize("degrees", [7, 31, 100])
def test_the_inflation_is_that_of_students_t(degrees):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.t.ppf(1 - 0.001, degrees) / stats.norm.ppf(1 - 0.001)
    assert student_inflation(0.001, degrees) == pytest.approx(expected, rel=0.02)


def test_thresholds_hold_together_with_the_stated_chance():
    rng = np.random.default_rng(1)
    common = rng.normal(size=(40_000, 1))
    values = np.abs(0.6 * common + 0.8 * rng.normal(size=(40_000, 8)))
    half = {str(i): values[:20_000, i] for i in range(8)}
    limits = thresholds(half, dict.fromkeys(half, 0.0), 0.05)
    above = (values[20_000:] > np.array([limits[str(i)] for i in range(8)])).any(1).mean()
    assert above == pytest.approx(0.05, abs=0.01)


def test_as_many_unseen_items_as_allowed_have_the_stated_chance():
    # k items fall all on a side of 40 among 40 + 160 with chance 0.2^k; 5 is the first k <= 0.001.
    expected = rate_difference(np.array([5, 35]), np.array([0, 160]))
    assert unseen("rate", 160, 40, 0.001) == pytest.approx(float(expected))
