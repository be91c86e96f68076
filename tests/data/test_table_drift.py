import datetime
import math
from math import comb

import numpy as np
import pyarrow as pa
import pytest

from data.drift.gate_report import GateReport
from data.drift.table_drift import gate_tables
from data.drift.table_sketches import TableSketch, sketch_table
from data.files import DataError

QUICK = {"replicates": 299}


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
    ("latitude", math.radians, "degrees -> radians"),
    ("latitude", lambda v: int(v * 1e7), "degrees -> degrees E7"),
    ("latitude", lambda v: -v, "sign flipped"),
    ("altitude", lambda v: v / 0.3048, "metres -> feet"),
    ("altitude", lambda v: v * 0.3048, "feet -> metres"),
    ("altitude", lambda v: v / 1.609344, "kilometres -> miles"),
    ("altitude", lambda v: v * 1.609344, "miles -> kilometres"),
    ("altitude", lambda v: v * 1000, "km -> m"),
    ("altitude", lambda v: v / 1000, "m -> km"),
    ("altitude", math.log, "natural logarithm taken"),
    ("altitude", math.log10, "logarithm to base 10 taken"),
    ("load", lambda v: v / 0.45359237, "kilograms -> pounds"),
    ("load", lambda v: v * 0.45359237, "pounds -> kilograms"),
    ("load", lambda v: v * 1000, "kg -> g"),
    ("temperature", lambda v: v * 1.8 + 32, "Celsius -> Fahrenheit"),
    ("temperature", lambda v: v + 273.15, "Celsius -> Kelvin"),
    ("temperature", lambda v: (v - 32) / 1.8, "Fahrenheit -> Celsius"),
    ("temperature", lambda v: v + 5, "constant offset +"),
    ("share", lambda v: v * 100, "fraction -> percent"),
    ("created", lambda v: v * 10**3, "s -> ms since 1970"),
    ("created", lambda v: v * 10**6, "s -> us since 1970"),
    ("created", lambda v: v * 10**9, "s -> ns since 1970"),
    (
        "position",
        lambda v: ",".join(v.split(",")[::-1]),
        "components swapped: lat,lon -> lon,lat (median 48.07,11.47 -> 11.56,48.01)",
    ),
    ("position", lambda v: v.replace(",", ";"), 'separator changed: "," -> ";"'),
    ("position", lambda v: f"({v})", "brackets changed: x,x -> (x,x)"),
    ("position", both(math.radians), "component 2: unit changed: degrees -> radians"),
    ("position", lambda v: v.replace(",", ";").replace(".", ","), "decimal mark changed: . -> ,"),
    ("price", lambda v: v.replace(".", ","), "decimal mark changed: . -> ,"),
    ("date", day("%m/%d/%Y"), "date format changed: YYYY-MM-DD -> MM/DD/YYYY"),
    ("date", day("%d.%m.%Y"), "date format changed: YYYY-MM-DD -> DD.MM.YYYY"),
    ("date", day("%d/%m/%Y"), "date format changed: YYYY-MM-DD -> DD/MM/YYYY"),
    ("vehicle", str.upper, 'categories renamed (upper case): "bike" -> "BIKE"'),
    ("vehicle", lambda v: f"v_{v}", 'prefix "v_" added'),
    ("vehicle", lambda v: "tram" if v == "bike" else v, '"bike" 10% -> "tram" 9%'),
    ("vehicle", lambda v: "car" if v == "bike" else v, 'vanished categories: "bike" 9.8%'),
    ("altitude", str, "type changed: double -> string (the same numbers as text)"),
    ("altitude", lambda v: str(v).replace(".", ","), "the same numbers as text, decimal mark ,"),
    ("comment", lambda v: v.replace(" ", "-"), 'shape of the text changed: "a 9" 100% -> "a-9"'),
]


@pytest.mark.parametrize(
    ("column", "function", "words"), CHANGES, ids=[f"{c[0]}: {c[2][:40]}" for c in CHANGES]
)
def test_a_changed_column_is_found_and_named(column, function, words):
    names = [column, "longitude", "load", "vehicle", "comment"]
    before = TableSketch(REFERENCE.rows, {name: REFERENCE.columns[name] for name in names})
    after = sketch_table(with_column(column, function).select(dict.fromkeys(names)))
    (finding,) = gate_tables([before], [after], **QUICK).findings
    assert finding.words.startswith(f"column {column}: ")
    assert words in finding.words


