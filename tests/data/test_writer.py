import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data.files import DataError
from data.shards import (
    ShardEntry,
    ShardSet,
    Tokenized,
    write_manifest,
    write_shard,
)
from tests.data.writing import write_shards

END = 7
LIMITS = {"max_id": 999, "end_of_text": END}
ABOUT = {"name": "train", "records": "text", "tokenizer": "t" * 64, "settings": {"a": 1}}


def document(ids, number=0, spans=()):
    digest = number.to_bytes(2, "big") + bytes(14)
    return Tokenized(np.asarray(ids), digest, f"c/a.jsonl:{number + 1}", 3 * len(ids), spans)


def some_documents(count=60, largest=999, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 200, count)
    return [
        document(np.append(rng.integers(8, largest + 1, size), END), i, ((0, size + 1),) * (i % 2))
        for i, size in enumerate(sizes.tolist())
    ]


def make(folder, documents, shard_tokens=1000, **changes):
    return write_shards(folder, documents, shard_tokens=shard_tokens, **(LIMITS | ABOUT | changes))


def run(code, *arguments, **options):
    """Another Python process; the code gets `arguments` in sys.argv."""
    command = [sys.executable, "-c", "import sys\n" + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize(
    ("max_id", "dtype"), [(65_534, "uint16"), (65_535, "uint16"), (65_536, "uint32")]
)
def test_the_width_follows_the_largest_id_there_may_be(tmp_path, max_id, dtype):
    manifest = make(tmp_path / "set", [document([max_id, END])], max_id=max_id)
    assert manifest.dtype == dtype
    assert ShardSet.open(tmp_path / "set").read(0, 2).tolist() == [max_id, END]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (document([3, 4], 8), "from c/a.jsonl:9 doesn't end with end of text 7"),
        (document(np.array([], np.int64)), "doesn't end with"),
        (document([1000, END]), r"ids 7..1000, outside 0..999: they are another tokenizer's"),
        (document([-1, END]), "ids -1..7"),
        (document(np.array([65_536 + 3, END], np.uint32)), r"ids 7..65539"),
        (document([0.5, END]), "float64 ids"),
        (document([3, END], 0, ((1, 3),)), "spans"),
    ],
)
def test_documents_that_break_the_format_are_refused(tmp_path, bad, message):
    with pytest.raises(DataError, match=message):
        make(tmp_path / "set", [document([3, END]), bad])
    assert not list((tmp_path).rglob("*.arrow"))


def test_nothing_to_write_is_refused(tmp_path):
    with pytest.raises(DataError, match="no documents"):
        make(tmp_path / "set", [])


def test_the_fingerprint_is_of_the_content_not_of_the_folder(tmp_path):
    documents = some_documents()
    first = make(tmp_path / "a", documents)
    assert make(tmp_path / "b", documents).fingerprint == first.fingerprint
    changed = list(documents)
    changed[40] = dataclasses.replace(changed[40], ids=changed[40].ids[1:])
    moved = list(documents)
    moved[40] = dataclasses.replace(moved[40], place="elsewhere")
    masked = list(documents)
    masked[40] = dataclasses.replace(masked[40], spans=((0, 1),))
    others = [
        make(tmp_path / "c", changed),
        make(tmp_path / "d", documents[::-1]),
        make(tmp_path / "e", documents, tokenizer="u" * 64),
        make(tmp_path / "f", documents, settings={"a": 2}),
        make(tmp_path / "g", documents, max_id=998 + 65_536),
        make(tmp_path / "h", masked),
        make(tmp_path / "i", documents, records="preferences"),
    ]
    assert len({m.fingerprint for m in [first, *others]}) == 8
    # Text that stands elsewhere is the same text.
    assert make(tmp_path / "j", moved).fingerprint == first.fingerprint


