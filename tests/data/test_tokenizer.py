import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import models, normalizers, pre_tokenizers, trainers

from data.files import DataError
from data.tokenizer import Tokenizer, TokenizerConfig, load_or_train, vocab_size

TEXTS = ["the cat sat on the mat. " * 20, "where is the hat? über allen\n\n" * 20, "0 1 2 3 " * 9]
NASTY = "a<|endoftext|>b \x00\x7f\t  é 日本 👩‍👩‍👧 \u202e\r\n <|endoftext|>"


@pytest.fixture(scope="module")
def bpe():
    return Tokenizer.train(iter(TEXTS), 290)


def both(bpe):
    return [bpe, Tokenizer.plain_bytes()]


def test_any_text_comes_back_and_never_makes_end_of_text(bpe):
    for tokenizer in both(bpe):
        ids = tokenizer.encode(NASTY)
        assert tokenizer.decode(ids) == NASTY
        assert tokenizer.end_of_text not in ids
        assert 0 <= min(ids) <= max(ids) < tokenizer.vocab_size


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40))
def test_round_trip_holds_for_generated_texts(bpe, text):
    for tokenizer in both(bpe):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_vocabulary_is_what_was_asked_and_end_of_text_is_one_id(bpe):
    assert bpe.vocab_size == 290 == vocab_size(TokenizerConfig(vocab_size=290))
    assert bpe.decode([bpe.end_of_text]) == "<|endoftext|>"
    plain = Tokenizer.plain_bytes()
    assert (plain.vocab_size, plain.end_of_text) == (257, 256)
    assert vocab_size(TokenizerConfig(kind="bytes")) == 257
    assert plain.decode([*b"ab", 256, *b"c", 256]) == "ab<|endoftext|>c<|endoftext|>"


def test_the_bytes_tokenizer_is_utf8():
    assert bytes(Tokenizer.plain_bytes().encode(NASTY)) == NASTY.encode()


def test_the_bpe_merges_the_most_frequent_pair_first():
    # "ab" 5 times, "bc" twice; both letters of each word are separate bytes before.
    made = Tokenizer.train(["ab ab ab ab ab bc bc"], 258)
    assert len(made.encode(" ab")) < len(made.encode(" bc"))


def test_training_is_deterministic_and_saving_keeps_the_fingerprint(bpe, tmp_path):
    assert Tokenizer.train(iter(TEXTS), 290).fingerprint == bpe.fingerprint
    for tokenizer in both(bpe):
        tokenizer.save(tmp_path / "t.json")
        loaded = Tokenizer.load(tmp_path / "t.json")
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.encode(NASTY) == tokenizer.encode(NASTY)
        assert loaded.end_of_text == tokenizer.end_of_text


def test_a_text_that_cannot_fill_the_vocabulary_yields_a_smaller_one():
    found = Tokenizer.train(TEXTS, 5000)
    assert 257 < found.vocab_size < 5000
    assert Tokenizer.train(TEXTS, found.vocab_size).fingerprint == found.fingerprint
    assert Tokenizer.train(TEXTS, found.vocab_size - 1).vocab_size == found.vocab_size - 1


def test_digits_stand_alone_and_a_mask_is_no_text_where_they_are_asked_for():
    texts = ["in 1984 and 1985 and 1986 again"] * 9
    plain = Tokenizer.train(texts, 300)
    own = Tokenizer.train(texts, 300, digits=True, mask=True)
    assert any(len(plain.decode([i])) > 1 for i in plain.encode("1984"))
    assert [own.decode([i]) for i in own.encode(" 1984")] == [" ", "1", "9", "8", "4"]
    assert own.decode(own.encode(NASTY)) == NASTY
    assert plain.mask is None
    assert own.decode([own.mask]) == "<mask>"
    assert own.mask not in own.encode("the <mask> is text")
    again = Tokenizer(json.loads(own.json), "again")
    assert (again.mask, again.fingerprint) == (own.mask, own.fingerprint)
    assert Tokenizer.plain_bytes().mask is None
    asked = TokenizerConfig(vocab_size=300, digits=True, mask=True)
    assert load_or_train(asked, lambda: iter(texts)).fingerprint == own.fingerprint
    with pytest.raises(DataError, match=r"must be at least 258: .* 2 special tokens"):
        TokenizerConfig(vocab_size=257, mask=True)
    for name in ("digits", "mask"):
        with pytest.raises(DataError, match=f"{name}=true is for tokenizer.kind=bpe"):
            TokenizerConfig("bytes", **{name: True})


