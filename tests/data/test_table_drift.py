import datetime
import math

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom

from data.drift import gate_tables
from data.drift.table_sketches import TableSketch, sketch_table
from data.files import DataError


def journeys(rows, seed):
    """A realistic table: places, measures with gaps, times, text."""
    rng = np.random.default_rng(seed)
    latitude, longitude = rng.normal(48.1, 1.5, rows), rng.normal(11.5, 2.0, rows)
    degrees = rng.normal(12, 8, rows)
    first = datetime.date(2023, 1, 1)
    return pa.table(
        {
            "latitude": latitude,
            "longitude": longitude,
            "position": [f"{a:.4f},{b:.4f}" for a, b in zip(latitude, longitude, strict=True)],
            "altitude": rng.lognormal(5.5, 0.6, rows),
            "load": rng.gamma(4, 30, rows),
            "temperature": pa.array(degrees, mask=rng.random(rows) < 0.1),
            "created": 1_700_000_000 + rng.integers(0, 86_400 * 90, rows),
            "share": rng.beta(2, 5, rows),
            "vehicle": rng.choice(["car", "bus", "train", "bike"], rows, p=[0.5, 0.25, 0.15, 0.1]),
            "date": [
                (first + datetime.timedelta(int(day))).isoformat()
                for day in rng.integers(0, 365, rows)
            ],
            "price": [f"{x:.2f}" for x in rng.gamma(3, 20, rows)],
            "comment": pa.array(
                [f"note {i}" for i in rng.integers(0, 10**6, rows)], mask=rng.random(rows) < 0.2
            ),
        }
    )


REFERENCE = sketch_table(journeys(2000, 1))
BASE = journeys(1500, 2)


def with_column(column, function):
    values = [None if v is None else function(v) for v in BASE[column].to_pylist()]
    return replaced(column, pa.array(values))


def replaced(column, values):
    return BASE.set_column(BASE.column_names.index(column), column, values)


def both(function):
    return lambda text: ",".join(f"{function(float(part)):.6f}" for part in text.split(","))


def day(form):
    return lambda text: datetime.date.fromisoformat(text).strftime(form)


CHANGES = [
    ("latitude", math.radians, "unit changed: degrees -> radians (median 48.07 -> 0.83"),
    ("share", lambda v: v * 100, "unit changed: fractions -> percent"),
    ("load", lambda v: v * 1000, "unit changed: x 1000, as seconds -> milliseconds"),
    ("load", lambda v: v / 1000, "unit changed: / 1000, as milliseconds -> seconds"),
    ("created", lambda v: v * 10**3, "unit changed: seconds -> milliseconds since 1970"),
    ("created", lambda v: v * 10**9, "unit changed: seconds -> nanoseconds since 1970"),
    ("altitude", lambda v: v * 0.3048, "other values: median 2"),
    (
        "temperature",
        lambda v: v + 5,
        "other values: median 12.21 -> 17.26, range -13",
    ),
    ("temperature", lambda v: 999 if v > 25 else v, "values outside the range so far: range -13"),
    ("position", lambda v: ",".join(v.split(",")[::-1]), "the numbers are swapped: 1,2 -> 2,1"),
    ("position", both(math.radians), "number 1: unit changed: degrees -> radians"),
    ("position", both(math.radians), "number 2: unit changed: degrees -> radians"),
    ("position", lambda v: v.replace(",", ";"), '"9.9,9.9" 100% -> "9.9;9.9" 100%'),
    ("price", lambda v: v.replace(".", ","), '"9.9" 100% -> "9,9" 100%'),
    ("price", lambda v: f"{float(v) * 1000:.0f}", "unit changed: x 1000, as seconds"),
    ("date", day("%d.%m.%Y"), 'the texts look different: "9-9-9" 100% -> "9.9.9" 100%'),
    ("vehicle", str.upper, 'new categories: "CAR" 5'),
    ("vehicle", lambda v: "tram" if v == "bike" else v, 'vanished categories: "bike" 9.8%'),
    ("vehicle", lambda v: "car" if v == "bike" else v, 'vanished categories: "bike" 9.8%'),
    ("altitude", str, "type changed: double -> string"),
    ("comment", lambda v: v.replace(" ", "-"), 'the texts look different: "a 9" 100% -> "a-9"'),
    ("comment", lambda v: v * 3, "look different"),
]


@pytest.mark.parametrize(
    ("column", "function", "words"), CHANGES, ids=[f"{c[0]}: {c[2][:40]}" for c in CHANGES]
)
def test_a_changed_column_is_found_and_named(column, function, words):
    names = [column, "longitude", "load", "vehicle", "comment"]
    before = TableSketch(REFERENCE.rows, {name: REFERENCE.columns[name] for name in names})
    after = sketch_table(with_column(column, function).select(dict.fromkeys(names)))
    (finding,) = gate_tables([before], [after]).findings
    assert finding.words.startswith(f"column {column}: ")
    assert words in finding.words


def test_more_missing_values_are_found_and_named():
    values = [None if i % 4 == 0 else v for i, v in enumerate(BASE["temperature"].to_pylist())]
    after = sketch_table(replaced("temperature", pa.array(values)))
    (finding,) = gate_tables([REFERENCE], [after]).findings
    assert "missing values 10.8% -> 33" in finding.words


def test_a_new_category_is_found_and_named():
    values = ["tram" if i % 9 == 0 else v for i, v in enumerate(BASE["vehicle"].to_pylist())]
    after = sketch_table(replaced("vehicle", pa.array(values)))
    (finding,) = gate_tables([REFERENCE], [after]).findings
    assert 'new categories: "tram" 11.1%' in finding.words


