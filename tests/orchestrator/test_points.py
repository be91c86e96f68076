import numpy as np
import pytest

from data.order import Order
from orchestrator.stages.classify.stage import ClassifyConfig
from orchestrator.stages.examples.feeding import steps
from orchestrator.stages.features.points import FEATURES, PROBLEMS, REACH, draw, features
from orchestrator.stages.features.splits import DRAWN_FOR_VALIDATION, drawn_examples

NUMBERS = np.arange(4000)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_an_example_follows_from_its_number_alone(problem):
    points, told = draw(problem, 3, 0.2, NUMBERS)
    order = np.random.default_rng(0).permutation(4000)[:70]
    again, told_again = draw(problem, 3, 0.2, NUMBERS[order])
    assert np.array_equal(points[order], again)
    assert np.array_equal(told[order], told_again)
    assert not np.array_equal(points, draw(problem, 4, 0.2, NUMBERS)[0])
    clean, _ = draw(problem, 3, 0.0, NUMBERS)
    assert (np.abs(clean) < REACH).mean() > 0.999, "all but the tails of gauss"
    noise = points - clean
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(0.2, rel=0.03)


def test_the_problems_are_what_their_names_say():
    (x, y), kind = draw("xor", 0, 0.0, NUMBERS)[0].T, draw("xor", 0, 0.0, NUMBERS)[1]
    assert np.array_equal(kind, x * y > 0)
    points, kind = draw("circle", 0, 0.0, NUMBERS)
    assert np.array_equal(kind, np.linalg.norm(points, axis=1) < 3)
    points, kind = draw("gauss", 0, 0.0, NUMBERS)
    assert points[kind == 1].mean(0) == pytest.approx([2, 2], abs=0.1)
    points, told = draw("maximum", 0, 0.0, NUMBERS)
    assert np.array_equal(told, np.maximum(*points.T))
    assert np.square(points).mean() == pytest.approx(1 / 3, rel=0.03), "uniform on [-1, 1]"
    points, kind = draw("spiral", 0, 0.0, NUMBERS)
    turned = np.arctan2(*points.T) - 2 * np.pi * 1.75 * np.linalg.norm(points, axis=1) / 5
    assert np.cos(turned) == pytest.approx(1 - 2 * kind), "its angle follows from its radius"


def test_features_are_those_of_the_point():
    points = np.random.default_rng(0).normal(size=(5, 2))
    found = dict(zip(FEATURES, features(list(FEATURES), points).T, strict=True))
    x, y = points.T
    expected = {"x": x, "y": y, "xx": x**2, "yy": y**2, "xy": x * y}
    expected |= {"sin_x": np.sin(x), "sin_y": np.sin(y)}
    assert all(np.allclose(found[name], expected[name]) for name in expected)


def test_a_stream_that_no_memory_could_hold_is_trained_on_one_by_one_and_validated_on_others(
    tmp_path,
):
    drawn = drawn_examples(ClassifyConfig(data="circle", examples=10**15), 0, classes=True)
    train, validation = drawn.open("train", tmp_path), drawn.open("validation", tmp_path)
    assert (len(train), len(validation)) == (10**15, DRAWN_FOR_VALIDATION)
    order = Order(len(train), 0, drawn.fingerprint)
    feed = steps(train, order, 0, 1, 1, 0, 1)
    seen = [next(feed)[0] for _ in range(50)]
    assert [batch.weight for batch in seen] == [1] * 50
    rows = {tuple(batch.features[0].tolist()) for batch in seen}
    assert len(rows) == 50
    assert rows.isdisjoint(map(tuple, validation.features.tolist()))
    np.testing.assert_allclose(validation.features.mean(0), 0, atol=0.15)  # standardised
    later = next(steps(train, order, 40, 1, 1, 0, 1))[0]  # as a resumed run goes on
    assert np.array_equal(later.features, seen[40].features)


def test_a_feature_that_a_point_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"a point has no feature sinx; did you mean sin_x\?"):
        drawn_examples(ClassifyConfig(data="spiral", features=["x", "sinx"]), 0, classes=True)
