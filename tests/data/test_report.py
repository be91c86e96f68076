import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.filters.report import EXAMPLES, FilterCount, Report

events = st.lists(
    st.tuples(
        st.sampled_from(["see", "drop", "redact"]),
        st.integers(0, 1),
        st.integers(0, 40),
        st.sampled_from(["short", "long", "é | `x`\n# y"]),
    ),
    max_size=40,
)


def filled(steps):
    report = Report([FilterCount("length", "min=2"), FilterCount("words")])
    for kind, number, place, text in steps:
        if kind == "see":
            report.see(number)
        elif kind == "drop":
            report.drop(number, f"f:{place}", text[:5], (text,), text)
        else:
            report.redact(number, f"f:{place}", {"email": 2}, text)
    return report


@given(events, events, events)
def test_merge_is_associative_and_commutative_and_equals_one_report(a, b, c):
    x, y, z = filled(a), filled(b), filled(c)
    assert x.merge(y) == y.merge(x)
    assert x.merge(y).merge(z) == x.merge(y.merge(z)) == filled(a + b + c)
    assert x.merge(Report()) == Report().merge(x) == x


@given(events)
def test_a_report_survives_json(steps):
    report = filled(steps)
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_merge_does_not_change_its_parts():
    a, b = filled([("drop", 0, 1, "short")]), filled([("drop", 0, 2, "long")])
    before = json.dumps(a.to_dict())
    a.merge(b).see(0)
    a.merge(Report()).see(0)
    assert json.dumps(a.to_dict()) == before


def test_reports_of_different_filters_do_not_merge():
    with pytest.raises(ValueError, match="different filters"):
        Report([FilterCount("length")]).merge(Report([FilterCount("words")]))


def test_the_examples_are_bounded_and_not_the_first_ones():
    report = filled([("drop", 0, place, "short") for place in range(1000)])
    places = [int(e.place.removeprefix("f:")) for e in report[0].examples]
    assert len(places) == EXAMPLES
    assert max(places) > 100


def test_bytes_are_those_of_utf8_in_all_texts_of_a_record():
    report = Report([FilterCount("length")])
    report.drop(0, "p", "short", ("é", "abc"), "é")
    assert report["length"].bytes_dropped == 5


@given(events)
def test_every_row_of_the_markdown_table_has_its_columns(steps):
    text = filled(steps).markdown()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", row)) - 1 for row in rows]
    assert set(widths[:4]) == {6}
    assert set(widths[4:]) <= {4}


def test_lines_show_counts_reasons_and_examples():
    report = filled([("see", 0, 0, "")] * 4 + [("drop", 0, 3, "short"), ("redact", 1, 5, "long")])
    lines = report.lines()
    assert lines[0].split() == ["filter", "seen", "dropped", "share", "bytes", "why"]
    assert lines[1].split() == ["length", "min=2", "4", "1", "25.0%", "5", "short:", "1"]
    assert lines[2].strip() == "f:3 (short): short"
    assert lines[3].endswith("redacted email: 2")
    assert len({line.index("seen") for line in lines[:1]}) == 1
