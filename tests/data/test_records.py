"""Conversations and pairs become text and spans by one template, or are refused by file and row."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.config import DataConfig
from data.files import DataError
from data.records import END, render
from data.sources import read_records, units_of

SYSTEM = {"role": "system", "content": "You answer in one word."}
ASK = {"role": "user", "content": "Capital of France?"}
PARIS = {"role": "assistant", "content": "Paris"}
ROME = {"role": "assistant", "content": "Rome"}
WHOLE = (
    "<|system|>\nYou answer in one word.<|end|>\n"
    "<|user|>\nCapital of France?<|end|>\n"
    "<|assistant|>\nParis<|end|>"
)


def read(tmp_path, row, records="conversations", **settings):
    path = tmp_path / "a.jsonl"
    path.write_text("\n" + json.dumps(row))
    config = DataConfig(source="jsonl", path=str(path), records=records, **settings)
    [unit] = units_of(config)
    [record] = read_records(config, unit)
    return record


def refused(tmp_path, row, records="conversations", **settings):
    with pytest.raises(DataError) as caught:
        read(tmp_path, row, records, **settings)
    assert "a.jsonl:2: " in str(caught.value)
    return str(caught.value)


def trained(record):
    """The characters that are trained on, for each text."""
    return [[t[a:b] for a, b in s] for t, s in zip(record.texts, record.spans, strict=True)]


def test_a_conversation_is_one_text_of_which_the_answers_are_trained_on(tmp_path):
    record = read(tmp_path, {"messages": [SYSTEM, ASK, PARIS]})
    assert record.texts == (WHOLE,)
    assert trained(record) == [["Paris<|end|>"]]
    assert record.place.endswith("a.jsonl:2")
    longer = read(tmp_path, {"messages": [ASK, PARIS, ASK, ROME]})
    assert trained(longer) == [["Paris<|end|>", "Rome<|end|>"]]


def test_both_formats_and_a_column_of_another_name_give_the_same_text(tmp_path):
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    sharegpt = [{"from": names[m["role"]], "value": m["content"]} for m in (SYSTEM, ASK, PARIS)]
    assert read(tmp_path, {"conversations": sharegpt}).texts == (WHOLE,)
    row = {"chat": [SYSTEM, ASK, PARIS], "text": "not this", "messages": "nor this"}
    assert read(tmp_path, row, text_column="chat").texts == (WHOLE,)


ROLES = st.sampled_from(["user", "assistant", "system"])
CONTENTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0<"), min_size=1)


@given(st.lists(st.tuples(ROLES, CONTENTS), min_size=1))
def test_spans_are_the_answers_and_what_precedes_each_is_its_question(messages):
    text, spans = render(messages)
    answers = [content for role, content in messages if role == "assistant"]
    assert [text[a:b] for a, b in spans] == [content + END for content in answers]
    positions = [i for i, (role, _) in enumerate(messages) if role == "assistant"]
    for (start, _), position in zip(spans, positions, strict=True):
        if position:
            assert text[:start] == render(messages[:position])[0] + "\n<|assistant|>\n"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages has no message; it must end with an answer"),
        ([ASK], "messages ends with the user; it must end with an answer"),
        ([SYSTEM, PARIS], "messages[1] is of the assistant where the user should speak"),
        ([ASK, ASK, PARIS], "messages[1] is of the user where the assistant should speak"),
        ([ASK, SYSTEM, PARIS], "messages[1] is of the system where the assistant should speak"),
        ([ASK, {"role": "assistant", "content": " "}], "messages[1]: its content is empty (' ')"),
        ([ASK, {"role": "assistant", "content": None}], "messages[1]: its content is of type null"),
        ([ASK, {"role": "assistant"}], "messages[1]: its content is of type null, not a text"),
        ([ASK, {"role": "tool", "content": "x"}], "messages[1]: role 'tool' is not one of system"),
        ([ASK, {"speaker": "x"}], "messages[1] has speaker; it needs role and content"),
        ([ASK, "Paris"], "messages[1] is 'Paris', not an object with role and content"),
        ("Paris", "messages holds 'Paris', not a list of messages"),
        (
            [ASK, {"role": "assistant", "content": "x<|end|>\n<|user|>"}],
            "messages[1]: its content holds <|user|>, a mark of the template",
        ),
        ([ASK, {"role": "assistant", "content": "\ud800"}], "messages[1] holds half of a surro"),
    ],
)
def test_what_is_no_conversation_is_named(tmp_path, messages, message):
    assert message in refused(tmp_path, {"messages": messages})


def test_a_missing_column_names_those_there_are(tmp_path):
    message = refused(tmp_path, {"text": "a", "id": 1})
    assert "needs a column messages or conversations; there are: text, id" in message
    message = refused(tmp_path, {"chosen": "a"}, "preferences")
    assert "needs a column rejected; there are: chosen" in message


PAIRS = [
    {"prompt": ASK["content"], "chosen": "Paris", "rejected": "Rome"},
    {"prompt": [ASK], "chosen": "Paris", "rejected": "Rome"},
    {"prompt": [ASK], "chosen": [PARIS], "rejected": [ROME]},
    {"chosen": [ASK, PARIS], "rejected": [ASK, ROME]},
    {"prompt": ASK["content"], "chosen": [ASK, PARIS], "rejected": [ASK, ROME]},
]


@pytest.mark.parametrize("row", PAIRS)
def test_every_form_of_a_pair_gives_the_same_two_conversations(tmp_path, row):
    record = read(tmp_path, row, "preferences")
    question = "<|user|>\nCapital of France?<|end|>\n<|assistant|>\n"
    assert record.texts == (question + "Paris<|end|>", question + "Rome<|end|>")
    assert trained(record) == [["Paris<|end|>"], ["Rome<|end|>"]]


def test_only_the_last_answer_of_a_longer_pair_is_trained_on(tmp_path):
    before = [SYSTEM, ASK, ROME, ASK]
    row = {"chosen": [*before, PARIS], "rejected": [*before, ROME]}
    assert trained(read(tmp_path, row, "preferences")) == [["Paris<|end|>"], ["Rome<|end|>"]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "a", "rejected": "b"}, "chosen is a text, so a column prompt must say"),
        ({"prompt": "?", "chosen": "a", "rejected": "a"}, "are the same ('a'); drop the pair"),
        ({"prompt": "?", "chosen": "a", "rejected": " "}, "rejected: its content is empty"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "prompt: its content is empty"),
        (
            {"chosen": [ASK, PARIS], "rejected": [SYSTEM, ASK, ROME]},
            "chosen and rejected differ before the last answer, at message 0",
        ),
        (
            {"chosen": [ASK, PARIS], "rejected": [ASK, PARIS, ASK, ROME]},
            "chosen and rejected differ before the last answer, at message 2",
        ),
        ({"chosen": [ASK], "rejected": [ASK]}, "chosen ends with the user"),
        ({"chosen": 5, "rejected": 5}, "chosen holds 5, not a list of messages"),
    ],
)
def test_what_is_no_pair_is_named(tmp_path, row, message):
    assert message in refused(tmp_path, row, "preferences")


def test_tables_hold_conversations_too(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"id": i, "messages": [SYSTEM, ASK, PARIS]} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    config = DataConfig(source="parquet", path=str(tmp_path), records="conversations")
    found = [record for unit in units_of(config) for record in read_records(config, unit)]
    assert [record.texts for record in found] == [(WHOLE,)] * 3
    assert found[2].place.endswith("a.parquet: row 3")


def test_a_contract_holds_for_whole_conversations(tmp_path):
    from data.config import ContractConfig

    row = {"messages": [ASK, PARIS], "id": 5}
    rules = ContractConfig(max_characters=20, columns={"id": "integer"})
    message = refused(tmp_path, row, contract=rules)
    assert "messages has 61 characters, more than data.contract.max_characters=20" in message
    rules.max_characters = 61
    assert read(tmp_path, row, contract=rules).columns == {"id": 5}
