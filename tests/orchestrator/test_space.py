"""Search spaces as they are typed, and the points of them."""

import math
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest

from orchestrator.compose.refusal import settings as settings_of_jobs
from orchestrator.compose.schema import GROUPS
from orchestrator.compose.sweeping import Sweeping
from orchestrator.config import JobConfig
from orchestrator.verbs.sweep.asked import fill_in
from orchestrator.verbs.sweep.settings import NAMES, read


@pytest.fixture(scope="module")
def compose():
    with Sweeping(None) as ready:
        yield ready


def axes(compose, *words):
    return compose.asked(words)[1].axes


def refused(compose, *words):
    try:
        of_sweep, space = compose.asked(words)
        fill_in(space, read(of_sweep), [], None, compose.job)
    except ValueError as error:
        return str(error)
    raise AssertionError(words)


def test_no_setting_of_a_sweep_is_one_of_a_job():
    of_jobs = {*settings_of_jobs(), *GROUPS, *(field.name for field in fields(JobConfig))}
    assert not of_jobs & set(NAMES)
    assert not any("." in name for name in NAMES)


def test_a_space_is_read_from_hydras_own_syntax(compose):
    found = axes(
        compose,
        "optim.learning_rate=tag(log,interval(1e-4,1e-2))",
        "optim.weight_decay=interval(0,1)",
        "model.width=interval(32,64)",
        "model.heads=tag(log,interval(1,8))",
        "stage.steps=range(10,31,10)",
        "model.dropout=range(0,0.4,0.1)",
        "optim.epsilon=int(interval(1,3))",
        "data.sequence_length=64,128",
        "engine=glob(zero*,exclude=*offload)",
        "seed=shuffle(1,2,3)",
    )
    learning_rate, decay, width, heads, steps, dropout, epsilon, length, engine, seed = found
    assert (learning_rate.log, learning_rate.whole, learning_rate.count) == (True, False, None)
    assert (decay.low, decay.high, decay.count) == (0, 1, None), "a number, whatever its ends"
    assert (width.whole, width.count) == (True, 33), "a whole number, for the setting is one"
    assert (heads.whole, heads.log) == (True, True)
    assert [steps.at(i) for i in range(3)] == [10, 20, 30], "the end is left out, as Hydra does"
    assert [dropout.at(i) for i in range(dropout.count)] == [0.0, 0.1, 0.2, 0.3]
    assert (epsilon.whole, epsilon.count) == (True, 3)
    assert length.typed("128") == ["data.sequence_length=128"]
    assert list(engine.words) == ["zero0", "zero1", "zero2", "zero3"], "no schema of Hydra's"
    assert sorted(seed.words) == ["1", "2", "3"]


def test_a_grid_has_the_points_of_the_product_in_its_order(compose):
    _, space = compose.asked(["model.layers=1,2", "model.width=range(32,65,16)", "seed=1,2"])
    assert space.size == 12
    points = [tuple(space.at(i).values()) for i in range(12)]
    assert points == [(a, b, c) for a in "12" for b in (32, 48, 64) for c in "12"]


@pytest.mark.parametrize(
    ("word", "low", "high"),
    [
        ("optim.learning_rate=tag(log,interval(1e-4,1e-2))", 1e-4, 1e-2),
        ("optim.weight_decay=interval(-1,1)", -1, 1),
        ("model.width=interval(3,7)", 3, 7),
        ("model.heads=tag(log,interval(1,8))", 1, 8),
        ("model.dropout=range(0,0.5,0.1)", 0, 0.4),
        ("seed=4,5,6", 4, 6),
    ],
)
def test_shares_of_an_axis_are_spread_evenly_over_its_values(compose, word, low, high):
    (axis,) = axes(compose, word)
    shares = (np.arange(4000) + 0.5) / 4000
    values = [float(axis.place(share)) for share in shares]
    assert (values[0], values[-1]) == pytest.approx((low, high), rel=5e-3, abs=5e-3)
    if axis.count is None:
        logs = [math.log(v) if axis.log else v for v in values]
        assert np.allclose(np.diff(logs), (logs[-1] - logs[0]) / 3999)
    elif getattr(axis, "log", False):
        expected = {v: math.log((v + 1) / v) / math.log(9) for v in range(1, 9)}
        counts = Counter(values)
        assert all(abs(counts[v] / 4000 - share) < 2e-3 for v, share in expected.items())
    else:
        assert len(set(values)) == axis.count
        assert max(Counter(values).values()) - min(Counter(values).values()) <= 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optim.learning_rat=interval(1,2)"], "did you mean optim.learning_rate?"),
        (["optim.learning_rat=1,2"], "did you mean optim.learning_rate?"),
        (["optim=adam,adamm"], "optim=adamm: there is no such choice; did you mean"),
        (["seed=range(1,1)"], "seed=range(1,1): no value lies from 1 up to, not including, 1"),
        (["seed=range(1,9,0)"], "in steps of 0"),
        (["seed=range(0,10000000)"], "has 10,000,000 values"),
        (["model=glob(zz*)"], "it has no value at all"),
        (["seed=interval(5,1)"], "5 to 1 does not; try seed='interval(1,5)'"),
        (["seed=interval(1.5,4)"], "the setting is a whole number; try seed=interval(2,4)"),
        (["optim.l1=tag(log,interval(-1,1))"], "factors need both ends above 0, and -1 is not"),
        (["optim.l1=tag(lug,interval(1,2))"], "tag lug is not one of log, int; did you mean log?"),
        (["optim.l1=tag(log,choice(1,2))"], "tags are for interval() and range()"),
        (["seed=1,1"], "lists 1 twice"),
        (["seed=1,2", "seed=3"], "seed is typed twice"),
        (["stage.steps=9"], "no setting has several values"),
        (["stage=evaluate", "data.weight=1,2"], "checkpoint"),
        (
            ["seed=range(0,100)", "model.layers=range(1,101)", "model.width=range(1,1001)"],
            "100 x 100 x 1,000 = 10,000,000 points, and 10,000 trials are the most",
        ),
        (["seed=1,2", "sampler=cmaes"], "of seed there are 0; try sampler=tpe"),
        (["optim.l1=interval(0,1)", "sampler=grid"], "optim.l1 is an interval"),
        (["seed=1,2", "trials=3", "sampler=grid"], "trials=3 are more than the 2 points"),
        (["seed=1,2", "sampler=tpee"], "sampler=tpee is not one of"),
        (["seed=1,2", "trials=0"], "trials=0 must be a whole number of at least 1"),
        (["seed=1,2", "trials=many"], "trials=many must be a whole number"),
        (["seed=1,2", "parallel=half"], "or parallel=auto"),
        (["seed=1,2", "seeds=3"], "seed is what trials differ in"),
        (["seed=1,2", "constraint=loss<3"], "constraint=loss<3 must be METRIC<=NUMBER"),
        (["seed=1,2", "objective=loss:up"], "must be METRIC, METRIC:lower or METRIC:higher"),
        (["seed=1,2", "objective=a,b", "pruner=asha"], "compares trials by one number"),
        (["seed=1,2", "pruner=asha", "stage.evaluate_every=null"], "leaves none; try"),
        (["seed=1,2", "name=a/b"], "try name=a_b"),
        (["sweep=logik"], "did you mean logic?"),
    ],
)
def test_what_can_not_work_is_refused_with_what_to_type(compose, words, said):
    message = refused(compose, *words)
    assert said in message, message
    assert len(message.splitlines()) == 1
