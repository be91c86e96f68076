"""Each rule of a contract stops the record that breaks it, and says what to set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.config import ContractConfig
from data.contract import Contract, check_utf8, column_changes
from data.files import DataError

VALUES = {
    "string": "a",
    "integer": 5,
    "number": 0.5,
    "boolean": True,
    "list": [1],
    "object": {"a": 1},
}


def broken(rules, row):
    with pytest.raises(DataError) as caught:
        Contract(rules).check(row)
    return str(caught.value)


@pytest.mark.parametrize("asked", VALUES)
@pytest.mark.parametrize("found", VALUES)
def test_a_value_has_the_type_of_its_column_and_no_other(asked, found):
    rules = ContractConfig(columns={"x": asked})
    row = {"x": VALUES[found], "other": object()}
    if asked == found or (asked, found) == ("number", "integer"):
        assert Contract(rules).check(row) == row
    else:
        message = broken(rules, row)
        assert f"data.contract.columns says {asked}" in message
        assert f"set data.contract.columns.x={found}" in message


def test_a_column_must_be_there_but_may_be_null_unless_it_may_not():
    rules = ContractConfig(columns={"lang": "string"})
    assert Contract(rules).check({"lang": None})
    message = broken(rules, {"text": "a", "langs": "en"})
    assert "data.contract.columns=lang is not a column; there are: text, langs" in message
    message = broken(ContractConfig(not_null=["lang"]), {"lang": None})
    assert "lang is null, but data.contract.not_null names it" in message
    assert "data.contract.not_null=lang is not a column" in broken(
        ContractConfig(not_null=["lang"]), {"text": "a"}
    )


def test_long_values_are_shortened_in_messages():
    message = broken(ContractConfig(columns={"x": "integer"}), {"x": "long " * 9999})
    assert "long ..." in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("rules", "text", "message"),
    [
        ({"max_characters": 5}, "abcdef", "body has 6 characters, more than data.contract.max_ch"),
        ({"max_characters": 5}, "abcdef", "set data.contract.max_characters=6"),
        ({"not_empty": True}, " \n", "body is empty (' \\n'), but data.contract.not_empty=true"),
        ({}, "a\udc80", "body holds half of a surrogate pair (U+DC80 at character 1)"),
        ({}, "ab\0", "body holds a NUL (U+0000 at character 2)"),
        ({}, "äb\0", "body holds a NUL (U+0000 at character 2)"),
    ],
)
def test_a_text_that_breaks_a_rule_is_named(rules, text, message):
    contract = Contract(ContractConfig(**rules))
    contract.check_texts(("abcde", "ä", ""[:0] or "x"), ("a", "b", "c"))
    with pytest.raises(DataError) as caught:
        contract.check_texts(("fine", text), ("a", "body"))
    assert message in str(caught.value)


@given(st.text(st.characters()))
def test_a_text_passes_exactly_if_a_utf8_file_can_hold_it(text):
    try:
        allowed = "\0" not in text and text.encode("utf-8").decode("utf-8") == text
    except UnicodeEncodeError:
        allowed = False
    if allowed:
        check_utf8(text, "text")
    else:
        with pytest.raises(DataError):
            check_utf8(text, "text")


def test_changes_name_what_came_went_and_is_of_another_type():
    first = {"a": "string", "b": "integer", "c": "null"}
    assert column_changes(first, first) == []
    assert column_changes(first, {"b": "string", "c": "list", "d": "number"}) == [
        "column a (string) went",
        "column d (number) came",
        "column b was integer and is string",
    ]
