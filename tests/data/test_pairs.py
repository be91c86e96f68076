"""Parallel texts: of locale data, of catalogues, of TSV, of tables, of Hugging Face datasets."""

import re
from collections import defaultdict
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import write_po

from data.files import DataError
from data.sources.locale_pairs import PARTS, locale_pairs
from data.sources.pairs import file_pairs

MONTHS = "janvier février mars avril mai juin juillet août septembre octobre novembre décembre"
ENGLISH = "January February March April May June July August September October November December"


@pytest.fixture(scope="module")
def pairs():
    return list(locale_pairs(("en", "fr"), 3000, 7))


def test_dates_say_the_same_day_in_both_languages_as_read_by_hand(pairs):
    dates = [pair for pair in pairs if pair.kind == "dates"]
    assert len(dates) == 3000 * PARTS["dates"]
    for pair in dates:
        day = date.fromisoformat(pair.key.removeprefix("date "))
        english = re.search(r"(\w{3})\w* (\d+), (\d{4})$", pair.source)
        french = re.search(r"(\d+) (\w+)\.? (\d{4})$", pair.target)
        month = [m[:3] for m in ENGLISH.split()].index(english[1]) + 1
        assert (int(english[3]), month, int(english[2])) == (day.year, day.month, day.day)
        named = MONTHS.split()[day.month - 1]
        assert named.startswith(french[2]), pair
        assert (int(french[1]), int(french[3])) == (day.day, day.year)


def test_pairs_of_one_key_say_the_same_and_others_something_else(pairs):
    keys = defaultdict(set)
    for pair in pairs:
        if pair.key is not None:
            keys[pair.source].add(pair.key)
    assert {pair.kind for pair in pairs} == {*PARTS, "pronouns"}
    other = list(locale_pairs(("fr", "en"), 300, 7))
    assert {pair.kind for pair in other} == set(PARTS)
    assert all(len(own) == 1 for own in keys.values())


def test_the_same_seed_gives_the_same_pairs_and_another_gives_others(pairs):
    assert list(locale_pairs(("en", "fr"), 3000, 7)) == pairs
    assert list(locale_pairs(("en", "fr"), 3000, 8)) != pairs
    back = list(locale_pairs(("fr", "en"), 3000, 7))
    assert [(p.target, p.source) for p in back if p.kind == "dates"] == [
        (p.source, p.target) for p in pairs if p.kind == "dates"
    ]
    with pytest.raises(DataError, match="babel has no language 'klingon'"):
        next(locale_pairs(("en", "klingon"), 1, 0))


@pytest.fixture
def catalogue():
    """Two messages, a plural with a form left empty, and two without any translation."""
    made = Catalog(locale="fr")
    made.add("Open file", "Ouvrir le fichier")
    made.add("Cancel", "Annuler", context="button")
    made.mime_headers = [("Plural-Forms", "nplurals=3; plural=n > 1 ? n > 5 ? 2 : 1 : 0;")]
    made.add(("%d file", "%d files"), ("%d fichier", "%d fichiers", ""))
    made.add(("%d day", "%d days"), ("", "", ""))
    made.add("not translated", "")
    return made


CATALOGUE = [
    ("%d file", "%d fichier"),
    ("%d files", "%d fichiers"),
    ("Cancel", "Annuler"),
    ("Open file", "Ouvrir le fichier"),
]


def texts(path, languages=("en", "fr")):
    return sorted((pair.source, pair.target) for pair in file_pairs(str(path), languages))


def test_a_catalogue_gives_its_translations_as_source_and_compiled(catalogue, tmp_path):
    with (tmp_path / "a.mo").open("wb") as file:
        write_mo(file, catalogue)
    catalogue.add("a guess", "une supposition", flags=["fuzzy"])
    with (tmp_path / "a.po").open("wb") as file:
        write_po(file, catalogue)
    assert texts(tmp_path / "a.po") == texts(tmp_path / "a.mo") == CATALOGUE
    assert texts(tmp_path / "*.?o") == sorted(CATALOGUE * 2)


def test_lines_columns_and_datasets_give_their_pairs(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    rows = [("a cat", "un chat"), ("a dog", "un chien"), ("", "rien")]
    (tmp_path / "a.tsv").write_text("".join(f"{a}\t{b}\tCC-BY\n" for a, b in rows))
    (tmp_path / "a.csv").write_text("id,fr,en\n" + "".join(f"1,{b},{a}\n" for a, b in rows))
    pq.write_table(
        pa.table({"translation": [{"en": a, "fr": b} for a, b in rows]}), tmp_path / "a.parquet"
    )
    folder = tmp_path / "dataset"
    folder.mkdir()
    pq.write_table(pq.read_table(tmp_path / "a.parquet"), folder / "train.parquet")
    for path in ("a.tsv", "a.csv", "a.parquet"):
        assert texts(tmp_path / path) == rows[:2]
    assert texts(f"hf:{folder}") == rows[:2]
    assert [pair.key for pair in file_pairs(str(tmp_path / "a.tsv"), ("en", "fr"))] == [
        "a cat",
        "a dog",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.tsv", None, "is no file; give one that ends in .po, .mo, .tsv"),
        ("a.txt", b"a\tb\n", "is no file of pairs: its name must end in .po"),
        ("a.tsv", b"a\tb\nonly one\n", "line 2 has no tab"),
        ("a.tsv", b"a\tb\n\xff\tc\n", "line 2 is no UTF-8"),
        ("a.csv", b"en,french\na,b\n", "has no column fr; did you mean french?; it has en, french"),
        ("a.po", b"gibberish here\n", "can't be read as a catalogue"),
        ("a.mo", b"not a catalogue at all", "can't be read as a catalogue"),
    ],
)
def test_what_holds_no_pairs_is_refused(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message.replace("?", r"\?")):
        texts(tmp_path / name)