def test_a_rare_new_category_does_not_hide_that_the_shares_of_the_others_have_changed():
    old = BASE["vehicle"].to_pylist()
    values = ["tram" if i % 500 == 0 else "bus" if i % 2 else v for i, v in enumerate(old)]
    after = sketch_table(replaced("vehicle", pa.array(values)))
    (finding,) = gate_tables([REFERENCE], [after]).findings
    was, now = (own.columns["vehicle"].categories for own in (REFERENCE, after))
    bus = [f"{own['bus'] / sum(own.values()):.1%}" for own in (was, now)]
    assert f'other shares of the categories: "bus" {bus[0]} -> {bus[1]}, ' in finding.words
    assert finding.words.endswith('; new categories: "tram" 0.2%')


def test_one_finding_is_counted_as_one():
    report = gate_tables([REFERENCE], [sketch_table(BASE.drop_columns(["load"]))])
    assert report.lines()[0].startswith("drift: 1 finding in ")
    assert report.markdown().startswith("# Drift: 1 finding\n")


def test_few_values_far_outside_the_range_are_found_and_named():
    values = [-999.0 if i % 60 == 0 else v for i, v in enumerate(BASE["load"].to_pylist())]
    (finding,) = gate_tables(
        [REFERENCE], [sketch_table(replaced("load", pa.array(values)))]
    ).findings
    assert finding.words.startswith("column load: values outside the range so far: range 11")
    assert "-> -999.." in finding.words


@pytest.mark.parametrize(
    "names",
    [
        {"latitude": "longitude", "longitude": "latitude"},
        {"latitude": "longitude", "longitude": "altitude", "altitude": "latitude"},
    ],
)
def test_columns_that_hold_each_others_values_are_found_and_named(names):
    order = [names.get(n, n) for n in BASE.column_names]
    after = sketch_table(BASE.rename_columns(order).select(BASE.column_names))
    (finding,) = gate_tables([REFERENCE], [after]).findings
    assert finding.words.startswith("columns are swapped: ")
    for held, holds in names.items():
        assert f"{holds} holds what {held} held" in finding.words


def test_the_order_of_three_numbers_in_a_text_is_found():
    rng = np.random.default_rng(8)
    points = rng.normal([10, 50, 300], 3, (900, 3))

    def texts(order, rows):
        cells = [" ".join(f"{x:.2f}" for x in row[order]) for row in rows]
        return sketch_table(pa.table({"p": cells}))

    report = gate_tables([texts([0, 1, 2], points[:500])], [texts([1, 2, 0], points[400:])])
    (finding,) = report.findings
    assert "the numbers are re-ordered: 1,2,3 -> 2,3,1 (median 9.845" in finding.words


def test_times_of_a_later_period_and_a_longer_counter_are_no_drift():
    def table(rows, start):
        day = datetime.date(2023, 1, 1)
        return sketch_table(
            pa.table(
                {
                    "id": range(start, start + 1000 * rows, 1000),
                    "epoch": [1_700_000_000.5 + 90 * (start + i) for i in range(rows)],
                    "stamp": pa.array([10**9 + start + i for i in range(rows)], pa.timestamp("s")),
                    "day": [
                        (day + datetime.timedelta(start // 9 + i % 9)).isoformat()
                        for i in range(rows)
                    ],
                }
            )
        )

    report = gate_tables([table(400, 0)], [table(400, 5000), table(900, 9000)])
    assert report.passed, report.lines()
    assert "id: a counter is not compared (each value is above the one before)" in report.notes
    untimed = "times are not compared: another period is no drift"
    assert f"epoch: {untimed} (2023-11-14..2023-11-15 -> " in str(report.notes)
    assert any(note.startswith(f"stamp: {untimed}") for note in report.notes)


def test_columns_removed_and_added_are_found_and_named():
    table = BASE.drop_columns(["load"]).append_column("id", BASE["created"])
    words = [f.words for f in gate_tables([REFERENCE], [sketch_table(table)]).findings]
    assert words == ["column load: removed (double)", "column id: added (int64)"]


@pytest.mark.parametrize("seed", range(5))
def test_an_unchanged_table_passes(seed):
    report = gate_tables([REFERENCE], [sketch_table(journeys(900, 100 + seed))])
    assert report.passed, report.lines()


def test_empty_tables_are_refused():
    with pytest.raises(DataError, match="candidate of the drift gate has no rows"):
        gate_tables([REFERENCE], [sketch_table(BASE.slice(0, 0))])


def measured(rows, rng):
    return sketch_table(
        pa.table(
            {
                "number": pa.array(rng.lognormal(0, 1, rows), mask=rng.random(rows) < 0.03),
                "whole": rng.poisson(3, rows),
                "rare": rng.choice(["a", "b", "c"], rows, p=[0.989, 0.01, 0.001]),
                "word": [f"w{min(int(i), 500)}" for i in rng.zipf(1.6, rows)],
                "pair": [f"{a:.1f};{b:.1f}" for a, b in rng.normal(0, 5, (rows, 2))],
            }
        )
    )


@pytest.mark.parametrize(("parts", "rows"), [(1, 300), (3, 200)])
def test_false_alarms_are_as_rare_as_stated(parts, rows):
    trials, alpha = 200, 0.05
    alarms = 0
    for trial in range(trials):
        rng = np.random.default_rng([trial, parts])
        reference = [measured(rows, rng) for _ in range(parts)]
        alarms += not gate_tables(reference, [measured(rows, rng)], alpha=alpha).passed
    assert alarms <= binom.isf(0.001, trials, alpha)  # an honest gate fails once in 1,000
