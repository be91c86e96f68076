"""What reading holds in memory, whatever the files are; the other facts are in test_sources.py."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from data.config import DataConfig
from data.files import DataError
from data.preparation.survivors import Survivors
from data.sources import reading, units_of
from tests.data.texts import documents

HOSTILE = """
import resource, sys
from data.config import DataConfig
from data.files import DataError
from data.sources import compressed
from tests.data.texts import documents

compressed.LARGE = 2**26
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    try:
        for text in documents(DataConfig(source="text" if "txt" in name else "jsonl", path=name)):
            pass
    except DataError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, "MB")
"""


def test_hostile_files_are_refused_by_name_before_they_fill_the_memory(tmp_path):
    """A bomb of text, one of a single line, and files of 2 GB of which the disk holds nothing."""
    names = [tmp_path / name for name in ("a.txt.gz", "b.jsonl.gz", "c.txt", "d.jsonl")]
    bomb = gzip.compress(b"ab \n" * 2**20) * 64  # 256 MiB of text in as many members
    names[0].write_bytes(bomb)
    names[1].write_bytes(gzip.compress(b'{"text": "' + b"a" * 2**27, compresslevel=1))
    for name in names[2:]:
        with name.open("wb") as file:
            file.truncate(2**31)
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, *map(str, names)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    *said, peak = done.stdout.splitlines()
    assert [line.split(" ")[0].rstrip(":") for line in said] == [
        str(names[0]), f"{names[1]}:1", str(names[2]), f"{names[3]}:1"
    ]  # fmt: skip
    assert "unpacks to more than 200 times its size" in said[0]
    assert "this line is longer than 33,554,432 bytes, the most that are read" in said[1]
    assert "is a binary file: a NUL byte at offset 0" in said[2]
    assert int(peak.removesuffix(" MB")) < 250


def test_a_text_of_any_length_becomes_documents_of_bounded_length(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LONGEST_DOCUMENT", 1000)
    path = tmp_path / "a.jsonl"
    text = "some words, and more. " * 200
    path.write_text(json.dumps({"text": text}) + '\n{"text": "short"}\n')
    config = DataConfig(source="jsonl", path=str(path))
    *cut, last = documents(config)
    assert "".join(cut) == text
    assert max(map(len, cut)) <= 1000 < 2 * min(map(len, cut[:-1]))
    assert last == "short"
    [unit] = units_of(config)
    survivors = Survivors(config, unit)
    rows = list(survivors)
    assert [row for row, _ in rows] == list(range(len(cut) + 1))
    assert {record.place for _, record in rows[:-1]} == {f"{path}:1"}
    assert survivors.cut == 1

    said = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": text}]
    path.write_text(json.dumps({"messages": said}))
    with pytest.raises(DataError, match=r":1: messages has 4,\d+ characters, and a conversation"):
        list(documents(DataConfig(source="jsonl", path=str(path), records="conversations")))


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 1000])
def test_a_text_file_read_in_parts_is_the_file(tmp_path, monkeypatch, parts):
    """A cut falls into every character of two, three and four bytes."""
    monkeypatch.setattr("data.sources.lines.CHUNK", parts)
    path = tmp_path / "a.txt"
    config = DataConfig(source="text", path=str(path))
    text = "é日😀 plain\n" * 3
    path.write_text("\ufeff" + text, encoding="utf-8")
    assert list(documents(config)) == [text]
    path.write_bytes(text.encode()[:-12])
    with pytest.raises(DataError, match=r"a\.txt ends in the middle of a character, at offset 34"):
        list(documents(config))
    path.write_bytes(text.encode() + b"caf\xe9 noir")
    with pytest.raises(DataError, match=r"a\.txt is not UTF-8: byte 0xe9 at offset 51"):
        list(documents(config))


@pytest.mark.parametrize("column", ["integer", "number"])
def test_numbers_that_no_table_holds_are_named_and_nan_is_a_missing_one(tmp_path, column):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "one", "n": 1}}\n{{"text": "two", "n": {2**70}}}')
    settings = {"source": "jsonl", "path": str(path)}
    rules = {"columns": {"n": column}}
    with pytest.raises(DataError, match=r"a\.jsonl:2: n holds 1180591620717411303424, and whole"):
        list(documents(config_of(settings, rules)))
    path.write_text('{"text": "one", "n": 1.5}\n{"text": "two", "n": NaN}\n{"text": NaN, "n": 1.0}')
    rules = {"columns": {"n": "number"}, "not_null": ["n"]}
    with pytest.raises(DataError, match=r"a\.jsonl:2: n is NaN, but data\.contract\.not_null"):
        list(documents(config_of(settings, rules)))
    with pytest.raises(DataError, match=r"a\.jsonl:3: text holds NaN, not text; write null"):
        list(documents(config_of(settings, {"columns": {"n": "number"}})))


def config_of(settings, rules):
    from data.config import ContractConfig

    return DataConfig(**settings, contract=ContractConfig(**rules))
