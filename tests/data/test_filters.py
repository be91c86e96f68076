import pickle
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.files import DataError
from data.filters import FILTERS, filters_of
from data.filters.content import SCORERS, language_model, spread
from data.filters.report import Report
from data.records import Record

ENGLISH = "This is a plain English sentence about the weather of last week and the next one."
GERMAN = "Das ist ein einfacher deutscher Satz über das Wetter der letzten und nächsten Woche."


def records(*texts, **columns):
    return [Record((text,), f"f.txt:{n}", (), columns) for n, text in enumerate(texts, start=1)]


def kept(settings, given_records):
    filters = filters_of(settings)
    report = filters.report()
    return [row for row, _ in filters.apply(given_records, report)], report


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["length"], "data.filters[0]=length must be a name with options; write {name: length}"),
        ([{"min": 3}], "data.filters[0]={'min': 3} has no name; write {name: length, min: 20}"),
        ([{"name": "lenght"}], "data.filters[0].name=lenght is not one of length, repetition"),
        ([{"name": "lenght"}], "did you mean length?"),
        ([{"name": "length", "mni": 3}], "data.filters[0].mni=3 is not an option; there are: min"),
        ([{"name": "length", "mni": 3}], "did you mean min?"),
        ([{"name": "length", "min": "x"}], "data.filters[0].min='x' must be a whole number or nul"),
        ([{"name": "length", "min": 1.5}], "data.filters[0].min=1.5 must be a whole number"),
        ([{"name": "length", "min": True}], "data.filters[0].min=True must be a whole number"),
        ([{"name": "length", "min": -1}], "data.filters[0].min=-1 must be at least 0; for example"),
        ([{"name": "length"}], "data.filters[0]: length sets no limit"),
        (
            [{"name": "length", "min": 1}, {"name": "repetition", "top_2_grams": 2}],
            "data.filters[1].top_2_grams=2 must be from 0 to 1; for example {name: repetition",
        ),
        (
            [{"name": "symbols", "max_bullet_lines": float("nan")}],
            "data.filters[0].max_bullet_lines=nan must be a number",
        ),
        ([{"name": "language"}], "data.filters[0].keep=[] names no language"),
        ([{"name": "language", "keep": "en"}], "data.filters[0].keep='en' must be a list of text"),
        ([{"name": "language", "keep": ["eng"]}], "data.filters[0].keep=eng is not one of the"),
        ([{"name": "words"}], "words needs either words or file, not both"),
        ([{"name": "words", "words": ["a", "?!"]}], "'?!' in the list has no letter or digit"),
        (
            [{"name": "words", "file": "/no/file"}],
            "data.filters[0].file=/no/file: there is no such",
        ),
        ([{"name": "score", "max": 1}], "score needs either column or scorer"),
        ([{"name": "score", "column": "a"}], "score sets no limit"),
        ([{"name": "score", "column": "a", "min": 2, "max": 1}], "min=2.0 must be at most max=1.0"),
        ([{"name": "score", "scorer": "os.system", "max": 1}], "scorer=os.system is not register"),
        (
            [{"name": "score", "column": "a", "max": 1, "missing": "skip"}],
            "missing=skip is not one",
        ),
        ([{"name": "personal", "action": "hide"}], "action=hide is not one of redact, drop"),
        ([{"name": "personal", "kinds": ["fone"]}], "kinds=fone is not one of email"),
        ([{"name": "personal", "kinds": []}], "data.filters[0].kinds=[] looks for nothing"),
        ([{"name": "near_duplicates", "threshold": 2}], "threshold=2 must be from 0.3 to 1"),
        ([{"name": "exact_duplicates", "min": 2}], "min=2 is not an option; there are: none"),
        (
            [{"name": "near_duplicates"}, {"name": "length", "min": 1}],
            "write them as length, near_duplicates",
        ),
        (
            [{"name": "near_duplicates"}, {"name": "exact_duplicates"}],
            "write them as exact_duplicates, near_duplicates",
        ),
        ([{"name": "near_duplicates"}] * 2, "names near_duplicates 2 times; keep one"),
    ],
)
def test_settings_that_cannot_be_used_are_errors_that_name_the_entry(settings, message):
    with pytest.raises(DataError, match=re.escape(message)):
        filters_of(settings)