def word_level(tmp_path, special="</s>", lower=False):
    made = HuggingFaceTokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if lower:
        made.normalizer = normalizers.Lowercase()
    specials = ["[UNK]", *([special] if special else [])]
    trainer = trainers.WordLevelTrainer(special_tokens=specials, show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    made.add_tokens(["<added>"])
    made.enable_truncation(4)
    made.enable_padding(length=9)
    made.save(str(tmp_path / "tokenizer.json"))
    return made


def test_a_file_tokenizer_counts_added_tokens_and_neither_cuts_nor_pads(tmp_path):
    made = word_level(tmp_path)
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.vocab_size == made.token_to_id("<added>") + 1
    path = str(tmp_path / "tokenizer.json")
    assert vocab_size(TokenizerConfig(kind="file", path=path)) == loaded.vocab_size
    assert loaded.end_of_text == made.token_to_id("</s>")
    assert len(loaded.encode("the cat sat on the mat the end")) == 8
    assert len(loaded.encode("the")) == 1


def test_an_end_of_text_of_another_name_is_asked_for_and_then_stays_chosen(tmp_path):
    path, other, name = tmp_path / "tokenizer.json", tmp_path / "other", "<~end of sentence~>"
    word_level(tmp_path, special=name)
    with pytest.raises(DataError, match=rf"special tokens: {name}, \[UNK\]") as caught:
        Tokenizer.load(path)
    asked = f"'tokenizer.end_of_text=\"{name}\"'"
    assert str(caught.value).endswith(f"say which ends a text: {asked}")
    with pytest.raises(DataError, match=r"end_of_text=</s> is no special token of .* are: <~end"):
        Tokenizer.load(path, "</s>")
    settings = TokenizerConfig(kind="file", path=str(tmp_path), end_of_text=name, vocab_size=None)
    loaded = Tokenizer.of_file(settings)
    assert loaded.decode([loaded.end_of_text]) == name
    loaded.save(tmp_path / "kept.json")
    kept = Tokenizer.load(tmp_path / "kept.json")
    assert (kept.end_of_text, kept.fingerprint) == (loaded.end_of_text, loaded.fingerprint)
    HuggingFaceTokenizer.from_file(str(tmp_path / "kept.json"))  # still one of the library
    other.mkdir()
    (other / "tokenizer.model").touch()
    with pytest.raises(DataError, match=r"folder without a tokenizer.json; .*: tokenizer\.model"):
        Tokenizer.of_file(TokenizerConfig(kind="file", path=str(other)))


def test_a_chat_models_folder_says_which_token_ends_its_answers(tmp_path):
    made, path = word_level(tmp_path, special="</s>"), tmp_path / "tokenizer.json"
    made.add_special_tokens(["<end of turn>"])
    made.save(str(path))
    beside = tmp_path / "tokenizer_config.json"
    for said, end in (
        ({"eos_token": "<end of turn>"}, "<end of turn>"),
        ({"eos_token": {"content": "<end of turn>", "special": True}}, "<end of turn>"),
        ({"eos_token": "the"}, "</s>"),  # a word that a text may hold
        ({"eos_token": None}, "</s>"),
    ):
        beside.write_text(json.dumps(said))
        assert Tokenizer.load(path).end_of_text == made.token_to_id(end), said
    beside.write_text(json.dumps({"eos_token": "<end of turn>"}))
    assert Tokenizer.load(path, "</s>").end_of_text == made.token_to_id("</s>"), "as it was set"
    Tokenizer.load(path, "</s>").save(path)
    assert Tokenizer.load(path).end_of_text == made.token_to_id("</s>"), "and then kept"
    beside.unlink()
    Tokenizer.load(path).save(path)
    assert Tokenizer.load(path).end_of_text == made.token_to_id("</s>")


def test_hundreds_of_special_tokens_do_not_make_a_message_without_an_end(tmp_path):
    made = word_level(tmp_path, special=None)
    made.add_special_tokens([f"<place {'x' * 500} {i}>" for i in range(300)])
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match=r"and 293 more.*tokenizer\.end_of_text=NAME") as caught:
        Tokenizer.load(tmp_path / "tokenizer.json")
    assert len(str(caught.value)) < 1500


