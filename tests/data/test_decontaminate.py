import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.files import DataError
from data.filters.decontaminate import Decontaminate
from data.filters.rules import rule_of
from data.filters.words import hash_ngrams, hash_words, normal_words

SENTENCE = "The quick brown fox jumps over the lazy dog while seven wizards watch in silence."


def rule(path, **options):
    return rule_of(Decontaminate, {"paths": [str(path)], **options}, "data.filters[0]")


@pytest.fixture
def evaluation(tmp_path):
    file = tmp_path / "questions.jsonl"
    rows = [{"question": SENTENCE, "choices": ["Yes it is", {"deep": "forty two"}], "id": 3}]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    return file


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_not(evaluation):
    words = SENTENCE.split()
    filter_ = rule(evaluation)
    text = "Before. " * 100 + " ".join(words[:13]) + " after"
    found = filter_.find(text)
    assert found.reason == "overlaps with questions.jsonl"
    assert text[found.at :].startswith("The quick brown")
    assert filter_.find("Before. " + " ".join(words[:12]) + " after") is None


def test_case_and_punctuation_do_not_hide_an_overlap(evaluation):
    disguised = SENTENCE.upper().replace(" ", ", ") + " And more."
    assert rule(evaluation).find(disguised).reason == "overlaps with questions.jsonl"


def test_a_short_text_matches_only_as_a_whole(evaluation):
    filter_ = rule(evaluation)
    assert filter_.find("forty-two!").reason == "the same as a text of questions.jsonl"
    assert filter_.find("forty two apples") is None
    assert filter_.find("") is None
    assert filter_.find("?!") is None


def test_fields_limit_what_is_compared(evaluation):
    assert rule(evaluation, fields=["choices"]).find(SENTENCE) is None
    assert rule(evaluation, fields=["question"]).find("forty two") is None


def test_paragraphs_of_a_text_file_are_its_texts(tmp_path):
    file = tmp_path / "tests.txt"
    file.write_text("first text\n\nsecond text\n \nthird", encoding="utf-8")
    filter_ = rule(file)
    assert filter_.find("Second text.") is not None
    assert filter_.find("first text second text") is None


def test_the_number_and_the_share_of_overlaps_can_be_required(evaluation):
    # Thirteen-grams: the sentence of 15 words has 3 of them.
    text = f"{SENTENCE} {' '.join(f'word{n}' for n in range(27))}"  # 30 13-grams, 3 overlap
    assert len(hash_ngrams(hash_words(normal_words(text)), 13)) == 30
    assert rule(evaluation, min_matches=3, min_fraction=0.1).find(text) is not None
    assert rule(evaluation, min_matches=4).find(text) is None
    assert rule(evaluation, min_fraction=0.11).find(text) is None


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from("abcd"), max_size=40), st.lists(st.sampled_from("abcd"), min_size=1)
)
def test_overlaps_are_those_of_a_slow_search(tmp_path_factory, words, evaluation_words):
    file = tmp_path_factory.mktemp("sets") / "e.txt"
    file.write_text(" ".join(evaluation_words), encoding="utf-8")
    grams = {tuple(evaluation_words[i : i + 4]) for i in range(len(evaluation_words) - 3)}
    expected = any(tuple(words[i : i + 4]) in grams for i in range(len(words) - 3))
    expected |= words == evaluation_words
    assert (rule(file, n=4).find(" ".join(words)) is not None) == expected


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("gone.txt", None, {}, r"data\.filters\[0\]\.paths=.*gone\.txt: there is no such file"),
        ("empty.txt", " \n", {}, r"has no word to compare with: empty"),
        ("bad.jsonl", "[1]\n", {}, r"bad\.jsonl:1: a JSON list, not an object"),
        ("bad.jsonl", '{"a": 1}\n{"a"\n', {}, r"bad\.jsonl:2: is not JSON"),
        ("f.jsonl", '{"a": "x"}', {"fields": ["b"]}, r"f\.jsonl:1: there is no field b; .* a"),
        ("f.jsonl", '{"a": 7}', {"fields": ["a"]}, r"no text in the fields a"),
    ],
)
def test_evaluation_sets_that_cannot_be_used_are_errors(tmp_path, name, content, options, message):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        rule(tmp_path / name, **options)


def test_paths_must_be_given():
    with pytest.raises(DataError, match="names no file"):
        rule_of(Decontaminate, {}, "data.filters[0]")
