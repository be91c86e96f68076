import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from data import DataConfig, DataError, TokenizerConfig, prepare
from data.config import SourceConfig
from data.filters import filters_of
from data.preparation.assemble import _publish
from data.preparation.work import DatasetWork

BYTES = TokenizerConfig(kind="bytes")
PREPARE = """
import sys
from data import DataConfig, TokenizerConfig, prepare
done = prepare(
    DataConfig(source="jsonl", path=sys.argv[1]),
    TokenizerConfig(vocab_size=int(sys.argv[2])),
    lambda line: print("said", line, flush=True),
)
print("fingerprint", done.fingerprint, flush=True)
"""


def sentences(count, seed=0):
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(1, 7))) for _ in range(300)]
    return [" ".join(rng.choices(words, k=rng.randint(5, 60))) + f" no {i}" for i in range(count)]


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return DataConfig(source="jsonl", path=str(path))


def documents_of(split, tokenizer):
    ids = split.read(0, split.tokens)
    ends = np.flatnonzero(ids == tokenizer.end_of_text) + 1
    return [tokenizer.decode(part[:-1].tolist()) for part in np.split(ids, ends[:-1])]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


def test_every_document_comes_back_once_in_an_order_that_is_not_the_sources(tmp_path):
    texts = sentences(400)
    config = write_jsonl(tmp_path / "a.jsonl", [*texts, "", "  \n", *texts[:7]])
    done = prepare(config, TokenizerConfig(vocab_size=400))
    train = documents_of(done.train, done.tokenizer)
    validation = documents_of(done.validation, done.tokenizer)
    assert sorted(train + validation) == sorted(texts)
    assert np.corrcoef([texts.index(text) for text in train], range(len(train)))[0, 1] < 0.2
    again = prepare(write_jsonl(tmp_path / "b.jsonl", texts[::-1]), TokenizerConfig(vocab_size=400))
    assert documents_of(again.train, again.tokenizer) == train
    assert 4 < len(validation) < 45  # 20 expected
    said: list[str] = []
    prepare(config, TokenizerConfig(vocab_size=400), said.append)  # from the cache, it is said too
    assert said == ["data: left out of 409 records no_text: 2, exact_duplicates: 7"]
    facts = done.facts
    assert (facts["duplicates_dropped"], facts["empty_dropped"]) == (7, 2)
    assert facts["documents"] == 400
    assert facts["validation_bytes"] == sum(len(text.encode()) for text in validation)
    assert facts["train_tokens"] == done.train.tokens
    assert done.tokenizer.vocab_size == 400
    assert list(done.baselines) == ["unigram", "bigram", "trigram", "gzip", "xz"]


def test_the_split_of_a_document_depends_on_its_text_alone(tmp_path):
    texts = sentences(400)
    first = prepare(write_jsonl(tmp_path / "a.jsonl", texts), BYTES)
    validation = set(documents_of(first.validation, first.tokenizer))
    more = [*sentences(200, seed=1), *texts[::-1]]
    second = prepare(write_jsonl(tmp_path / "b.jsonl", more), BYTES)
    again = set(documents_of(second.validation, second.tokenizer))
    assert again & set(texts) == validation
    assert first.fingerprint != second.fingerprint


def test_no_split_is_empty_however_small_the_corpus(tmp_path):
    done = prepare(write_jsonl(tmp_path / "a.jsonl", ["one text", "another"]), BYTES)
    assert done.train.manifest.documents == done.validation.manifest.documents == 1


def test_the_second_call_says_nothing_and_is_quick(tmp_path):
    config = write_jsonl(tmp_path / "a.jsonl", sentences(300))
    said = []
    first = prepare(config, TokenizerConfig(vocab_size=300), said.append)
    assert said
    said.clear()
    started = time.perf_counter()
    second = prepare(config, TokenizerConfig(vocab_size=300), said.append)
    assert time.perf_counter() - started < 2  # 0.02 s on an idle machine
    assert said == []
    assert second.fingerprint == first.fingerprint
    assert second.facts == first.facts
    assert second.baselines == first.baselines


def test_a_touched_file_is_read_again_but_is_the_same_set(tmp_path, cache):
    config = write_jsonl(tmp_path / "a.jsonl", sentences(50))
    first = prepare(config, BYTES)
    os.utime(tmp_path / "a.jsonl")
    said = []
    second = prepare(config, BYTES, said.append)
    assert said
    assert first.train.folder == second.train.folder
    assert len(list((cache / "sets").iterdir())) == 1


def test_the_same_text_elsewhere_has_the_same_fingerprint_but_knows_its_own_places(tmp_path):
    texts = sentences(50)
    first = prepare(write_jsonl(tmp_path / "a.jsonl", texts), BYTES)
    second = prepare(write_jsonl(tmp_path / "b.jsonl", texts[::-1]), BYTES)
    assert first.fingerprint == second.fingerprint
    assert first.train.place(0).startswith(str(tmp_path / "a.jsonl"))
    assert second.train.place(0).startswith(str(tmp_path / "b.jsonl"))


