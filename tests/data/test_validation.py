"""Documents that the user has chosen for validation: files of their own, a split, the tail."""

import json
from itertools import pairwise

import numpy as np
import pytest

from data import DataConfig, TokenizerConfig, prepare
from data.config import SourceConfig, ValidationConfig
from data.files import DataError
from data.sources import inputs

BYTES = TokenizerConfig(kind="bytes")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / "cache"))


def texts_of(split, tokenizer):
    ids = split.read(0, split.tokens)
    ends = np.flatnonzero(ids == tokenizer.end_of_text) + 1
    return sorted(tokenizer.decode(part[:-1].tolist()) for part in np.split(ids, ends[:-1]))


def split(tokenizer=BYTES, **settings):
    """The texts of train and of validation, each sorted."""
    made = prepare(DataConfig(**settings), tokenizer)
    return tuple(texts_of(own, made.tokenizer) for own in (made.train, made.validation))


def jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_files_of_their_own_are_validated_on_and_the_rest_is_all_trained_on(tmp_path):
    train, held_out = [f"train {i}" for i in range(40)], [f"held out {i}" for i in range(9)]
    settings = {"source": "jsonl", "path": jsonl(tmp_path / "a.jsonl", train)}
    own = ValidationConfig(path=jsonl(tmp_path / "b.jsonl", held_out))
    assert split(**settings, validation=own, validation_fraction=0) == (
        sorted(train),
        sorted(held_out),
    )
    jsonl(tmp_path / "b.jsonl", held_out[:3])  # it is read again when it changes
    assert split(**settings, validation=own)[1] == sorted(held_out[:3])


def test_what_is_validated_on_is_left_out_of_what_is_trained_on_and_reported(tmp_path):
    both = [f"text {i}" for i in range(30)]
    train, held_out = [*both, *both[:2]], [both[3], "new", both[7]]
    made = prepare(
        DataConfig(
            source="jsonl",
            path=jsonl(tmp_path / "a.jsonl", train),
            validation=ValidationConfig(path=jsonl(tmp_path / "b.jsonl", held_out)),
        ),
        BYTES,
    )
    assert texts_of(made.validation, made.tokenizer) == sorted(held_out)
    assert texts_of(made.train, made.tokenizer) == sorted(set(both) - set(held_out))
    report = made.datasets["data"].report.markdown()
    assert "b.jsonl:1 | text 3" in report
    with pytest.raises(DataError, match="every record of it is one of validation, too"):
        split(
            source="jsonl",
            path=jsonl(tmp_path / "c.jsonl", held_out[:2]),
            validation=ValidationConfig(path=str(tmp_path / "b.jsonl")),
        )


def test_a_tokenizer_is_trained_on_train_alone(tmp_path):
    settings = {"source": "jsonl", "path": jsonl(tmp_path / "a.jsonl", ["ab" * 50, "ba" * 50])}
    own = ValidationConfig(path=jsonl(tmp_path / "b.jsonl", ["xyxyxyxy" * 50]))
    made = prepare(DataConfig(**settings, validation=own), TokenizerConfig(vocab_size=300))
    merged = made.tokenizer.bpe.get_vocab()
    assert "ab" in merged
    assert "xy" not in merged
    assert made.tokenizer.vocab_size < 300


