"""Units of work: joined they are one pass over the data, and each knows the rows it reads."""

import gzip
import json
import pickle
import random
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data.config import DataConfig
from data.files import DataError
from data.sources import inputs, lines, read_records, units_of
from data.sources.csv_files import read_csv
from data.sources.inputs import InputUnit
from tests.data.texts import documents


def records(config, unit_bytes, monkeypatch):
    monkeypatch.setattr(inputs, "UNIT_BYTES", unit_bytes)
    units = units_of(config)
    return len(units), [record for unit in units for record in read_records(config, unit)]


def write_jsonl(path, rows=300):
    texts = [f"{'ü' * (i % 7)} row {i}" for i in range(rows)]
    rows = [json.dumps({"text": t}, ensure_ascii=i % 2 == 0) for i, t in enumerate(texts)]
    path.write_text("\n".join(rows), encoding="utf-8")


def write_parquet(path, rows=300):
    table = pa.table({"text": [f"row {i}" for i in range(rows)]})
    pq.write_table(table, path, row_group_size=20)


def write_arrow(path, rows=300):
    table = pa.table({"text": [f"row {i}" for i in range(rows)]})
    make = pa.ipc.new_file if path.stem == "file" else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=20)


def write_text(path):
    path.mkdir()
    for number in range(30):
        (path / f"{number:02}.txt").write_text(f"text {number}\n" * (number % 5 + 1))


def write_saved(path):
    import datasets

    rows = datasets.Dataset.from_dict({"text": [f"row {i}" for i in range(300)]})
    rows.save_to_disk(str(path))


WRITERS = {
    "a.jsonl": write_jsonl,
    "a.parquet": write_parquet,
    "file.arrow": write_arrow,
    "stream.arrow": write_arrow,
    "texts": write_text,
    "saved": write_saved,
}
SOURCES = {".jsonl": "jsonl", ".parquet": "parquet", ".arrow": "parquet"}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", WRITERS)
def test_units_joined_are_one_pass_however_they_are_cut(tmp_path, monkeypatch, name):
    path = tmp_path / name
    WRITERS[name](path)
    source = SOURCES.get(path.suffix, {"texts": "text", "saved": "hf"}.get(name))
    config = DataConfig(source=source, path=str(path))
    _, expected = records(config, 2**40, monkeypatch)
    for unit_bytes in (1, 100, 500):
        count, found = records(config, unit_bytes, monkeypatch)
        assert count > 1
        assert [r.texts for r in found] == [r.texts for r in expected]
        if source != "jsonl":  # there the line has a number only where it was counted
            assert [r.place for r in found] == [r.place for r in expected]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n\r\n"])
def test_a_line_belongs_to_the_unit_in_which_it_begins(tmp_path, monkeypatch, end):
    """Every size of unit, so a cut falls on every byte: in a character, at and after line ends."""
    path = tmp_path / "a.jsonl"
    middle = '{"text": "é"}\r\n\n  \n{"text": "𝄞"}\n{"text": "three"}\n{"text": ""}'
    path.write_bytes(b"\xef\xbb\xbf" + middle.encode() + end)
    config = DataConfig(source="jsonl", path=str(path))
    for unit_bytes in range(1, path.stat().st_size + 2):
        _, found = records(config, unit_bytes, monkeypatch)
        assert [r.texts for r in found] == [("é",), ("𝄞",), ("three",), ("",)]


def test_units_travel_as_pickle(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "a.jsonl")
    monkeypatch.setattr(inputs, "UNIT_BYTES", 1000)
    for unit in units_of(DataConfig(source="jsonl", path=str(tmp_path))):
        assert pickle.loads(pickle.dumps(unit)) == unit


def test_a_unit_whose_file_this_machine_lacks_says_so(tmp_path):
    config = DataConfig(source="jsonl", path=str(tmp_path))
    with pytest.raises(DataError, match="every machine that reads the data must see it"):
        list(read_records(config, InputUnit((str(tmp_path / "a.jsonl"),))))


def last_unit(config, monkeypatch):
    monkeypatch.setattr(inputs, "UNIT_BYTES", 2**20)
    unit = units_of(config)[-1]
    assert unit.start > 0
    with pytest.raises(DataError) as caught:
        list(read_records(config, unit))
    return str(caught.value)


