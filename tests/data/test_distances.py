import numpy as np
import pytest
from scipy import stats

from data.drift.distances import SMALLEST_GAP, SMALLEST_MOVE, gap, move, outside

LEVEL = 0.01
TRIALS = 2000
# What an honest test exceeds once in a thousand times.
MOST = int(stats.binom.isf(0.001, TRIALS, LEVEL))


def alarms(measure):
    return sum(value > limit for value, limit in (measure(LEVEL) for _ in range(TRIALS)))


def test_a_gap_is_that_of_kolmogorov_and_smirnov_and_as_rare_as_the_level():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=300), rng.normal(0.2, 1.2, size=200)
    expected = max(abs((a <= x).mean() - (b <= x).mean()) for x in [*a, *b])
    assert gap(a, b, LEVEL)[0] == pytest.approx(expected)
    found = alarms(lambda level: gap(rng.normal(size=300), rng.normal(size=200), level))
    assert found <= MOST


def test_a_move_is_the_chi_squared_statistic_without_the_sizes():
    rng = np.random.default_rng(1)
    a, b = rng.multinomial(900, [0.1, 0.2, 0.3, 0.4]), rng.multinomial(500, [0.2, 0.2, 0.3, 0.3])
    value, limit = move(a, b, LEVEL)
    test = stats.chi2_contingency(np.stack([a, b]), correction=False)
    assert value**2 * 900 * 500 / 1400 == pytest.approx(test.statistic)
    assert (value > limit) == (test.pvalue < LEVEL)


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.99, 0.01], [0.9, 0.05, 0.03, 0.01, 0.01]])
def test_moves_of_rare_bins_are_as_rare_as_the_level(shares):
    rng = np.random.default_rng(2)
    assert (
        alarms(
            lambda level: move(rng.multinomial(150, shares), rng.multinomial(400, shares), level)
        )
        <= MOST
    )


def test_values_outside_a_range_are_as_rare_as_the_level():
    rng = np.random.default_rng(3)

    def measure(level):
        a, b = rng.normal(size=250), rng.normal(size=200)
        return outside((a.min(), a.max(), len(a)), b, level)

    assert alarms(measure) <= MOST
    value, limit = outside((-1.0, 1.0, 5000), np.array([*np.zeros(980), *np.full(20, 2.0)]), LEVEL)
    assert value == pytest.approx(0.02)
    assert value > limit


def test_what_is_certain_but_small_is_no_change():
    many = np.array([500_000, 500_000]), np.array([505_000, 495_000])
    assert move(*many, LEVEL)[1] == SMALLEST_MOVE
    x = np.linspace(0, 1, 50_000)
    assert gap(x, x + 0.01, LEVEL)[1] == SMALLEST_GAP


def test_an_empty_side_says_nothing():
    none = np.zeros(0)
    for value, limit in (
        gap(none, np.ones(3), LEVEL),
        move(np.zeros(2), np.ones(2), LEVEL),
        outside((0.0, 0.0, 0), np.ones(3), LEVEL),
    ):
        assert value <= limit