@pytest.mark.parametrize("characters", [None, 100])
@pytest.mark.parametrize("fraction", [0.1, 0.37])
def test_the_tail_of_a_text_is_exact_and_files_become_the_documents_asked_for(
    tmp_path, monkeypatch, characters, fraction
):
    """Against the whole text, cut where the last bytes begin, and at a character."""
    monkeypatch.setattr(inputs, "UNIT_BYTES", 700)
    files = [
        "".join(f"Zeile {n}.{i} ä{'€' * (i % 3)}\n" for i in range(n)) for n in (40, 90, 0, 25)
    ]
    for number, text in enumerate(files):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    train, tail = split(
        source="text",
        path=str(tmp_path),
        document_characters=characters,
        validation=ValidationConfig(take="tail"),
        validation_fraction=fraction,
    )
    raw = "".join(files).encode()
    place = int(len(raw) * (1 - fraction))
    while raw[place] & 0xC0 == 0x80:
        place += 1
    assert sum(len(text.encode()) for text in train) == place
    assert sum(len(text.encode()) for text in tail) == len(raw) - place
    if characters is None:
        ends = np.cumsum([len(text.encode()) for text in files]).tolist()
        edges = sorted({0, *ends, place})
        whole = [raw[a:b].decode() for a, b in pairwise(edges)]
        assert sorted([*train, *tail]) == sorted(whole)
    else:
        assert max(map(len, [*train, *tail])) <= characters


def test_the_tail_of_jsonl_is_of_whole_records(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "UNIT_BYTES", 500)
    texts = [f"record {i} " + "x" * (i % 17) for i in range(200)]
    path = jsonl(tmp_path / "a.jsonl", texts)
    train, tail = split(
        source="jsonl",
        path=path,
        validation=ValidationConfig(take="tail"),
        validation_fraction=0.25,
    )
    place, starts = int((tmp_path / "a.jsonl").stat().st_size * 0.75), [0]
    for text in texts:
        starts.append(starts[-1] + len(json.dumps({"text": text})) + 1)
    first = next(i for i, start in enumerate(starts) if start >= place)
    assert (train, tail) == (sorted(texts[:first]), sorted(texts[first:]))


def test_a_split_without_text_is_refused_and_says_what_would_do(tmp_path):
    settings = {"source": "jsonl", "path": jsonl(tmp_path / "a.jsonl", ["one", "two"])}
    empty = ValidationConfig(path=jsonl(tmp_path / "b.jsonl", ["", " "]))
    with pytest.raises(
        DataError, match=r"there is no text for validation \(left out: no_text: 2\)"
    ):
        split(**settings, validation=empty)
    (tmp_path / "one.txt").write_text("alone")
    with pytest.raises(DataError, match=r"only one document.*data.validation.take=tail"):
        split(source="text", path=str(tmp_path / "one.txt"))
    (tmp_path / "a.txt.gz").write_bytes(b"")
    with pytest.raises(DataError, match="take=tail counts bytes"):
        split(
            source="text",
            path=str(tmp_path / "a.txt.gz"),
            validation=ValidationConfig(take="tail"),
        )


def test_a_dataset_of_hugging_face_is_validated_on_by_its_own_split(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    texts = {"train": [f"a {i}" for i in range(9)], "validation": [f"b {i}" for i in range(3)]}
    rows = {name: datasets.Dataset.from_dict({"text": own}) for name, own in texts.items()}
    datasets.DatasetDict(rows).save_to_disk(str(tmp_path / "saved"))
    found = split(
        source="hf",
        path=str(tmp_path / "saved"),
        validation=ValidationConfig(split="validation"),
    )
    assert found == (texts["train"], texts["validation"])


def test_each_dataset_of_a_mixture_has_its_own_way(tmp_path):
    own = SourceConfig(
        source="jsonl",
        path=jsonl(tmp_path / "a.jsonl", [f"a {i}" for i in range(30)]),
        validation=ValidationConfig(path=jsonl(tmp_path / "b.jsonl", ["b"])),
    )
    by_hash = SourceConfig(source="jsonl", path=jsonl(tmp_path / "c.jsonl", ["c", "d", "e", "f"]))
    made = prepare(
        DataConfig(datasets={"own": own, "hash": by_hash}, validation_fraction=0.3), BYTES
    )
    assert texts_of(made.datasets["own"].validation, made.tokenizer) == ["b"]
    assert made.datasets["own"].train.documents == 30
    both = made.datasets["hash"]
    assert both.train.documents + both.validation.documents == 4
