import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.messages import check_choice, cut, did_you_mean, listed, override, shown

LONG = "x" * 10**6


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        b"x" * 10**6,
        10**6000,
        [["x" * 10**6] * 9] * 9,
        {"k" * 10**6: {"a": [1] * 10**6}},
    ],
    ids=["text", "bytes", "number", "list", "object"],
)
def test_a_value_in_a_message_is_short(value):
    assert len(shown(value)) < 60
    assert len(cut("x" * 10**6)) == 43


def test_short_values_stand_as_they_are():
    for value in ("a", 5, [1, "a"], {"a": 1, "b": None}, b"raw", None, 0.5, [], [[], {}]):
        assert shown(value) == repr(value)
    assert shown({"a": [1], "b": {"c": 2}}) == "{'a': [...], 'b': {...}}"
    assert cut("one\ttwo\n\udce9") == "one\\ttwo\\n\\udce9"


def test_lists_of_names_say_how_many_more_there_are():
    assert listed([]) == "none"
    assert listed("abc") == "a, b, c"
    assert listed(range(1000)) == "0, 1, 2, 3, 4, 5, 6, 7 and 992 more"
    assert len(listed(["x" * 10**6] * 1000)) < 500


def test_nobody_is_told_that_the_very_name_may_be_meant():
    assert did_you_mean("jsonl", ["jsonl"]) == ""
    assert did_you_mean("jsnol", ["jsonl", "text"]) == "; did you mean jsonl?"
    assert did_you_mean("x" * 10**6, ["x" * 10**6 + "y"]) == ""
    with pytest.raises(ValueError, match=r"source=x{40}\.\.\. is not one of a, b$"):
        check_choice("source", "x" * 10**6, ("a", "b"))


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_characters="\0\r\n$", exclude_categories=["Cs"])))
def test_an_override_that_is_to_be_pasted_gives_the_very_value(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    [word] = shlex.split(override("data.path", value))
    parsed = OverridesParser.create().parse_override(word).value()
    assert isinstance(parsed, str) is False or parsed == value
    assert str(parsed) == value or value.strip("+-_.").isalnum()  # 1e5, true: the schema keeps them