def test_messages_name_the_setting_that_the_filters_come_from():
    with pytest.raises(DataError, match=r"data\.datasets\.web\.filters\[0\]\.min='x'"):
        filters_of([{"name": "length", "min": "x"}], "data.datasets.web.filters")


@pytest.mark.parametrize("name", FILTERS)
def test_the_example_that_messages_give_is_of_that_filter(name):
    assert FILTERS[name].example.startswith(f"{{name: {name}")


def test_filters_run_in_the_declared_order_and_each_sees_what_the_one_before_kept():
    settings = [{"name": "length", "min": 3}, {"name": "words", "words": ["bad"]}]
    rows, report = kept(settings, records("ok then", "a", "bad", "so bad", "fine"))
    assert rows == [0, 4]
    assert [(f.name, f.seen, f.dropped) for f in report.filters[:2]] == [
        ("length", 5, 1),
        ("words", 4, 2),
    ]
    assert [f.name for f in report.filters] == ["length", "words", "no_text", "exact_duplicates"]
    assert report["length"].reasons == {"fewer than 3 characters": 1}
    assert [e.place for e in report["length"].examples] == ["f.txt:2"]


def test_a_pair_is_left_out_when_one_of_its_texts_is():
    pairs = [Record(("good", "good"), "p:1"), Record(("good", "bad"), "p:2")]
    rows, report = kept([{"name": "words", "words": ["bad"]}], pairs)
    assert rows == [0]
    assert report["words"].bytes_dropped == 7
    assert report["words"].examples[0].excerpt == "bad"


def test_a_later_filter_sees_the_redacted_text():
    settings = [{"name": "personal"}, {"name": "words", "words": ["jane"]}]
    rows, report = kept(settings, records("jane@mail.com wrote", "jane wrote"))
    assert rows == [0]
    assert report["personal"].redactions == {"email": 1}
    assert report["personal"].redacted == 1
    assert report["personal"].dropped == 0


FAST = [
    {"name": "length", "min": 4},
    {"name": "personal", "kinds": ["email"]},
    {"name": "words", "words": ["bad"]},
    {"name": "score", "scorer": "vowels", "max": 0.9},
    {"name": "repetition"},
    {"name": "near_duplicates"},
]
texts = st.lists(st.sampled_from(["a", "bad", "good", "a@b.de", "text", "\n"]), max_size=8)


@pytest.fixture(scope="module")
def vowels():
    SCORERS["vowels"] = lambda text: sum(c in "aeiou" for c in text) / max(1, len(text))
    yield
    del SCORERS["vowels"]


@given(st.lists(texts.map(" ".join), max_size=12), st.lists(st.integers(0, 12), max_size=3))
def test_no_record_is_lost_between_filters_and_cuts_do_not_matter(vowels, drawn, cuts):
    filters = filters_of(FAST)
    all_records = records(*drawn)
    whole = filters.report()
    result = list(filters.apply(all_records, whole))
    for one, next_ in pairwise(whole.filters):
        if next_.name != "no_text":
            assert next_.seen == one.seen - one.dropped
            assert sum(one.reasons.values()) == one.dropped
        else:
            assert one.seen - one.dropped == len(result)
            break
    bounds = sorted({0, *(min(c, len(drawn)) for c in cuts), len(drawn)})
    merged, parts = Report(), []
    for start, stop in pairwise(bounds):
        report = filters.report()
        unit = filters.apply(all_records[start:stop], report)
        parts += [(start + row, record) for row, record in unit]
        merged = report.merge(merged)
    assert parts == result
    assert merged == (whole if len(bounds) > 1 else Report())


def test_the_language_of_a_text_decides():
    settings = [{"name": "language", "keep": ["en"], "min_probability": 0.5}]
    rows, report = kept(settings, records(ENGLISH, GERMAN, "x"))
    assert rows == [0]
    assert report["language"].reasons["language de"] == 1


def test_an_unlikely_language_is_left_out():
    probability = language_model().classify("weather today")[1]
    settings = [{"name": "language", "keep": language_model().labels}]
    for minimum, expected in ((probability - 0.001, [0]), (probability + 0.001, [])):
        bounded = [{**settings[0], "min_probability": minimum}]
        assert kept(bounded, records("weather today"))[0] == expected


