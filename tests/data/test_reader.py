import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data.order import Order
from data.shards import (
    BadBlock,
    ShardSet,
    Tokenized,
    blocks,
    manifest,
    reader,
    writer,
)
from tests.data.writing import write_shards

END = 7
LIMITS = {"max_id": 999, "end_of_text": END}
ABOUT = {"name": "train", "records": "text", "tokenizer": "t", "settings": {}}
HASHED = 256  # bytes of a block, 128 tokens

WAYS = {
    "mapped": {},
    "buffered": {"mapped_bytes": 0},
    "one block": {"mapped_bytes": 0, "cache_bytes": 1},
}


def make(folder, tokens, shard_tokens=1000, length=100):
    """Documents of `length` tokens; returns the stream."""
    rng = np.random.default_rng(0)
    stream = rng.integers(8, 1000, tokens // length * length).astype(np.uint16)
    stream[length - 1 :: length] = END
    documents = (Tokenized(ids, bytes(16), "p", 1) for ids in stream.reshape(-1, length))
    write_shards(folder, documents, shard_tokens=shard_tokens, **LIMITS, **ABOUT)
    return stream


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Six shards of 1,000 tokens, seven full blocks and a short one each."""
    for module in (writer, manifest):
        monkeypatch.setattr(module, "HASH_BYTES", HASHED)
    return tmp_path / "set", make(tmp_path / "set", 6000)


def flip(folder, shard, token):
    path = folder / f"shard-{shard:05d}.arrow"
    raw = bytearray(path.read_bytes())
    raw[ShardSet.open(folder).entries[shard].values_at + 2 * token] ^= 16
    path.write_bytes(raw)
    return path


def rows_of(stream, starts, length):
    return np.stack([stream[start : start + length] for start in starts])


@pytest.mark.parametrize("way", WAYS)
def test_any_rows_are_those_ranges_of_the_documents_laid_end_to_end(written, way):
    folder, stream = written
    opened = ShardSet.open(folder, **WAYS[way])
    assert type(opened._reader).__name__ == ("Mapped" if way == "mapped" else "Buffered") + "Reader"
    rng = np.random.default_rng(1)
    for length in (1, 2, 127, 128, 129, 900, 2500, 6000):
        starts = rng.integers(0, 6000 - length + 1, 300)
        expected = rows_of(stream, starts, length)
        found = opened.read_many(starts, length)
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, expected)
        out = np.full((300, length + 1), -1)
        assert opened.read_many(starts, length, out=out[:, 1:]).base is out
        np.testing.assert_array_equal(out[:, 1:], expected)
        assert (out[:, 0] == -1).all()
    for start, stop in np.sort(rng.integers(0, 6001, (100, 2)), axis=1).tolist():
        np.testing.assert_array_equal(opened.read(start, stop), stream[start:stop])
    assert opened.read_many(np.empty(0, np.int64), 5).shape == (0, 5)
    assert opened.read_many(np.array([0, 6000]), 0).shape == (2, 0)


def test_what_is_outside_or_does_not_fit_is_refused(written):
    folder, _ = written
    opened = ShardSet.open(folder)
    for start, stop in [(-1, 3), (0, 6001), (5, 4)]:
        with pytest.raises(IndexError, match=r"not inside 0\.\.6000"):
            opened.read(start, stop)
    starts = np.array([0, 1])
    for out in (np.empty((2, 9), np.int64), np.empty((2, 8), np.int8), np.empty((2, 8), np.int16)):
        with pytest.raises(ValueError, match=r"out is int.*, but \(2, 8\) of uint16"):
            opened.read_many(starts, 8, out=out)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("token", [0, 127, 128, 500, 999])
def test_each_flipped_byte_of_the_tokens_is_found_when_it_is_read(written, way, token):
    folder, stream = written
    path = flip(folder, 1, token)
    opened = ShardSet.open(folder, **WAYS[way])
    block = token // 128
    start, stop = 1000 + 128 * block, min(1000 + 128 * block + 128, 2000)
    for _ in range(2):  # it stays bad
        with pytest.raises(BadBlock) as caught:
            opened.read(990, 2010)
    error = pickle.loads(pickle.dumps(caught.value))
    assert str(error) == str(caught.value)
    assert (error.name, error.file, error.block) == ("train", path.name, block)
    assert (error.start, error.stop) == (start, stop)
    begin = opened.entries[1].values_at + 256 * block
    end = begin + 2 * (stop - start)
    assert f"{path} is not what was written at bytes {begin}..{end}" in str(error)
    assert "prepare the data again" in str(error)
    assert "data.on_bad_block=skip" in str(error)
    np.testing.assert_array_equal(opened.read(0, start), stream[:start])
    np.testing.assert_array_equal(opened.read(stop, 6000), stream[stop:])


@pytest.mark.parametrize("way", WAYS)
def test_rows_that_touch_a_bad_block_are_refused_and_no_others(written, way):
    folder, stream = written
    flip(folder, 2, 300)
    flip(folder, 4, 999)
    opened = ShardSet.open(folder, **WAYS[way])
    starts = np.random.default_rng(0).permutation(5951)
    bad = [(2256, 2384), (4896, 5000)]
    touches = [any(start < b and start + 50 > a for a, b in bad) for start in starts.tolist()]
    for start, is_bad in zip(starts.tolist(), touches, strict=True):
        if is_bad:
            with pytest.raises(BadBlock) as caught:
                opened.read(start, start + 50)
            assert (caught.value.start, caught.value.stop) in bad
    good = starts[~np.array(touches)]
    np.testing.assert_array_equal(opened.read_many(good, 50), rows_of(stream, good, 50))
    with pytest.raises(BadBlock):
        opened.read_many(starts, 50)


@pytest.mark.parametrize("way", WAYS)
def test_a_block_that_is_damaged_once_is_read_again_from_the_disk(written, way, monkeypatch):
    folder, stream = written
    path = folder / "shard-00001.arrow"
    whole = path.read_bytes()
    flip(folder, 1, 3)
    advised = []

    def repaired(descriptor, start, size, advice):
        if advice == os.POSIX_FADV_DONTNEED:  # the disk has what the page cache has not
            advised.append((start, size))
            path.write_bytes(whole)

    monkeypatch.setattr(os, "posix_fadvise", repaired)
    opened = ShardSet.open(folder, **WAYS[way])
    np.testing.assert_array_equal(opened.read(0, 6000), stream)
    assert advised == [(opened.entries[1].values_at, HASHED)]


@pytest.mark.parametrize("way", WAYS)
def test_a_file_cut_after_it_was_read_raises_and_does_not_kill_the_process(written, way):
    code = """
import os, sys, numpy as np
from pathlib import Path
from data.shards import BadBlock, ShardSet
opened = ShardSet.open(Path(sys.argv[1]), **eval(sys.argv[2]))
before = opened.read(0, 6000)
os.truncate(Path(sys.argv[1]) / "shard-00001.arrow", 0)
good, errors = 0, []
for start in range(0, 6000, 100):
    try:
        good += int((opened.read(start, start + 100) == before[start : start + 100]).all())
    except BadBlock as error:
        errors.append(str(error))
print(good, *errors)
"""
    folder, _ = written
    command = [sys.executable, "-c", code, str(folder), repr(WAYS[way])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if way == "buffered":  # it has all of it in memory
        assert done.stdout == "60\n"
    else:
        assert "is torn" in done.stdout
        assert done.stdout.split()[0] == "50"


def test_a_mapped_block_is_compared_once_and_a_cached_one_each_time_it_is_read(written):
    folder, _ = written
    opened = {way: ShardSet.open(folder, **options) for way, options in WAYS.items()}
    for _ in range(3):
        for shards in opened.values():
            shards.read(0, 6000)
    assert opened["mapped"].bytes_read == opened["buffered"].bytes_read == 2 * 6000
    assert opened["one block"].bytes_read == 3 * 2 * 6000
    assert opened["one block"]._reader.held_bytes <= HASHED


@pytest.mark.parametrize("way", WAYS)
def test_threads_read_what_one_thread_reads(written, way):
    folder, stream = written
    opened = ShardSet.open(folder, **WAYS[way])

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(30):
            starts = rng.integers(0, 5800, 40)
            expected = rows_of(stream, starts, 200)
            np.testing.assert_array_equal(opened.read_many(starts, 200), expected)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    if way != "one block":
        assert opened.bytes_read <= 2 * 6000  # threads wait for each other's reads


@pytest.mark.parametrize("way", ["mapped", "buffered"])
def test_what_was_prefetched_is_there_when_it_is_read(written, way, monkeypatch):
    monkeypatch.setattr(reader, "PREFETCH_BLOCKS", 2)  # so that asking has to wait
    folder, stream = written
    flip(folder, 0, 0)
    opened = ShardSet.open(folder, **WAYS[way])
    opened.prefetch(np.arange(0, 6000, 100), 100)
    opened._reader._pool.shutdown()
    # The damaged block was read twice, and was not worth a word until now.
    assert opened.bytes_read == 2 * 6000 + HASHED
    np.testing.assert_array_equal(opened.read(128, 6000), stream[128:])
    with pytest.raises(BadBlock):
        opened.read(0, 1)
    assert opened.bytes_read == 2 * 6000 + HASHED


def test_the_windowed_order_reads_each_block_about_once(tmp_path, monkeypatch):
    for module in (writer, manifest):
        monkeypatch.setattr(module, "HASH_BYTES", 512)
    block, cached, R = 4096, 256, 100  # rows that fit no block; 8 hashes per block of the order
    stream = make(tmp_path / "set", 2**21, shard_tokens=2**19)
    opened = ShardSet.open(tmp_path / "set", mapped_bytes=0, cache_bytes=cached * block)
    count, rows = len(stream) // R, block // (2 * R)
    order = Order(count, 0, "set", block=rows, lanes=64, window=rows * cached // 2 // 64)
    for first in range(0, count - 64, 64):
        starts = np.maximum(order(np.arange(first, first + 64)) * R - 1, 0)
        opened.read_many(starts, R + 1)
    useful = 2 * R * count
    assert opened.bytes_read < 1.3 * useful
    assert opened._reader.held_bytes <= cached * block


def test_memory_stays_bounded_over_a_long_read(tmp_path):
    code = """
import sys, numpy as np, psutil
from pathlib import Path
from data.shards import ShardSet
opened = ShardSet.open(Path(sys.argv[1]), mapped_bytes=0, cache_bytes=4 << 20)
rng, process, peaks = np.random.default_rng(0), psutil.Process(), []
for _ in range(200):
    opened.read_many(rng.integers(0, opened.tokens - 1025, 64), 1025)
    assert opened._reader.held_bytes <= 4 << 20
    peaks.append(process.memory_info().rss)
print(opened.bytes_read, max(peaks[20:]) - max(peaks[:20]))
"""
    make(tmp_path / "set", 2**24, shard_tokens=2**22, length=2**12)
    command = [sys.executable, "-c", code, str(tmp_path / "set")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    read, growth = map(int, done.stdout.split())
    assert read > 1 << 30  # 32 MiB many times over
    assert growth < 8 << 20  # twice the cache: the blocks of a batch, and what malloc keeps


def test_open_files_are_bounded(written, monkeypatch):
    monkeypatch.setattr(blocks, "OPEN_FILES", 2)
    folder, stream = written
    before = len(list(Path("/proc/self/fd").iterdir()))
    opened = ShardSet.open(folder, mapped_bytes=0, cache_bytes=1)
    np.testing.assert_array_equal(opened.read(0, 6000), stream)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_large_remote_and_many_file_sets_are_not_mapped(written, monkeypatch):
    folder, _ = written
    size = sum(entry.size for entry in ShardSet.open(folder).entries)

    def is_mapped(**options):
        return isinstance(ShardSet.open(folder, **options)._reader, reader.MappedReader)

    assert is_mapped()
    assert is_mapped(mapped_bytes=size)
    assert not is_mapped(mapped_bytes=size - 1)
    for setting, value in (("OPEN_FILES", 5), ("LOCAL", ("none",))):
        with monkeypatch.context() as patch:
            patch.setattr(reader, setting, value)
            assert not is_mapped()
