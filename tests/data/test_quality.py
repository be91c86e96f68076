from collections import Counter
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.files import DataError
from data.filters.quality import Length, Repetition, Symbols, duplicates, repeated_ngrams
from data.filters.rules import rule_of


def slow_repeated_ngrams(words):
    """Character by character: which characters stand in the top or the repeated n-grams."""
    total = sum(map(len, words))
    shares = {}
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(grams)
        most = max(counts.values(), default=0)
        if most < 2:
            continue
        if n <= 4:
            often = [g for g in grams if counts[g] == most]
            longest = max(len("".join(g)) for g in often)
            top = next(g for g in often if len("".join(g)) == longest)
            wanted, kind = {top}, "top"
        else:
            wanted, kind = {g for g in grams if counts[g] > 1}, "duplicate"
        covered = {i + k for i, gram in enumerate(grams) if gram in wanted for k in range(n)}
        shares[kind, n] = sum(len(words[i]) for i in covered) / total
    return shares


@given(st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "Zoë"]), min_size=1, max_size=60))
def test_shares_of_repeated_ngrams_are_those_of_a_slow_loop(words):
    fast = {(kind, n): value for kind, n, value in repeated_ngrams(words)}
    assert fast == pytest.approx(slow_repeated_ngrams(words))


@given(st.lists(st.integers(), max_size=20, unique=True))
def test_a_text_without_repetition_has_no_repeated_ngrams(numbers):
    assert list(repeated_ngrams([f"w{n}" for n in numbers])) == []


def test_duplicate_lines_count_from_the_second_time_on():
    assert duplicates(["aa", "b", "aa", "aa"]) == (0.5, 4 / 7)
    assert duplicates(["aa", "b"]) == (0.0, 0.0)
    assert duplicates([]) == (0.0, 0.0)


def unique_words(count, prefix="word"):
    return " ".join(f"{prefix}{number}" for number in range(count))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (unique_words(100), None),
        ("", None),
        ("one", None),
        ("same line\n" * 3 + unique_words(100), "duplicate lines over 0.3"),
        # 1 of 4 lines repeats, but it holds over a fifth of the characters.
        (f"{unique_words(9)}\nb\nc\n{unique_words(9)}", "characters in duplicate lines over 0.2"),
        ("a\nb\n\nc\nd\n\na\nb\n\ne\nf", "characters in duplicate lines over 0.2"),
        # 4 of 8 words are in the top 2-gram, all words of equal length.
        ("aa bb cc dd aa bb ee ff", "top 2-grams over 0.2"),
    ],
)
def test_repetition_names_the_first_rule_that_a_text_breaks(text, reason):
    found = Repetition().find(text)
    assert (found.reason if found else None) == reason


def test_a_limit_of_one_switches_a_rule_of_repetition_off():
    options = {field.name: 1 for field in fields(Repetition)}
    assert rule_of(Repetition, options, "x").find("again and " * 100) is None


def test_duplicate_ngrams_are_dropped_at_the_share_of_the_paper():
    # 5 words of 7 characters twice in 100 such words: 10% of the characters; thrice: 15%.
    phrase = " ".join(f"phrase{n}" for n in range(5))
    for times, kept in ((2, True), (3, True), (4, False)):
        rest = [f"other{n:02}" for n in range(100 - 5 * times)]
        text = " ".join(f"{' '.join(rest[k::times])} {phrase}" for k in range(times))
        limits = rule_of(Repetition, {f"top_{n}_grams": 1 for n in (2, 3, 4)}, "x")
        found = limits.find(text)
        assert (found is None) == kept, times
        if found:
            assert found.reason == "duplicate 5-grams over 0.15"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Ten plain words make up this text about nothing much.", None),
        ("", "no words"),
        ("a b c", "mean word length under 3"),
        ("incomprehensibilities notwithstanding", "mean word length over 10"),
        ("#one #two three four five", "number signs per word over 0.1"),
        ("word... word… word word word", "ellipses per word over 0.1"),
        ("word 1234 word 5678 word", "words without letters over 0.2"),
        ("word 1234 word word word", None),
        (
            "\n".join(f"{mark} every item here begins like this" for mark in "-*•"),
            "bullet lines over 0.9",
        ),
        (
            "\n".join(["word " * 9 + "word..."] * 2 + ["more words here"] * 3),
            "ellipsis lines over 0.3",
        ),
    ],
)
def test_symbols_names_the_first_rule_that_a_text_breaks(text, reason):
    found = Symbols().find(text)
    assert (found.reason if found else None) == reason


@pytest.mark.parametrize(
    ("options", "text", "reason"),
    [
        ({"min": 3}, "ab", "fewer than 3 characters"),
        ({"min": 3}, "abc", None),
        ({"max": 3}, "abcd", "more than 3 characters"),
        ({"max": 3}, "äöü", None),
        ({"min_words": 2}, "one", "fewer than 2 words"),
        ({"min_words": 2}, "one two", None),
        ({"max_words": 2}, "one two three", "more than 2 words"),
        ({"min": 0}, "", None),
    ],
)
def test_length_keeps_what_reaches_its_limits(options, text, reason):
    found = rule_of(Length, options, "x").find(text)
    assert (found.reason if found else None) == reason


def test_lower_limits_above_upper_ones_are_refused():
    with pytest.raises(DataError, match=r"here\.min=5 must be at most max=2"):
        rule_of(Length, {"min": 5, "max": 2}, "here")
    with pytest.raises(DataError, match=r"here\.min_mean_word=5\.0 must be at most max"):
        rule_of(Symbols, {"min_mean_word": 5, "max_mean_word": 2}, "here")
