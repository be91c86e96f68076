"""The units of work of `prepare`: the same result by any workers, whatever is killed meanwhile."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from cluster.pool import Placement, pool, ray_session
from data import DataConfig, DataError, TokenizerConfig, prepare
from data.config import SourceConfig
from data.preparation.assemble import ranges
from data.preparation.encoding import batches
from data.preparation.running import inline
from data.preparation.scan import SAMPLE, Sample, training_texts
from data.preparation.spill import BINS

BYTES = TokenizerConfig(kind="bytes")
BPE = TokenizerConfig(vocab_size=300)
WORDS = ["".join(random.Random(n).choices("abcdefgh", k=n % 7 + 1)) for n in range(300)]


def sentences(count, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(5, 60))) + f" no {i}" for i in range(count)]


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def jsonl(path, **settings):
    return DataConfig(source="jsonl", path=str(path), **settings)


def documents_of(shards, tokenizer):
    return [tokenizer.decode(shards.document(i)[:-1].tolist()) for i in range(shards.documents)]


def everything(done):
    """All documents with what is known of each."""
    return [
        (split, shards.document(i).tolist(), shards.digest(i), shards.place(i))
        for split, shards in (("train", done.train), ("validation", done.validation))
        for i in range(shards.documents)
    ]


@pytest.fixture(autouse=True)
def small_units(tmp_path, monkeypatch):
    """A cache of its own, units of 8 kB, shards of 4,000 tokens."""
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("data.sources.inputs.UNIT_BYTES", 1 << 13)
    monkeypatch.setattr("data.preparation.assemble.SHARD_TOKENS", 4000)


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """Empties the cache, as it were."""
    numbers = iter(range(1000))

    def fresh():
        monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / f"cache-{next(numbers)}"))

    return fresh


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with ray_session(Placement(2, 1), log_folder=tmp_path_factory.mktemp("ray")) as session:
        yield session


@pytest.fixture
def workers(session, tmp_path):
    """A runner of so many real workers."""
    with ExitStack() as stack:

        def of(count, attempts=3):
            options = {"session": session, "attempts": attempts, "log_folder": tmp_path / "logs"}
            return stack.enter_context(pool(Placement(count, 1), **options)).run

        yield of


class Counting:
    """An inline runner that counts what it was given."""

    def __init__(self):
        self.given = Counter()

    def __call__(self, function, arguments, on_result):
        self.given[function.__name__] += len(arguments)
        return inline(function, arguments, on_result)


@pytest.fixture
def corpus(tmp_path):
    """Two files of 60 kB: repeats within a unit, across units and across files."""
    texts = sentences(300)
    (tmp_path / "corpus").mkdir()
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [*texts[:200], texts[3], texts[3], texts[190]])
    write_jsonl(tmp_path / "corpus" / "b.jsonl", [texts[5], *texts[200:], texts[199]])
    return jsonl(tmp_path / "corpus"), texts


def test_neither_units_nor_shards_nor_workers_show_in_the_documents(
    corpus, workers, fresh, monkeypatch
):
    config, texts = corpus
    undisturbed = prepare(config, BPE)
    assert len(undisturbed.train.entries) > 3
    assert undisturbed.facts["duplicates_dropped"] == 5
    assert undisturbed.datasets["data"].report["exact_duplicates"].seen == 305
    train = documents_of(undisturbed.train, undisturbed.tokenizer)
    validation = documents_of(undisturbed.validation, undisturbed.tokenizer)
    assert sorted(train + validation) == sorted(texts)
    for count in (1, 2):
        fresh()
        done = prepare(config, BPE, run=workers(count))
        assert done.fingerprint == undisturbed.fingerprint
        assert done.datasets["data"].report == undisturbed.datasets["data"].report
    fresh()
    monkeypatch.setattr("data.preparation.spill.PART_DOCUMENTS", 1)
    monkeypatch.setattr("data.preparation.tokenize.batches", partial(batches, characters=500))
    # Repeats are found later now, so shards end elsewhere.
    parts = prepare(config, BPE)
    assert everything(parts) == everything(undisturbed)
    fresh()
    monkeypatch.setattr("data.sources.inputs.UNIT_BYTES", 1 << 20)
    monkeypatch.setattr("data.preparation.assemble.SHARD_TOKENS", 1 << 20)
    whole = prepare(config, BPE)
    assert len(whole.train.entries) == 1
    assert [d[:3] for d in everything(whole)] == [d[:3] for d in everything(undisturbed)]


def test_of_equal_records_the_first_one_stays_and_the_report_names_both(corpus):
    config, texts = corpus
    done = prepare(config, BYTES)
    places = {
        documents_of(shards, done.tokenizer)[i]: shards.place(i)
        for shards in (done.train, done.validation)
        for i in range(shards.documents)
    }
    folder = Path(config.path)
    assert places[texts[5]] == f"{folder / 'a.jsonl'}:6"
    offset = sum(len(json.dumps({"text": text})) + 1 for text in texts[:190])
    assert places[texts[190]] == f"{folder / 'a.jsonl'}: byte {offset}"
    count = done.datasets["data"].report["exact_duplicates"]
    assert (count.dropped, sum(count.reasons.values())) == (5, 5)
    assert count.bytes_dropped == sum(len(texts[i]) for i in (3, 3, 190, 5, 199))
    assert {e.place: e.reason for e in count.examples}[f"{folder / 'b.jsonl'}:1"].endswith(
        f"equal to an earlier record at {folder / 'a.jsonl'}:6"
    )


def test_workers_killed_at_random_moments_change_nothing(corpus, workers, fresh):
    config, _ = corpus
    undisturbed = prepare(config, BPE)
    fresh()
    over, killed, rng = threading.Event(), [], random.Random(1)

    def kill_now_and_then():
        while len(killed) < 4 and not over.wait(rng.uniform(0.2, 0.8)):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # a zombie has no command any more
                    if "PoolWorker" in " ".join(process.cmdline()):
                        process.send_signal(signal.SIGKILL)
                        killed.append(process.pid)
                        break

    thread = threading.Thread(target=kill_now_and_then)
    thread.start()
    try:
        done = prepare(config, BPE, run=workers(2, attempts=6))
    finally:
        over.set()
        thread.join()
    assert killed
    assert done.fingerprint == undisturbed.fingerprint
    assert done.train.problems() == []


KILLED_AT = """
import os, signal, sys
import data.sources.inputs, data.preparation.assemble
from data import DataConfig, TokenizerConfig, prepare
data.sources.inputs.UNIT_BYTES, data.preparation.assemble.SHARD_TOKENS = 1 << 13, 4000
done = 0