def test_an_edit_that_keeps_size_and_time_is_noticed(tmp_path):
    path = tmp_path / "a.jsonl"
    first = prepare(write_jsonl(path, sentences(50)), BYTES)
    stat = path.stat()
    path.write_text(path.read_text().replace("no 7", "no 8"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    second = prepare(DataConfig(source="jsonl", path=str(path)), BYTES)
    assert second.fingerprint != first.fingerprint


def test_settings_that_change_the_tokens_make_another_set(tmp_path):
    path = tmp_path / "a.jsonl"
    config = write_jsonl(path, sentences(300))
    made = [
        prepare(config, BYTES),
        prepare(config, TokenizerConfig(vocab_size=300)),
        prepare(config, TokenizerConfig(vocab_size=301)),
        prepare(DataConfig(source="jsonl", path=str(path), validation_fraction=0.5), BYTES),
    ]
    assert len({done.fingerprint for done in made}) == 4
    # These two only change how the shards are read.
    other = DataConfig(source="jsonl", path=str(path), sequence_length=8, seed=5)
    assert prepare(other, BYTES).fingerprint == made[0].fingerprint


def test_a_tokenizer_of_one_corpus_serves_another(tmp_path):
    first = prepare(
        write_jsonl(tmp_path / "a.jsonl", sentences(300)), TokenizerConfig(vocab_size=320)
    )
    config = TokenizerConfig(kind="file", path=str(first.tokenizer_path))
    second = prepare(write_jsonl(tmp_path / "b.jsonl", sentences(60, seed=2)), config)
    assert second.tokenizer.fingerprint == first.tokenizer.fingerprint
    documents = documents_of(second.train, second.tokenizer)
    assert set(documents) < set(sentences(60, seed=2))


@contextmanager
def monkeypatch_cache(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCHESTRATE_CACHE", str(folder))
        yield


def start(path, size):
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE, str(path), str(size)], stdout=subprocess.PIPE, text=True
    )


def test_of_processes_at_once_one_works_and_all_get_the_same(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", sentences(1500))
    outputs = [p.communicate()[0] for p in [start(tmp_path / "a.jsonl", 500) for _ in range(3)]]
    fingerprints = {line for o in outputs for line in o.splitlines() if "fingerprint" in line}
    assert len(fingerprints) == 1
    assert sum("said training" in output for output in outputs) == 1
    assert sum("said reading" in output for output in outputs) == 1


@pytest.mark.parametrize("moment", ["said training", "said reading", "said data train"])
def test_a_killed_preparation_leaves_nothing_that_looks_whole(tmp_path, cache, moment):
    config = write_jsonl(tmp_path / "a.jsonl", sentences(1500))
    process = start(tmp_path / "a.jsonl", 500)
    for line in process.stdout:
        if line.startswith(moment):
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    done = prepare(config, TokenizerConfig(vocab_size=500))
    assert done.train.problems() == []
    assert not list((cache / "work").iterdir())
    assert len(list((cache / "sets").iterdir())) == 1
    with monkeypatch_cache(tmp_path / "other"):
        assert prepare(config, TokenizerConfig(vocab_size=500)).fingerprint == done.fingerprint


def spoil_prepared(folder):
    (folder / "prepared.json").write_text("{")


def spoil_tokenizer(folder):
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text[:-9])


def spoil_tokenizer_number(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(content))


def spoil_split(folder):
    shutil.rmtree(folder / "validation")
    shutil.copytree(folder / "train", folder / "validation")


def spoil_shard(folder):
    path = folder / "train" / "shard-00000.arrow"
    path.write_bytes(path.read_bytes()[:-100])


SPOILS = [value for name, value in list(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda f: f.__name__)
def test_a_damaged_cache_is_refused_with_the_remedy(tmp_path, spoil):
    config = write_jsonl(tmp_path / "a.jsonl", sentences(300))
    settings = TokenizerConfig(vocab_size=300)
    folder = prepare(config, settings).train.folder.parent
    spoil(folder)
    with pytest.raises(DataError) as caught:
        prepare(config, settings)
    assert str(folder) in str(caught.value)
    assert "delete" in str(caught.value)
    shutil.rmtree(folder)
    assert prepare(config, settings).train.problems() == []


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "there is no text in it"),
        (["", " "], r"\(left out: no_text: 2\)"),
        (["one"], "only one"),
    ],
)
def test_too_little_text_is_refused(tmp_path, texts, message):
    with pytest.raises(DataError, match=message) as caught:
        prepare(write_jsonl(tmp_path / "a.jsonl", texts), BYTES)
    assert str(tmp_path / "a.jsonl") in str(caught.value)


def test_a_missing_tokenizer_file_is_refused_before_any_work(tmp_path):
    config = write_jsonl(tmp_path / "a.jsonl", sentences(10))
    with pytest.raises(DataError, match=r"tokenizer.path=.*no such file"):
        prepare(config, TokenizerConfig(kind="file", path=str(tmp_path / "t.json")), pytest.fail)


def test_a_cache_that_can_not_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"file/cache/data can't be written.*ORCHESTRATE_CACHE="):
        prepare(write_jsonl(tmp_path / "a.jsonl", sentences(10)), BYTES)


def test_importing_the_package_loads_nothing_heavy():
    code = "import data, sys; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "ray", "mlflow", "hydra", "datasets", "pyarrow", "tokenizers", "transformers"}
    assert not heavy & set(said.stdout.split())


def test_two_settings_that_lead_to_one_dataset_at_the_same_moment_publish_it_once(tmp_path):
    for number in range(50):
        target = tmp_path / "sets" / str(number)
        works = [
            DatasetWork(
                "a",
                SourceConfig(),
                filters_of([]),
                0.1,
                tmp_path / f"{number}-{job}",
                tmp_path,
                0,
                [],
            )
            for job in range(3)
        ]
        for work in works:
            work.set.mkdir(parents=True)
            (work.set / "prepared.json").write_text("{}")
        with ThreadPoolExecutor(3) as jobs:
            done = [jobs.submit(_publish, work, target) for work in works]
            assert [one.result() for one in done] == [target] * 3
        assert (target / "prepared.json").read_text() == "{}"
        assert not any(work.set.exists() for work in works)
