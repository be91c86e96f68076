import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.decoding import TextStream


def of_bytes(tokens):
    return bytes(tokens).decode("utf-8", errors="replace")


def pieces(text, stops=(), decode=of_bytes, tokens=None):
    stream = TextStream(decode, stops)
    out = []
    for token in text.encode() if tokens is None else tokens:
        out.append(stream.push(token))
        if stream.stopped:
            break
    return [*out, stream.finish()], stream.stopped


@settings(max_examples=80, deadline=None)
@given(
    text=st.text(alphabet="abc é漢👍\n", max_size=30),
    stops=st.lists(st.text(alphabet="abcé漢", min_size=1, max_size=4), max_size=3),
)
def test_the_text_goes_up_to_the_first_stop_string(text, stops):
    out, stopped = pieces(text, stops)
    # The stop string that is complete first ends the text, as a reader of the stream sees it.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert stopped == bool(ends)
    if ends:
        first = text[: min(ends)]
        assert "".join(out) == first[: min(first.find(s) for s in stops if s in first)]
    else:
        assert "".join(out) == text


def test_a_piece_never_holds_half_a_character_or_part_of_a_stop_string():
    out, stopped = pieces("é 漢 EN END!", ["END"])
    assert stopped
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in out)
    assert "".join(out) == "é 漢 EN "
    assert out.index("é") == 1  # as soon as it is whole


def test_bytes_that_never_become_a_character_are_shown_at_the_end():
    out, _ = pieces("", tokens=[97, 0xE6, 0xBC])
    assert out == ["a", "", "", "\N{REPLACEMENT CHARACTER}"]


def test_a_tokenizer_that_drops_the_first_space_of_a_text_keeps_the_others():
    words = [" one", " two", " three"]
    out, _ = pieces("", decode=lambda ts: "".join(words[t] for t in ts)[1:], tokens=[0, 1, 2])
    assert out == ["one", " two", " three", ""]


def test_stop_strings_across_the_tokens_of_a_trained_tokenizer():
    from data import Tokenizer

    text = "The model reads the shard and the model writes the shard again. " * 20
    tokenizer = Tokenizer.train([text], 300)
    tokens = tokenizer.encode(text)
    draw = random.Random(0)
    for _ in range(20):
        start = draw.randrange(10, 200)
        stop = text[start : start + draw.randrange(2, 12)]
        out, stopped = pieces("", [stop], tokenizer.decode, tokens)
        assert stopped
        assert "".join(out) == text[: text.find(stop)]


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="a stop string is empty"):
        TextStream(of_bytes, ["x", ""])
