import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.preparation import words
from data.preparation.words import LONGEST_WORD, ShortWords, WordIds, splits_as_gpt2
from data.tokenizer import Tokenizer

# Letters, marks, digits, white space and signs of many scripts, and what the pattern names.
PIECES = st.sampled_from(
    [
        *"abzAZ019_'-.\"#\t\n\v\f\r \x00\x1b\x1c\x1f\x7f\x85\xa0\u1680\u2003\u200b\u180e\u3000",
        *"éßıªº²½Ⅷ٣ñ́ʰ“”…—€日本語かдаأ한🙂\u2018\u2019\u200d\ufeff\ufffd",
        *("'s", "'re", "'LL", "'", "  ", "\n\n", " \n ", "the", " cat", "<|endoftext|>", "2024"),
    ]
)
ENGLISH = str(json.__doc__) + str(pytest.__doc__) + str(st.__doc__)
TEXTS = st.lists(PIECES | st.characters(exclude_categories=["Cs"]), max_size=40).map("".join)


@pytest.fixture(scope="module")
def trained():
    return Tokenizer.train(iter([ENGLISH, "über\u2019s naïve café — 日本 даß 12 it's"] * 3), 600)


def ids_of(word_ids, text):
    return np.frombuffer(word_ids.of_text(text), np.uint32).tolist()


@settings(max_examples=600, deadline=None)
@given(text=TEXTS)
@example(text="it's we'll ''s 's'")
@example(text="a  b\n\n c \n\td   ")
@example(text="x\u2019s \u2018y\u2019 a-é z")
def test_the_ids_are_those_of_the_library(trained, text):
    found = ids_of(WordIds(trained), text)
    assert found == trained.bpe.encode(text, add_special_tokens=False).ids


def test_what_is_remembered_is_bounded_and_shows_in_no_id(trained, monkeypatch):
    monkeypatch.setattr(words, "MOST_BYTES", 20 * words.COST)
    few, all_of_them = WordIds(trained), set()
    for line in ENGLISH.splitlines():
        assert ids_of(few, line) == trained.encode(line)
        all_of_them |= few.keys()
        assert len(few) <= 20
    assert len(all_of_them) > 20


def test_only_tokenizers_that_do_nothing_but_merge_the_words_of_gpt2_are_taken(trained):
    assert splits_as_gpt2(trained)
    assert not splits_as_gpt2(Tokenizer.plain_bytes())
    others = {
        "pre_tokenizer": {"type": "Whitespace"},
        "normalizer": {"type": "NFC"},
        "added_tokens": [
            *json.loads(trained.json)["added_tokens"],
            {"id": 600, "content": "cat", "special": False, "single_word": False, "lstrip": False}
            | {"rstrip": False, "normalized": False},
        ],
    }
    for name, value in others.items():
        assert not splits_as_gpt2(Tokenizer(json.loads(trained.json) | {name: value}, name))
    prefixed = json.loads(trained.json)
    prefixed["pre_tokenizer"]["add_prefix_space"] = True
    assert not splits_as_gpt2(Tokenizer(prefixed, "prefixed"))


@pytest.mark.parametrize("word", ["a", "é", "7", "-", "_", "\n", "日"])
def test_training_sees_no_word_that_is_too_long_and_every_other_text_as_it_is(word):
    usual = [ENGLISH, word * LONGEST_WORD, f"a b{word * 10}\n" * 500, "", "x1" * LONGEST_WORD]
    long = [f"of {word * (3 * LONGEST_WORD + 5)} and {word * (LONGEST_WORD + 1)}", ENGLISH]
    short = ShortWords([*usual, *long])
    found = list(short)
    assert "".join(found) == "".join([*usual, *long])
    kept = [text for text in found if text]
    assert kept[: len(usual) - 2] == [text for text in usual if text][: len(usual) - 2]
    assert not any(word * (LONGEST_WORD + 1) in text for text in found)
    assert short.cut == 2