def with_pattern(tmp_path, pattern):
    """A byte-level tokenizer that cuts texts by a pattern of somebody else."""
    path = tmp_path / "tokenizer.json"
    Tokenizer.train(["abc"], 257).save(path)
    content = json.loads(path.read_text())
    own = {"type": "Split", "behavior": "Isolated", "invert": False, "pattern": {"Regex": pattern}}
    content["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [own, {**content["pre_tokenizer"], "use_regex": False}],
    }
    path.write_text(json.dumps(content))
    return Tokenizer.load(path)


def test_a_pattern_of_others_ends_in_bounded_time(tmp_path, monkeypatch):
    monkeypatch.setattr("data.tokenizer.PATIENCE_S", 0.2)
    assert len(with_pattern(tmp_path, r"\s+").encode("a b")) == 3
    bad = with_pattern(tmp_path, "(a+)+$")
    with pytest.raises(DataError, match=r"json: no answer for 525 characters .* pattern \(Regex"):
        bad.encode(("a" * 20 + "b") * 25)  # each of 25 words takes 2**20 attempts
    monkeypatch.setattr("data.tokenizer.PATIENCE_S", 60)
    with pytest.raises(DataError, match=r"breaks down in it .*retry-limit"):
        bad.encode("a" * 30 + "b")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", "is not JSON"),
        (b"[]", "no tokenizer"),
        (b"{}", "no tokenizer"),
        (b"\xff", "UTF-8"),
        (
            b"[" * 100_000,
            "t.json is JSON nested too deeply to be read; it must be a tokenizer.json",
        ),
        (b"1" * 5000, "number of more than 4,300 digits"),
        (
            b'{"model": {"type": "WordLevel", "vocab": {"a": 4294967295}, "unk_token": "a"}}',
            "a token with the id 4,294,967,295; ids below 16,777,216 are read",
        ),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, raw, message):
    (tmp_path / "t.json").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        Tokenizer.load(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "bep"}, "tokenizer.kind=bep is not one of .*did you mean bpe"),
        ({"vocab_size": 256}, r"vocab_size=256 must be at least 257.*256 bytes \+ 1 special"),
        ({"kind": "bytes", "vocab_size": 300}, "vocab_size=300 is for tokenizer.kind=bpe"),
        ({"kind": "file", "path": "x", "vocab_size": 300}, "kind=file has a size of its own"),
        ({"kind": "file"}, "needs tokenizer.path"),
        ({"path": "x"}, "tokenizer.path=x is not read by tokenizer.kind=bpe"),
        ({"end_of_text": "</s>"}, "tokenizer.end_of_text=</s> is not read by tokenizer.kind=bpe"),
    ],
)
def test_settings_are_checked_with_names_and_values(arguments, message):
    with pytest.raises(DataError, match=message):
        TokenizerConfig(**arguments)


def test_the_smallest_vocabulary_is_bytes_and_end_of_text(bpe):
    assert len(Tokenizer.train(["abc"], 257).encode("abc")) == 3


def test_the_json_is_one_the_tokenizers_library_reads(bpe, tmp_path):
    bpe.save(tmp_path / "tokenizer.json")
    theirs = HuggingFaceTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode(TEXTS[0]).ids == bpe.encode(TEXTS[0])
    assert json.loads(bpe.json)["model"]["type"] == "BPE"
    assert np.array(theirs.encode("<|endoftext|>").ids).tolist() == [bpe.end_of_text]
