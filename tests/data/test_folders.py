import os
import unicodedata

import pytest

from data.config import DataConfig
from data.files import DataError
from data.sources import passed_over
from data.sources.folders import BROKEN, FOLDER, HIDDEN, KIND, SEEN, SPECIAL, summary
from data.sources.inputs import listing_of
from tests.data.texts import documents


def names(config):
    """What is read and what is not, both relative to the folder."""
    found, top = listing_of(config), str(config.path).split("/corpus")[0] + "/corpus/"
    left = [(path.removeprefix(top), reason) for path, reason in found.passed_over]
    return [file.name.removeprefix(top) for file in found.files], left


@pytest.fixture
def corpus(tmp_path):
    """A folder as they grow: links of all kinds, another format, what editors and systems leave."""
    corpus = tmp_path / "corpus"
    for name in ("one/a.jsonl", "one/.a.jsonl.swp", ".ipynb_checkpoints/a.jsonl", "b.parquet"):
        (corpus / name).parent.mkdir(parents=True, exist_ok=True)
        (corpus / name).write_text('{"text": "one"}\n')
    (tmp_path / "store" / "deep").mkdir(parents=True)
    (tmp_path / "store" / "deep" / "b.jsonl").write_text('{"text": "two"}\n')
    (corpus / "two").symlink_to(tmp_path / "store")
    (corpus / "again").symlink_to(corpus / "one")
    (corpus / "one" / "round").symlink_to(corpus)
    (corpus / "c.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    (corpus / "d.jsonl").symlink_to(tmp_path / "store" / "deep" / "b.jsonl")
    os.mkfifo(corpus / "e.jsonl")
    return corpus


def test_a_folder_yields_what_is_below_it_behind_links_too_and_says_what_it_does_not(corpus):
    config = DataConfig(source="jsonl", path=str(corpus))
    read, left = names(config)
    assert read == ["d.jsonl", "one/a.jsonl", "two/deep/b.jsonl"]
    assert left == [
        (".ipynb_checkpoints", HIDDEN),
        ("again", SEEN),
        ("b.parquet", KIND),
        ("c.jsonl", BROKEN),
        ("e.jsonl", SPECIAL),
        ("one/.a.jsonl.swp", HIDDEN),
        ("one/round", SEEN),
    ]
    assert list(documents(config)) == ["two", "one", "two"]
    assert summary(passed_over(config)) == (
        "2 hidden names (.ipynb_checkpoints, .a.jsonl.swp), 1 link to nothing (c.jsonl), "
        "1 file of another kind (.parquet: 1), 2 links to folders already read (again, round), "
        "1 pipe or device (e.jsonl)"
    )


def test_a_pattern_yields_the_same_and_says_so_too(corpus):
    (corpus / "one" / "round").unlink()  # a pattern follows links in circles
    (corpus / "again").unlink()
    folder = names(DataConfig(source="jsonl", path=str(corpus)))
    read, left = names(DataConfig(source="jsonl", path=f"{corpus}/**/*.jsonl"))
    assert read == folder[0]
    assert left == [
        (".ipynb_checkpoints/a.jsonl", HIDDEN),
        ("c.jsonl", BROKEN),
        ("e.jsonl", SPECIAL),
    ]
    read, left = names(DataConfig(source="jsonl", path=f"{corpus}/*"))
    assert ("one", FOLDER) in left
    assert names(DataConfig(source="jsonl", path=f"{corpus}/.ipynb*/*")) == (
        [".ipynb_checkpoints/a.jsonl"],
        [],
    )
    with pytest.raises(DataError, match=r"no file matches .*; it reaches only 1 link to nothing"):
        listing_of(DataConfig(source="jsonl", path=f"{corpus}/c*"))


@pytest.mark.parametrize("name", ["[2024] run", "a*b", "what?", "caf\udce9", "two words"])
def test_names_that_are_there_are_no_patterns_whatever_they_hold(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / f"{name}.jsonl").write_text('{"text": "one"}\n')
    for path in (folder, folder / f"{name}.jsonl", folder / "*.jsonl"):
        config = DataConfig(source="jsonl", path=str(path))
        assert list(documents(config)) == ["one"]
        assert not passed_over(config)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("c.jsonl", r"c\.jsonl is a link to .*nowhere\.jsonl, where nothing is"),
        ("one/a.jsonl/x", r"one/a\.jsonl is a file, not a folder; set data\.path=.*/one/a\.jsonl$"),
        ("one/b.jsonl", r"no such file or folder; did you mean a\.jsonl\?$"),
        ("ones/a.jsonl", r"no such file or folder; did you mean one\?$"),
        ("e.jsonl", "is no file but a pipe, socket or device"),
        (unicodedata.normalize("NFD", "é.jsonl"), r"accents written in another way \(NFC\)"),
        ("x" * 300, "File name too long"),
        ("two", r"no \.csv file in this folder or below, but 1 \.jsonl; set data\.source=jsonl$"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(corpus, typed, said):
    (corpus / "é.jsonl").touch()
    with pytest.raises(DataError, match=said) as caught:
        listing_of(DataConfig(source="csv", path=str(corpus / typed)))
    assert str(caught.value).startswith(f"data.path={corpus}")
    assert len(str(caught.value)) < 1000


def test_a_folder_of_a_kind_that_nothing_reads_is_told_the_pattern_that_would(tmp_path):
    (tmp_path / "my texts").mkdir()
    (tmp_path / "my texts" / "a.log").write_text("one")
    with pytest.raises(DataError, match=r"no .txt or .md file .*, but 1 \.log; give") as caught:
        listing_of(DataConfig(source="text", path=str(tmp_path / "my texts")))
    pattern = str(caught.value).split("'data.path=\"")[1].removesuffix("\"'")
    assert list(documents(DataConfig(source="text", path=pattern))) == ["one"]