def run(function, arguments, on_result):
    global done
    for number, argument in enumerate(arguments):
        if done == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        on_result(number, function(argument))
        done += function.__name__ != "scan"

prepare(DataConfig(source="jsonl", path=sys.argv[1]), TokenizerConfig(vocab_size=300), run=run)
"""


@pytest.mark.parametrize("moment", ["tokenize", "write", "measure"])
def test_after_a_killed_driver_only_the_missing_units_are_done(corpus, fresh, moment):
    config, _ = corpus
    whole = Counting()
    undisturbed = prepare(config, BPE, run=whole)
    units, shards = whole.given["tokenize"], whole.given["write"]
    assert whole.given == {"scan": units, "tokenize": units, "write": shards, "measure": 2}
    assert units > 5
    fresh()
    at = {"tokenize": 3, "write": units + 2, "measure": units + shards}[moment]
    arguments = [sys.executable, "-c", KILLED_AT, config.path, str(at)]
    assert subprocess.run(arguments).returncode == -signal.SIGKILL
    rest, said = Counting(), []
    done = prepare(config, BPE, said.append, rest)
    assert done.fingerprint == undisturbed.fingerprint
    missing = {"tokenize": max(0, units - at), "write": min(shards, units + shards - at)}
    assert rest.given == Counter(missing | {"measure": 2})
    assert f"tokenizing: {min(at, units)} of {units} units were done before" in said
    assert not list((Path(os.environ["ORCHESTRATE_CACHE"]) / "data" / "work").iterdir())


def test_a_full_disk_stops_with_the_remedy_and_leaves_earlier_sets_and_finished_units(
    corpus, tmp_path
):
    config, texts = corpus
    earlier = prepare(jsonl(write_jsonl(tmp_path / "c.jsonl", texts[:50])), BYTES)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing then fails with EFBIG
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"can't be written.*make room"):
            prepare(config, BYTES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert earlier.train.problems() == []
    again = Counting()
    assert prepare(jsonl(tmp_path / "c.jsonl"), BYTES, run=again).fingerprint == earlier.fingerprint
    assert not again.given
    assert prepare(config, BYTES, run=again).train.problems() == []


def test_a_bad_row_in_the_middle_is_named_and_the_set_of_before_stays(corpus, workers, tmp_path):
    config, texts = corpus
    before = prepare(config, BYTES)
    path = write_jsonl(tmp_path / "corpus" / "c.jsonl", [*texts, "last"])
    lines = Path(path).read_text().splitlines(keepends=True)
    Path(path).write_text("".join([*lines[:100], '{"text": 5}\n', *lines[100:]]))
    for run in (inline, workers(2)):
        with pytest.raises(DataError, match=r"c\.jsonl: row 101: |c\.jsonl:101: ") as caught:
            prepare(config, BYTES, run=run)
        assert "text" in str(caught.value)
    assert before.train.problems() == []
    Path(path).unlink()
    assert prepare(config, BYTES).fingerprint == before.fingerprint


def test_a_file_that_changes_while_it_is_read_is_noticed_before_anything_is_published(corpus):
    config, _ = corpus
    path = Path(config.path) / "b.jsonl"

    def run(function, arguments, on_result):
        path.write_text(path.read_text() + '{"text": "more"}\n')
        return inline(function, arguments, on_result)

    with pytest.raises(DataError, match="changed while it was read; start again"):
        prepare(config, BYTES, run=run)
    assert not (Path(os.environ["ORCHESTRATE_CACHE"]) / "data" / "sets").exists()


def test_pairs_stay_together_and_are_compared_as_pairs(tmp_path):
    rows = [
        {"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"}
        for i in range(60)
    ]
    rows += [rows[7], {**rows[8], "rejected": "another"}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = prepare(jsonl(path, records="preferences", validation_fraction=0.2), BYTES)
    assert done.facts["duplicates_dropped"] == 1
    seen = []
    for shards in (done.train, done.validation):
        texts = documents_of(shards, done.tokenizer)
        assert len(texts) % 2 == 0
        for i in range(0, len(texts), 2):
            assert shards.place(i) == shards.place(i + 1)
            pair = [
                text.split("<|assistant|>\n")[1].removesuffix("<|end|>") for text in texts[i:][:2]
            ]
            seen.append(tuple(pair))
            for document, answer in zip((i, i + 1), pair, strict=True):
                ((start, stop),) = shards.spans(document)
                ids = shards.document(document)
                assert stop == len(ids)  # to the end of text
                assert done.tokenizer.decode(ids[start : stop - 1].tolist()) == f"{answer}<|end|>"
    assert sorted(seen) == sorted({(row["chosen"], row["rejected"]) for row in rows})


def test_a_dataset_that_enters_a_mixture_later_changes_neither_tokenizer_nor_the_other_sets(
    tmp_path,
):
    paths = {
        n: write_jsonl(tmp_path / f"{n}.jsonl", sentences(150, i)) for i, n in enumerate("abc")
    }
    sources = {
        n: SourceConfig(source="jsonl", path=path, weight=i + 1)
        for i, (n, path) in enumerate(paths.items())
    }
    sources["c"].weight = None
    two = prepare(DataConfig(datasets={n: sources[n] for n in "ab"}), BPE)
    again, said = Counting(), []
    three = prepare(DataConfig(datasets=sources), BPE, said.append, again)
    assert three.tokenizer.fingerprint == two.tokenizer.fingerprint
    assert [three.datasets[n].folder for n in "ab"] == [two.datasets[n].folder for n in "ab"]
    assert not any("training" in line for line in said)
    assert again.given["scan"] == 0
    assert {n: d.weight for n, d in three.datasets.items()} == {"a": 1, "b": 2, "c": None}
    assert three.fingerprint != two.fingerprint
    assert list(three.train_sets) == list(three.validation_sets) == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"mixture \(a, b, c\)"):
        _ = three.train
    low, high = (f(d.baselines["gzip"] for d in three.datasets.values()) for f in (min, max))
    assert low <= three.baselines["gzip"] <= high
    assert three.facts["c/train_tokens"] == three.datasets["c"].train.tokens
    # Weighted from the start, it has a say in the tokenizer.
    sources["c"].weight = 1
    assert (
        prepare(DataConfig(datasets=sources), BPE).tokenizer.fingerprint
        != two.tokenizer.fingerprint
    )


def test_one_source_under_two_names_is_one_set(tmp_path):
    source = SourceConfig(source="jsonl", path=write_jsonl(tmp_path / "a.jsonl", sentences(50)))
    done = prepare(DataConfig(datasets={"a": source, "b": source}), BYTES)
    assert done.datasets["a"].folder == done.datasets["b"].folder


def test_near_copies_are_left_out_after_equal_ones_and_of_the_tokenizers_text_too(tmp_path):
    texts = sentences(120)
    long = [" ".join(WORDS[i : i + 80]) for i in (0, 100, 200)]
    near = [f"{long[0]} indeed", f"{long[1]} zzzzz"]
    everything = [*texts[:60], *long, *texts[60:], near[0], near[0], *near]
    filters = [{"name": "length", "min": 5}, {"name": "near_duplicates", "threshold": 0.8}]
    config = jsonl(write_jsonl(tmp_path / "a.jsonl", [*everything, "x"]), filters=filters)
    done = prepare(config, BPE)
    kept = [t for s in (done.train, done.validation) for t in documents_of(s, done.tokenizer)]
    assert sorted(kept) == sorted([*texts, *long])
    report = done.datasets["data"].report
    assert [count.dropped for count in report.filters] == [1, 0, 2, 2]
    assert [count.seen for count in report.filters] == [128, 127, 127, 125]
    offset = sum(len(json.dumps({"text": text})) + 1 for text in texts[:60])
    reasons = [example.reason for example in report["near_duplicates"].examples]
    assert any(reason.endswith(f"at {tmp_path / 'a.jsonl'}: byte {offset}") for reason in reasons)
    clean = prepare(jsonl(write_jsonl(tmp_path / "b.jsonl", [*texts, *long])), BPE)
    assert clean.tokenizer.fingerprint == done.tokenizer.fingerprint


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_no_split_and_no_shard_is_empty_wherever_the_limit_lies(tmp_path, fraction):
    texts = sentences(200)
    config = jsonl(write_jsonl(tmp_path / "a.jsonl", texts), validation_fraction=fraction)
    done = prepare(config, BYTES)
    small, large = sorted((done.train, done.validation), key=lambda shards: shards.documents)
    assert (small.documents, large.documents) == (1, 199)
    assert len(large.entries) > 3
    digests = sorted(shards.digest(i) for shards in (small, large) for i in range(shards.documents))
    assert small.digest(0) == (digests[0] if small is done.validation else digests[-1])


def test_a_tokenizer_needs_text_in_the_train_split(tmp_path):
    config = jsonl(write_jsonl(tmp_path / "a.jsonl", sentences(9)), validation_fraction=1 - 1e-9)
    with pytest.raises(DataError, match=r"no text in its train split.*tokenizer.kind=bytes"):
        prepare(config, BPE)


def test_ranges_cover_all_bins_none_empty_and_about_equal():
    rng = np.random.default_rng(0)
    for filled in (1, 2, 5, 100, BINS):
        counts = np.zeros((2, BINS), np.int64)
        chosen = rng.choice(BINS, filled, replace=False)
        counts[0, chosen] = rng.integers(1, 9, filled)
        counts[1, chosen] = rng.integers(1, 2000, filled)
        cut = ranges(counts)
        assert [start for start, _ in cut] == [0, *(stop for _, stop in cut[:-1])]
        assert cut[-1][1] == BINS
        sizes = [counts[1, a:b].sum() for a, b in cut]
        assert all(counts[0, a:b].sum() for a, b in cut)
        assert filled < 100 or max(sizes) < 4000 + 2 * 2000
    assert ranges(np.zeros((2, BINS), np.int64)) == [(0, BINS)]


def test_a_sample_is_the_lowest_keys_in_any_order_and_says_below_what_it_is_complete():
    rng = random.Random(0)
    records = {rng.randbytes(16): (b"x" * rng.randint(1, 50),) for _ in range(500)}
    samples = []
    for order in range(3):
        items = sorted(records) if order else list(records)
        random.Random(order).shuffle(items)
        sample = Sample(1000)
        for digest in items:
            sample.add(digest, 0, records[digest])
        samples.append([digest for digest, _, _ in sample.items()])
        assert set(samples[-1]) == {
            d for d in records if int.from_bytes(d[8:], "big") < sample.below
        }
    assert samples[0] == samples[1] == samples[2]
    size = sum(len(records[digest][0]) for digest in samples[0])
    assert 950 <= size <= 1000


def test_what_a_tokenizer_is_trained_on_is_the_lowest_keys_of_all_samples(tmp_path, monkeypatch):
    monkeypatch.setattr("data.preparation.scan.TRAIN_BYTES", 3000)
    rng = random.Random(1)
    records = {rng.randbytes(16): tuple("xé" * rng.randint(0, 9) for _ in "ab") for _ in range(400)}
    folders, left_out, taken, below = [], [], [], 1 << 64
    for number in range(3):  # they overlap
        sample = Sample(2500)
        own = sorted(records)[number * 100 : number * 100 + 200]
        for row, digest in enumerate(own):
            sample.add(digest, row, tuple(text.encode() for text in records[digest]))
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        sample.save(folders[-1] / SAMPLE)
        left_out.append(dict.fromkeys(range(0, 200, 7), "a copy"))
        own = {digest for row, digest in enumerate(own) if row % 7}
        taken.append({d for d in own if int.from_bytes(d[8:], "big") < sample.below})
        below = min(below, sample.below)
    found = training_texts([(folders[:1], left_out[:1]), (folders[1:], left_out[1:])])
    expected, size = [], 0
    for digest in sorted(set.union(*taken), key=lambda own: own[8:]):
        size += sum(len(text.encode()) for text in records[digest])
        if size > 3000 or int.from_bytes(digest[8:], "big") >= below:
            break
        expected += records[digest]
    assert sorted(found) == sorted(expected)
    assert (found.documents, found.bytes) == (len(expected), len("".join(expected).encode()))


def test_progress_is_said_now_and_then(corpus, monkeypatch):
    config, _ = corpus
    monkeypatch.setattr("data.preparation.running.SAY_EVERY_S", 0.0)
    said = []
    prepare(config, BYTES, said.append)
    first, *lines = [line for line in said if line.startswith("tokenizing: ")]
    assert first.endswith(" units")
    assert len(lines) >= 5
    assert all(" units, " in line and "B/s, " in line and line.endswith(" left") for line in lines)
    assert said[-2].startswith("prepared in 0:0")
    assert said[-1] == "data: left out of 305 records exact_duplicates: 5"


def test_work_that_nobody_went_on_with_is_removed(corpus, tmp_path):
    work = tmp_path / "cache" / "data" / "work"
    for name, days in (("old", 8), ("new", 1)):
        (work / name / "tokenize-00000").mkdir(parents=True)
        os.utime(work / name, (time.time() - days * 86400,) * 2)
    prepare(corpus[0], BYTES)
    assert [folder.name for folder in work.iterdir()] == ["new"]
