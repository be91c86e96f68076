"""Files that are not what they are taken for; each is named, with a remedy that works."""

import gzip
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data.config import DataConfig
from data.files import DataError
from tests.data.texts import documents

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:6652\nsize 146946961\n"
LINES = b"".join(b'{"text": "document %d", "n": %d}\n' % (i, i) for i in range(40))
RECORDS = [json.loads(line) for line in LINES.splitlines()]
TEXTS = [record["text"] for record in RECORDS]


def refused(source, path):
    with pytest.raises(DataError) as caught:
        list(documents(DataConfig(source=source, path=str(path))))
    said = str(caught.value)
    assert said.startswith(str(path))
    assert not any(word in said for word in ("remove this line", "fetch it again", "damaged"))
    return said


@pytest.mark.parametrize("source", ["text", "jsonl", "csv", "parquet"])
def test_a_pointer_to_data_is_not_the_data(tmp_path, source):
    path = tmp_path / f"a b.{source}"
    path.write_bytes(LFS)
    assert f"is a Git LFS pointer, not the data; fetch that: git -C {tmp_path} lfs pull" in refused(
        source, path
    )
    path.write_bytes(b"/annex/objects/MD5E-s18--439b.jsonl\n")
    assert f"git -C {tmp_path} annex get 'a b.{source}'" in refused(source, path)
    packed = tmp_path / "c.jsonl.gz"
    packed.write_bytes(LFS)
    assert "is a Git LFS pointer" in refused(source if source != "parquet" else "csv", packed)


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (json.dumps(RECORDS).encode(), "is one JSON array, not an object in each line"),
        (json.dumps(RECORDS, indent=2).encode(), "is one JSON array, not an object in each line"),
        (LINES.replace(b"\n", b"\r"), "ends its lines with CR alone"),
    ],
)
def test_the_command_that_mends_a_file_mends_it(tmp_path, raw, said, end):
    path = tmp_path / f"it's [my] file.json{end}"
    path.write_bytes(gzip.compress(raw) if end else raw)
    message = refused("jsonl", path)
    assert said in message
    command = message.split("convert it: ")[1].replace("python -c", f"{sys.executable} -c")
    subprocess.run(command, shell=True, check=True)
    path.unlink()
    [made] = tmp_path.iterdir()
    assert list(documents(DataConfig(source="jsonl", path=str(made)))) == TEXTS


@pytest.mark.parametrize(
    ("source", "name", "raw", "said"),
    [
        ("text", "a.txt", LINES, "holds JSON lines; set data.source=jsonl"),
        ("text", "a.jsonl", b'{"text": "one"}\n', "holds JSON lines; set data.source=jsonl"),
        ("text", "a.jsonl.gz", gzip.compress(LINES), "holds JSON lines; set data.source=jsonl"),
        ("csv", "a.csv.jsonl", LINES, "holds JSON lines; set data.source=jsonl"),
        ("parquet", "a.parquet", LINES, "holds JSON lines; set data.source=jsonl"),
        ("jsonl", "a.json", json.dumps(RECORDS[0], indent=1).encode(), "objects over several li"),
        ("jsonl", "a.jsonl", b"<!DOCTYPE html>\n<p>sign in</p>", "is an HTML page, perhaps an err"),
        ("parquet", "a.parquet", b"<html><p>404</p></html>", "is an HTML page, perhaps an error"),
        ("jsonl", "a.jsonl", b"PAR1 and more", "is a table in Parquet or Arrow; set data.source="),
        ("text", "a.txt", b"BZh91AY&SY", "is packed with bzip2, which is not read here; unpack"),
        ("jsonl", "a.jsonl", b"PK\x03\x04 and more", "is a zip archive, which is not read here"),
        ("jsonl", "a.jsonl.gz", LINES, "is not compressed, though its name ends in .gz; rename i"),
        ("jsonl", "a.jsonl.gz", zstandard.compress(LINES), "is Zstandard, though its name ends in"),
        ("csv", "a.csv", b"text\rone\rtwo\r", "ends its lines with CR alone, as old Macs did"),
    ],
)
def test_what_a_file_plainly_is_is_said(tmp_path, source, name, raw, said):
    path = tmp_path / name
    path.write_bytes(raw)
    assert said in refused(source, path)


def test_marks_of_windows_before_a_later_line_are_passed_over(tmp_path):
    path, mark = tmp_path / "a.jsonl", b"\xef\xbb\xbf"
    path.write_bytes(mark + LINES + mark + LINES)
    assert list(documents(DataConfig(source="jsonl", path=str(path)))) == TEXTS * 2


def test_texts_that_look_like_something_else_are_texts(tmp_path):
    raws = (b'{"a": 1} is an object\n', b"[1, 2]\n", b"<html>\n", b"{}\n{}\n")
    for number, raw in enumerate(raws):
        path = tmp_path / f"{number}.txt"
        path.write_bytes(raw)
        assert list(documents(DataConfig(source="text", path=str(path)))) == [raw.decode()]


def test_a_column_that_is_there_twice_is_refused_where_it_is_read(tmp_path):
    path = tmp_path / "a.parquet"
    twice = [pa.array(["right"]), pa.array(["wrong"]), pa.array([1])]
    pq.write_table(pa.Table.from_arrays(twice, ["text", "text", "id"]), path)
    assert "several columns (2) are named text, and which is meant" in refused("parquet", path)
    pq.write_table(pa.Table.from_arrays(twice, ["id", "text", "id"]), path)
    assert list(documents(DataConfig(source="parquet", path=str(path)))) == ["wrong"]
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "right", "text": "wrong"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1: has a key twice"):
        list(documents(DataConfig(source="jsonl", path=str(lines))))
