"""Ranked answers: of a rule over Python's documentation, and in files."""

import json
from collections import Counter
from itertools import islice, pairwise

import pytest

from data.files import DataError
from data.sources.rankings import file_rankings, python_preferences, python_rankings


def most_words(prompt, answer, reference):
    return len(answer.split())


def test_built_in_answers_stand_in_the_order_of_the_rule_and_share_their_question():
    found = list(islice(python_rankings(0, most_words, 4), 500))
    assert Counter(len(own.answers) for own in found)[4] > 300
    for own in found:
        assert all(a > b for a, b in pairwise(own.scores))
        for messages, score in zip(own.answers, own.scores, strict=True):
            assert messages[0] == own.answers[0][0]
            assert most_words("", messages[1][1], "") == score
    pairs = list(islice(python_preferences(0, most_words), 500))
    for pair in pairs:
        assert most_words("", pair.chosen[1][1], "") > most_words("", pair.rejected[1][1], "")
    assert pairs == list(islice(python_preferences(0, most_words), 500)), "the seed decides"
    longer = sum(pair.chosen[1][1] == pair.reference for pair in pairs)
    assert 0 < longer < len(pairs) / 2, "the right answer is neither always there nor the best"


def test_a_rule_that_rates_all_alike_ranks_nothing():
    assert list(islice(python_rankings(0, lambda *_: 1.0, 4), 1)) == []


def written(folder, row):
    (folder / "own.jsonl").write_text(json.dumps(row))
    return str(folder / "own.jsonl")


def test_pairs_rankings_and_ratings_are_read_from_files(tmp_path):
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.5},
        {"prompt": "a", "answers": ["b", "c", "d"]},
        {"prompt": "a", "answer": "b", "rating": 4},
    ]
    pair, ranking, rating = (next(file_rankings(written(tmp_path, row))) for row in rows)
    assert [messages[-1][1] for messages in pair.answers] == ["b", "c"]
    assert (pair.margin, pair.scores, pair.key) == (0.5, None, "a")
    assert [messages[-1][1] for messages in ranking.answers] == ["b", "c", "d"]
    assert (rating.scores, len(rating.answers)) == ((4.0,), 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "a", "chosen": "b", "rejected": "b"},
            "1: chosen and rejected are the same",
        ),
        ({"prompt": "a", "answers": ["b"]}, "row 1: answers must be a list of two answers or more"),
        ({"prompt": "a", "answers": ["b", "b"]}, "row 1: answers holds an answer twice"),
        ({"prompt": "a", "answer": "b", "rating": float("nan")}, "rating is nan, and must be"),
        (
            {"prompt": "a", "answer": "b", "rating": "good"},
            "rating is 'good', and must be",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1}, "margin is -1.0, and must"),
        ({"prompt": "a", "answer": "b"}, "it needs columns chosen and rejected, or answers, or"),
        (
            {"chosen": [{"role": "user", "content": "a"}], "rejected": []},
            "chosen ends with the user; it must end with an answer",
        ),
    ],
)
def test_a_row_that_ranks_nothing_is_named_with_what_is_wrong(row, message, tmp_path):
    with pytest.raises(DataError, match=message):
        list(file_rankings(written(tmp_path, row)))