def test_line_one_million_of_jsonl_is_named_in_a_unit_that_begins_deep(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    good = b'{"text":"a"}\n'
    path.write_bytes(good * 999_999 + b'{"text":\xff}\n' + good * 9)
    message = last_unit(DataConfig(source="jsonl", path=str(path)), monkeypatch)
    assert f"{path}:1000000: is not UTF-8: byte 0xff at offset 12999995" in message
    path.write_bytes(good * 999_999 + b'{"text":5}\n' + good * 9)
    message = last_unit(DataConfig(source="jsonl", path=str(path)), monkeypatch)
    assert f"{path}:1000000: text holds an integer, 5, not text" in message


def test_row_one_million_of_parquet_is_named_in_a_unit_that_begins_deep(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    values = [b"row"] * 1_000_100
    values[999_999] = b"r\xffw"
    pq.write_table(
        pa.table({"text": pa.array(values, pa.binary()).view(pa.string())}),
        path,
        row_group_size=100_000,
    )
    monkeypatch.setattr(inputs, "UNIT_BYTES", 1)
    config = DataConfig(source="parquet", path=str(path))
    units = units_of(config)
    assert len(units) == 11
    with pytest.raises(DataError, match="row 1000000: text is not UTF-8: byte 0xff at byte 1"):
        list(read_records(config, units[9]))


def test_row_one_million_of_csv_is_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\n" + b"a\n" * 999_999 + b"\xff\n" + b"a\n" * 9)
    reading = read_csv(InputUnit((str(path),)), lambda names: names)
    with pytest.raises(DataError, match="row 1000000: is not UTF-8: byte 0xff at offset 2000003"):
        for _ in reading:
            pass


def test_a_big_jsonl_file_is_read_with_little_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    raw = b"".join(b'{"text": "%s"}\n' % random.randbytes(5000).hex().encode() for _ in range(4000))
    path.write_bytes(raw)
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.compress(raw))
    del raw
    config = DataConfig(source="jsonl", path=str(tmp_path))
    units = units_of(config)
    tracemalloc.start()
    try:
        assert sum(1 for unit in units for _ in read_records(config, unit)) == 8000
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST_LINE", 1000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + b"x" * 5000)
    with pytest.raises(DataError, match=r"a\.jsonl:2: this line is longer than 1,000 bytes"):
        list(documents(DataConfig(source="jsonl", path=str(path))))


PACK = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    # Files of several members are whole files too, made by `cat` or by parallel packers.
    ".joined.gz": lambda raw: gzip.compress(raw[:9]) + gzip.compress(raw[9:]) + b"\0" * 700,
    ".joined.zst": lambda raw: zstandard.compress(raw[:9]) + zstandard.compress(raw[9:]),
}
PLAIN = {
    "text": (".txt", b"one\ntwo " * 30),
    "jsonl": (".jsonl", b'{"text": "one"}\n{"text": "two"}\n' * 30),
    "csv": (".csv", b"text\n" + b"one\ntwo\n" * 30),
}


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("source", PLAIN)
def test_compressed_files_stand_beside_plain_ones(tmp_path, source, pack):
    suffix, raw = PLAIN[source]
    (tmp_path / f"a{suffix}").write_bytes(raw)
    expected = list(documents(DataConfig(source=source, path=str(tmp_path))))
    ending = pack.removeprefix(".joined")
    (tmp_path / f"b{suffix}{ending}").write_bytes(PACK[pack](raw))
    config = DataConfig(source=source, path=str(tmp_path))
    assert list(documents(config)) == expected * 2


@pytest.mark.parametrize("pack", PACK)
def test_a_compressed_file_that_was_cut_anywhere_is_never_a_shorter_one(tmp_path, pack):
    raw = PLAIN["jsonl"][1]
    packed = PACK[pack](raw).rstrip(b"\0")
    path = tmp_path / f"a.jsonl{pack.removeprefix('.joined')}"
    config = DataConfig(source="jsonl", path=str(path))
    first = len(PACK[pack.removeprefix(".joined")](raw[:9]))
    for keep in range(len(packed)):
        if "joined" in pack and keep == first:
            continue  # a whole file: nothing tells that another member followed
        path.write_bytes(packed[:keep])
        with pytest.raises(DataError, match=r"download was|is not JSON") as caught:
            list(documents(config))
        assert str(path) in str(caught.value)


def test_a_damaged_compressed_file_and_a_wrong_name_are_named(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    config = DataConfig(source="jsonl", path=str(path))
    path.write_bytes(b"plain")
    with pytest.raises(
        DataError, match=r"is not compressed, though its name ends in \.zst; rename it: mv "
    ):
        list(documents(config))
    plain = tmp_path / "a.txt"
    plain.write_bytes(gzip.compress(b"text"))
    with pytest.raises(DataError, match=r"is gzip, but its name does not say so; add \.gz"):
        list(documents(DataConfig(source="text", path=str(plain))))
