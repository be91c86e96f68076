"""What stays at one value is no curve, whenever a sender comes and however often."""

import json
import math
import random

import pytest

from orchestrator.config import TrackingConfig
from orchestrator.record.journal import Journal
from orchestrator.record.lines import METRICS, read
from orchestrator.record.mlflow.constants import Constants
from orchestrator.record.mlflow.mirror import State, new_state
from orchestrator.record.mlflow.points import Points

STEPS = 20
SERIES = {
    "train/loss": lambda step: 1 / step,
    "train/learning_rate": lambda step: 1e-3,
    "train/late": lambda step: 2.0 if step > 15 else 1.0,
    "train/broken": lambda step: math.nan,
    "validation/accuracy": lambda step: 1.0,
    "train/once": lambda step: 7.0 if step == 12 else None,
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "outputs" / "2026-01-01" / "12-00-00-pretrain-abc123"
    with Journal(folder) as book:
        for step in range(1, STEPS + 1):
            values = {name: series(step) for name, series in SERIES.items()}
            book.metrics(step, {name: own for name, own in values.items() if own is not None})
    return folder


def sent_in(folder, sizes):
    """What is sent by senders that take so many lines each, and what the last one settles."""
    new_state(TrackingConfig(), folder.parents[1]).save(folder)
    lines, sent = read(folder / METRICS)[0], []
    for size in sizes:
        state = State.load(folder)
        constants = Constants(folder, state, points := Points(folder))
        for some in constants.changing(points.of(lines[:size])):
            sent += some
        del lines[:size]
        state.save(folder)
    assert not lines
    more, params = Constants(folder, State.load(folder), Points(folder)).settled()
    return {*sent, *more}, params


def sizes():
    draw = random.Random(3)
    yield [STEPS]
    yield [1] * STEPS
    for _ in range(20):
        cuts = sorted(draw.sample(range(1, STEPS), draw.randint(1, 6)))
        yield [b - a for a, b in zip([0, *cuts], [*cuts, STEPS], strict=True)]


def test_every_point_is_sent_but_those_of_series_with_one_value_however_the_journal_is_cut(folder):
    journal = Points(folder).of(read(folder / METRICS)[0])
    level = {"train/learning_rate", "train/broken"}
    expected = {str(point) for point in journal if point.key not in level}
    for cut in sizes():
        sent, params = sent_in(folder, cut)
        assert {str(point) for point in sent} == expected, cut
        assert params == {
            "constant.train/learning_rate": "0.001",
            "constant.train/broken": "nan",
        }


def test_what_an_older_version_began_to_send_is_sent_to_its_end(folder):
    state = new_state(TrackingConfig(), folder.parents[1])
    state.save(folder)
    written = json.loads((folder / "mlflow.json").read_text())
    del written["constant"]
    (folder / "mlflow.json").write_text(json.dumps(written))
    state, lines = State.load(folder), read(folder / METRICS)[0]
    constants = Constants(folder, state, points := Points(folder))
    (sent,) = constants.changing(points.of(lines[16:]))  # all but the last were sent
    late = [point for point in [*sent, *constants.settled()[0]] if point.key == "train/late"]
    assert {point.step for point in late} == set(range(1, STEPS + 1))