def test_of_a_long_text_parts_from_start_to_end_are_looked_at():
    text = "".join(chr(0x4E00 + n) for n in range(5000))
    seen = spread(text, 400)
    assert len(seen) == 403
    assert seen.startswith(text[:100])
    assert seen.endswith(text[-100:])
    assert all(part in text for part in seen.split("\n"))
    assert spread("short", 400) == "short"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Bad, BAD and bad!", 3),
        ("badly embad", 0),
        ("a red  APPLE, a red-apple, red apples", 2),
        ("STRASSE straße", 2),
    ],
)
def test_listed_words_match_whole_and_without_case(text, count):
    listed = ["bad", "Red Apple", "Straße"]
    for limit in range(4):
        settings = [{"name": "words", "words": listed, "max_matches": limit}]
        assert kept(settings, records(text))[0] == ([0] if count <= limit else [])


def test_a_word_list_is_read_from_a_file_and_is_part_of_the_recipe(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("bad\n\nworse\n", encoding="utf-8")
    settings = [{"name": "words", "file": str(file)}]
    assert kept(settings, records("worse", "fine"))[0] == [1]
    before = filters_of(settings).recipe()
    assert before == filters_of(settings).recipe()
    file.write_text("bad\n", encoding="utf-8")
    assert filters_of(settings).recipe() != before
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="is empty"):
        filters_of(settings)


def test_every_option_is_part_of_the_recipe():
    recipes = [
        filters_of([{"name": "length", "min": 1, **more}]).recipe()
        for more in ({}, {"max": 2}, {"min_words": 1})
    ]
    recipes.append(filters_of([{"name": "near_duplicates"}]).recipe())
    recipes.append(filters_of([{"name": "near_duplicates", "threshold": 0.7}]).recipe())
    assert len({str(recipe) for recipe in recipes}) == len(recipes)


def test_a_score_column_is_compared_and_named_to_the_reader():
    settings = [{"name": "score", "column": "toxicity", "min": 0.1, "max": 0.5}]
    assert filters_of(settings).columns == ("toxicity",)
    rows = [Record(("t",), f"a:{n}", (), {"toxicity": v}) for n, v in enumerate((0.1, 0.5, 0, 1))]
    left, report = kept(settings, rows)
    assert left == [0, 1]
    assert report["score"].reasons == {"toxicity under 0.1": 1, "toxicity over 0.5": 1}


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_missing_score_stops_keeps_or_drops(value):
    settings = {"name": "score", "column": "t", "max": 1}
    row = [Record(("text",), "a.jsonl:7", (), {"t": value})]
    with pytest.raises(DataError, match=r"a\.jsonl:7: t is .*, not a score"):
        kept([settings], row)
    assert kept([{**settings, "missing": "keep"}], row)[0] == [0]
    assert kept([{**settings, "missing": "drop"}], row)[0] == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"toxic": 1}, r"a:1: there is no column toxicity .* toxic; did you mean toxic\?"),
        ({"toxicity": "0.2"}, r"a:1: toxicity='0\.2' is not a number"),
        ({"toxicity": True}, r"a:1: toxicity=True is not a number"),
    ],
)
def test_a_column_that_is_no_score_is_an_error(columns, message):
    with pytest.raises(DataError, match=message):
        kept(
            [{"name": "score", "column": "toxicity", "max": 1}],
            [Record(("t",), "a:1", (), columns)],
        )


def test_filters_can_be_sent_to_another_process(tmp_path):
    file = tmp_path / "e.txt"
    file.write_text("a text to keep out", encoding="utf-8")
    filters = filters_of([{"name": "decontaminate", "paths": [str(file)]}, {"name": "personal"}])
    rows = records("A text to keep out!", "fine")
    assert [row for row, _ in filters.apply(rows, filters.report())] == [1]
    sent = pickle.loads(pickle.dumps(filters))
    assert [row for row, _ in sent.apply(rows, sent.report())] == [1]
    assert len(pickle.dumps(filters)) < 2000


def test_without_filters_all_records_pass():
    rows, report = kept([], records("a", ""))
    assert rows == [0, 1]
    assert [f.name for f in report.filters] == ["no_text", "exact_duplicates"]