@pytest.mark.parametrize(
    ("column", "code", "words"),
    [
        ("temperature", -999.0, "missing values are now -999"),
        ("temperature", 0.0, "missing values are now 0"),
        ("comment", "NA", 'missing values are now "NA"'),
        ("comment", "", 'missing values are now ""'),
    ],
)
def test_missing_values_encoded_anew_are_found_and_named(column, code, words):
    after = sketch_table(replaced(column, BASE[column].fill_null(code)))
    (finding,) = gate_tables([REFERENCE], [after], **QUICK).findings
    assert words in finding.words
    before = sketch_table(replaced(column, BASE[column].fill_null(code)))
    (finding,) = gate_tables([before], [REFERENCE], **QUICK).findings
    assert words.replace("are now", "were once") in finding.words


def test_more_missing_values_are_found_and_named():
    values = [None if i % 4 == 0 else v for i, v in enumerate(BASE["temperature"].to_pylist())]
    after = sketch_table(replaced("temperature", pa.array(values)))
    (finding,) = gate_tables([REFERENCE], [after], **QUICK).findings
    assert "missing values 10.8% -> 33" in finding.words


def test_a_new_category_is_found_and_named():
    values = ["tram" if i % 9 == 0 else v for i, v in enumerate(BASE["vehicle"].to_pylist())]
    after = sketch_table(replaced("vehicle", pa.array(values)))
    (finding,) = gate_tables([REFERENCE], [after], **QUICK).findings
    assert 'new categories: "tram" 11.1%' in finding.words


def test_month_and_day_exchanged_are_found_and_named():
    before = sketch_table(with_column("date", day("%m/%d/%Y")))
    after = sketch_table(with_column("date", day("%d/%m/%Y")))
    (finding,) = gate_tables([before], [after], **QUICK).findings
    assert "date format changed: MM/DD/YYYY -> DD/MM/YYYY" in finding.words


def test_two_columns_swapped_are_found_and_named():
    names = [
        {"latitude": "longitude", "longitude": "latitude"}.get(n, n) for n in BASE.column_names
    ]
    after = sketch_table(BASE.rename_columns(names).select(BASE.column_names))
    (finding,) = gate_tables([REFERENCE], [after], **QUICK).findings
    assert finding.words == "columns latitude and longitude swapped"


def test_columns_renamed_removed_and_added_are_found_and_named():
    names = [{"latitude": "lat", "comment": "remark"}.get(n, n) for n in BASE.column_names]
    table = BASE.rename_columns(names).drop_columns(["load"]).append_column("id", BASE["created"])
    words = [f.words for f in gate_tables([REFERENCE], [sketch_table(table)], **QUICK).findings]
    assert sorted(words) == [
        "column comment: renamed to remark (the values look the same)",
        "column id: added (int64)",
        "column latitude: renamed to lat (the values look the same)",
        "column load: removed (double)",
    ]


@pytest.mark.parametrize("seed", range(5))
def test_an_unchanged_table_passes(seed):
    report = gate_tables([REFERENCE], [sketch_table(journeys(900, 100 + seed))], **QUICK)
    assert report.passed, report.lines()


def test_a_report_of_tables_survives_a_dict():
    after = sketch_table(with_column("latitude", math.radians))
    report = gate_tables([REFERENCE], [after], **QUICK)
    assert GateReport.from_dict(report.to_dict()) == report
    assert "degrees -> radians" in report.markdown()
    assert any("weaker" in line for line in report.lines())


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


def at_most(trials, chance):
    """The number of alarms that an honest gate exceeds once in a thousand tests."""
    mass = 0.0
    for k in range(trials + 1):
        mass += comb(trials, k) * chance**k * (1 - chance) ** (trials - k)
        if mass > 0.999:
            return k
    raise AssertionError


@pytest.mark.parametrize(("shards", "rows"), [(1, 300), (3, 200)])
def test_false_alarms_are_as_rare_as_stated(shards, rows):
    trials, alpha = 40, 0.05
    alarms = 0
    for trial in range(trials):
        rng = np.random.default_rng([trial, shards])
        reference = [measured(rows, rng) for _ in range(shards)]
        report = gate_tables(
            reference, [measured(rows, rng)], alpha=alpha, replicates=199, seed=trial
        )
        alarms += not report.passed
    assert alarms <= at_most(trials, alpha)
