"""About how many tokens there are, against a count of all; and how little is read for it."""

import gzip
import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.ask.estimate import estimate
from data.config import DataConfig, ValidationConfig
from data.files import DataError
from data.sources.sampling import SAMPLE_BYTES
from data.tokenizer import TokenizerConfig

BYTES = TokenizerConfig(kind="bytes")


def texts(count):
    """Texts that get longer and longer, as the entries of a log."""
    draw = random.Random(0)
    words = [f"word{number}" for number in range(5000)]
    return [" ".join(draw.choices(words, k=5 + 60 * i // count)) for i in range(count)]


def write(folder, kind):
    """A dataset of a kind in several files; returns its texts."""
    found = texts(6000)
    for number, part in enumerate((found[:1000], found[1000:])):
        if kind == "csv":
            lines = ["n,text", *(f'{i},"{text}"' for i, text in enumerate(part))]
            (folder / f"{number}.csv").write_text("\n".join(lines))
        elif kind == "parquet":
            table = pa.table({"text": part})
            pq.write_table(table, folder / f"{number}.parquet", row_group_size=500)
        elif kind == "text":
            for i, text in enumerate(part):
                (folder / f"{number}-{i}.txt").write_text(text)
        else:
            raw = "".join(json.dumps({"n": i, "text": t}) + "\n" for i, t in enumerate(part))
            if kind == "jsonl.gz":
                (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(raw.encode()))
            else:
                (folder / f"{number}.jsonl").write_text(raw)
    return found


@pytest.mark.parametrize("kind", ["text", "jsonl", "jsonl.gz", "csv", "parquet"])
def test_an_estimate_is_near_the_count_of_all(tmp_path, kind):
    found = write(tmp_path, kind)
    data = DataConfig(source=kind.partition(".")[0], path=str(tmp_path))
    about = estimate(data, BYTES)["data"]
    assert about.train + about.validation == pytest.approx(
        sum(len(text) + 1 for text in found), rel=0.1
    )
    assert about.sampled_bytes < 2 * SAMPLE_BYTES


def bytes_read():
    return int(Path("/proc/self/io").read_text().split()[1])


def test_of_ten_gigabytes_about_a_megabyte_is_read(tmp_path):
    line = json.dumps({"text": "a line of a corpus that is far too large to be read"}) + "\n"
    part = line * (4 * 10**6 // len(line))
    (tmp_path / "0.jsonl").write_text(part)
    for number in range(1, 2500):
        os.link(tmp_path / "0.jsonl", tmp_path / f"{number}.jsonl")
    whole = tmp_path / "whole.txt"
    whole.write_text("So it goes on. " * (2 * SAMPLE_BYTES // 15))
    os.truncate(whole, 10 * 10**9)
    for source, path, size in (("jsonl", tmp_path, 2500 * len(part)), ("text", whole, 10**10)):
        before = bytes_read()
        about = estimate(DataConfig(source=source, path=str(path)), BYTES)["data"]
        assert bytes_read() - before < 3 * SAMPLE_BYTES
        share = 1.0 if source == "text" else (len(line) - 12) / len(line)  # without {"text": ...}
        assert about.train + about.validation == pytest.approx(size * share, rel=0.03)


def test_what_filters_leave_out_does_not_count(tmp_path):
    lines = [json.dumps({"text": "short" if i % 2 else "a longer text " * 9}) for i in range(400)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    data = DataConfig(source="jsonl", path=str(tmp_path), filters=[{"name": "length", "min": 20}])
    assert estimate(data, BYTES)["data"].documents == pytest.approx(190, rel=0.02)


def test_documents_of_their_own_for_validation_are_counted_apart(tmp_path):
    (tmp_path / "train.txt").write_text("a word " * 200)
    (tmp_path / "held-out.txt").write_text("a word " * 30)
    own = ValidationConfig(path=str(tmp_path / "held-out.txt"))
    data = DataConfig(source="text", path=str(tmp_path / "train.txt"), validation=own)
    about = estimate(data, BYTES)["data"]
    assert (about.train, about.validation) == pytest.approx((1401, 211), rel=0.01)


def test_what_is_wrong_at_the_places_looked_at_is_told(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": 5}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1"):
        estimate(DataConfig(source="jsonl", path=str(tmp_path)), BYTES)


def test_of_data_elsewhere_nothing_is_fetched():
    assert estimate(DataConfig(source="jsonl", path="https://localhost:1/x.jsonl"), BYTES) is None
    assert estimate(DataConfig(source="hf", path="nobody/nothing"), BYTES) is None