def test_worker_processes_write_shards_and_hand_back_entries_as_json(tmp_path):
    documents = some_documents()
    expected = make(tmp_path / "one", documents, shard_tokens=10**9)
    code = """
import json, dataclasses, numpy as np
from pathlib import Path
from data.shards import Tokenized, write_shard
ids, spans = json.loads(sys.argv[2])
documents = [
    Tokenized(np.array(x, np.uint16), i.to_bytes(2, "big") + bytes(14), f"c/a.jsonl:{i + 1}",
              3 * len(x), tuple(map(tuple, s)))
    for i, (x, s) in enumerate(zip(ids, spans))
]
entry = write_shard(Path(sys.argv[1]), 0, documents, max_id=999, end_of_text=7)
print(json.dumps(dataclasses.asdict(entry)))
"""
    sent = json.dumps([[d.ids.tolist() for d in documents], [d.spans for d in documents]])
    worker = run(code, tmp_path / "two", sent)
    entry = ShardEntry(**json.loads(worker.communicate()[0]))
    assert write_manifest(tmp_path / "two", [entry], **LIMITS, **ABOUT) == expected
    assert ShardSet.open(tmp_path / "two").problems() == []


def test_writing_a_shard_again_changes_nothing(tmp_path):
    documents = some_documents()
    first = write_shard(tmp_path, 0, documents, **LIMITS, sketch='{"a": 1}')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert write_shard(tmp_path, 0, documents, **LIMITS, sketch='{"a": 1}') == first
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(before) == {"shard-00000.arrow", "shard-00000.documents.arrow"}
    write_manifest(tmp_path, [first], **LIMITS, **ABOUT)
    assert ShardSet.open(tmp_path).entries == [first]


def test_entries_that_are_no_set_are_refused(tmp_path):
    one, two = (write_shard(tmp_path, i, some_documents(), **LIMITS) for i in range(2))
    with pytest.raises(DataError, match=r"entry 0 is shard-00001.arrow of uint16, expected shard"):
        write_manifest(tmp_path, [two, one], **LIMITS, **ABOUT)
    with pytest.raises(DataError, match=r"of uint16, expected shard-00000.arrow of uint32"):
        write_manifest(tmp_path, [one], **(LIMITS | {"max_id": 70_000}), **ABOUT)
    (tmp_path / two.documents_file).unlink()
    with pytest.raises(DataError, match=r"shard-00001.documents.arrow is missing"):
        write_manifest(tmp_path, [one, two], **LIMITS, **ABOUT)


def test_a_writer_killed_in_the_middle_leaves_nothing_that_counts(tmp_path):
    code = """
import numpy as np
from pathlib import Path
from data.shards import Tokenized, write_shard
documents = [Tokenized(np.r_[np.full(999_999, 5), 7], bytes(16), "p", 3)] * 4
for number in range(10_000):
    write_shard(Path(sys.argv[1]), number, documents, max_id=999, end_of_text=7)
"""
    folder = tmp_path / "set"
    process = run(code, folder)
    while not (folder / "shard-00002.arrow").exists():
        time.sleep(0.005)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with pytest.raises(DataError, match=r"manifest.json is missing: this is no finished shard set"):
        ShardSet.open(folder)
    (folder / ".shard-00009.arrow.1-ab").write_bytes(b"x")  # as the killed one may have left
    documents = [document(np.r_[np.full(999_999, 5), END])] * 4
    whole = write_shard(tmp_path / "whole", 0, documents, **LIMITS)
    shards = sorted(folder.glob("shard-?????.arrow"))
    assert {path.stat().st_size for path in shards} == {whole.size}  # each has all or no bytes
    entry = write_shard(folder, 0, documents, **LIMITS)
    assert entry == whole
    write_manifest(folder, [entry], **LIMITS, **ABOUT)
    assert not list(folder.glob(".*"))
    assert ShardSet.open(folder).problems() == []


def test_a_full_disk_is_named_and_earlier_shards_stay_valid(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        few = [document([5] * 20_000 + [END], i) for i in range(5)]
        entries = [write_shard(folder, number, few, **LIMITS) for number in range(4)]
        with pytest.raises(DataError, match=r"shard-00004.*No space left on device") as caught:
            write_shard(folder, 4, few * 4, **LIMITS)
        assert "it needs 800,2" in str(caught.value)
        assert not list(folder.glob(".*"))
        write_manifest(folder, entries, **LIMITS, **ABOUT)
        assert ShardSet.open(folder).problems() == []
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_file_that_may_not_grow_is_named_and_earlier_shards_stay_valid(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    first = write_shard(tmp_path, 0, some_documents(), **LIMITS)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(DataError, match=r"shard-00001.arrow can't be written \(File too large"):
            write_shard(tmp_path, 1, [document([5] * 300_000 + [END])], **LIMITS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    write_manifest(tmp_path, [first], **LIMITS, **ABOUT)
    assert ShardSet.open(tmp_path).problems() == []
