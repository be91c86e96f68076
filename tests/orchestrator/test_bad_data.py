"""Bad data as a user meets it: what is typed, what is said, and that nothing else is harmed.

Each fault is refused with exit code 2 before anything starts, or ends a run with 1 where only
reading the tokens can find it. The message is one line with file, row where there is one, and what
to do. What was published before stays valid.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data.sources import inputs
from tests.orchestrator.typed import SMALL, on, refused, typed

CHILD = """
import os, resource, signal, sys
from orchestrator import cli
{fault}
sys.argv = ["orchestrate", *sys.argv[1:]]
cli.main()
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)


@pytest.fixture(scope="module")
def published(corpus, tmp_path_factory):
    """A cache with two datasets in it, and of each the arguments and where it stands there."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "other.jsonl").write_text(lines_of({"text": f"text {i} of 60"} for i in range(60)))
    cache, found = folder / "cache", {}
    words = {"corpus": on(corpus), "other": of("jsonl", folder / "other.jsonl")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCHESTRATE_CACHE", str(cache))
        for name, own in words.items():
            found[name] = (own, folder_of(*own).relative_to(cache))
    return cache, found


@pytest.fixture
def cache(published, tmp_path, monkeypatch):
    """A copy of that cache, to be damaged; the other dataset must come out of it unharmed."""
    copy = tmp_path / "cache"
    shutil.copytree(published[0], copy)
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(copy))
    yield copy
    assert_valid(*published[1]["other"][0])
    assert not list(Path.cwd().glob("outputs/*/*/checkpoints/*")), "something was trained"


def lines_of(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def of(source, path, *more):
    return (f"data={source}", f"data.path={path}", *SMALL, *more)


def assert_valid(*words):
    answer = typed("data", "verify", *words)
    assert answer.code == 0, answer
    assert answer.out.count("all hashes as written") == 2


def folder_of(*words):
    """Where the dataset stands in the cache."""
    return Path(typed("data", "prepare", *words).out.split("data: ")[1].split(",")[0])


def overwrite(path, change):
    raw = bytearray(path.read_bytes())
    path.write_bytes(change(raw))


def torn(raw):
    raw[len(raw) // 2 :] = bytes(len(raw) - len(raw) // 2)
    return raw


def edited(raw):
    raw[len(raw) // 2] ^= 1
    return raw


def beyond_the_vocabulary(raw):
    raw[len(raw) // 2 :: 2] = b"\xff" * len(raw[len(raw) // 2 :: 2])
    return raw


def truncated(raw):
    return raw[: len(raw) // 2]


SHARD, FACTS = "train/shard-00000.arrow", "train/shard-00000.documents.arrow"


@pytest.mark.parametrize("fault", [torn, edited, beyond_the_vocabulary])
def test_tokens_that_are_not_what_was_written_end_a_run(fault, cache, published):
    words, own = published[1]["corpus"]
    folder = cache / own
    overwrite(folder / SHARD, fault)
    answer = typed("run", *words, "stage.steps=2")
    assert answer.code == 1, answer
    assert str(folder / SHARD) in answer.out
    assert "prepare" in answer.out
    answer = typed("data", "verify", *words)
    assert answer.code == 1
    assert f"problem: {folder / SHARD}" in answer.out
    assert f"delete {folder} and start again" in answer.out

    shutil.copy(folder / "validation/shard-00000.arrow", folder / SHARD)


def of_the_validation_split(folder, other):
    shutil.copy(folder / "validation/shard-00000.arrow", folder / SHARD)


def splits_swapped(folder, other):
    (folder / "train").rename(folder / "between")
    (folder / "validation").rename(folder / "train")
    (folder / "between").rename(folder / "validation")


def from_the_other_set(name):
    def fault(folder, other):
        shutil.copy(other / name, folder / name)

    fault.__name__ = f"other_{name}"
    return fault


def another_tokenizer(folder, other):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"version":1', '"version":2'))


def changed(name, change):
    def fault(folder, other):
        overwrite(folder / name, change)

    fault.__name__ = f"{change.__name__}_{name}"
    return fault


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (changed(SHARD, truncated), "the index says"),
        (changed(FACTS, truncated), "the index says"),
        (changed("train/index.arrow", edited), "is damaged or stale"),
        (changed("train/manifest.json", truncated), "is damaged"),
        (changed("prepared.json", truncated), "is not JSON"),
        (changed("tokenizer.json", truncated), "is not JSON"),
        (of_the_validation_split, "the index says"),
        (splits_swapped, "belongs to other shards"),
        (from_the_other_set("train/index.arrow"), "is damaged or stale"),
        (from_the_other_set("train/manifest.json"), "is damaged or stale"),
        (from_the_other_set("prepared.json"), "belongs to other shards"),
        (another_tokenizer, "tokenizer"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_set_whose_parts_are_not_one_is_refused_before_anything_starts(
    fault, said, cache, published
):
    (words, own), (_, other) = published[1]["corpus"], published[1]["other"]
    fault(cache / own, cache / other)
    found = refused("run", *words)
    assert said in found
    assert f"delete {cache / own} and start again" in found


def test_what_these_messages_say_helps(cache, published):
    words, own = published[1]["corpus"]
    folder = cache / own
    overwrite(folder / SHARD, truncated)
    said = refused("run", *words)
    shutil.rmtree(said.split("delete ")[1].split(" and start again")[0])
    assert folder_of(*words) == folder
    assert_valid(*words)


def test_facts_that_were_edited_are_named_by_who_needs_them_and_by_verify(cache, published):
    words, own = published[1]["corpus"]
    folder = cache / own
    overwrite(folder / FACTS, edited)
    assert str(folder / FACTS) in refused("data", "explain", "1", *words)
    answer = typed("data", "verify", *words)
    assert answer.code == 1
    assert f"problem: {folder / FACTS}" in answer.out
    assert f"delete {folder} and start again" in answer.out


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of 64 kB for a cache."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount a disk here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # sets keep files open


def test_a_full_disk_is_refused_and_the_work_goes_on_when_there_is_room(
    small_disk, corpus, monkeypatch
):
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(small_disk))
    for _ in range(2):
        answer = typed("run", *on(corpus))
        assert (answer.code, answer.err.count("\n")) == (2, 1)
        assert str(small_disk) in answer.err
        assert "No space left on device" in answer.err
        assert "make room" in answer.err
    assert not list(small_disk.glob("data/sets/*"))
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert_valid(*on(corpus))


def child(fault, *words):
    """`orchestrate WORDS` in a process of its own, with lines of Python before it."""
    return subprocess.run(
        [sys.executable, "-c", CHILD.format(fault=fault), *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_a_file_that_may_not_grow_is_refused_with_its_name(cache, corpus):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))"
    done = child(limit, "data", "prepare", *on(corpus), "data.validation_fraction=0.2")
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1
    assert "File too large" in done.stderr
    assert "make room" in done.stderr
    assert len(list(cache.glob("data/sets/*"))) == 2


KILLED = """
import importlib
def killed(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)
importlib.import_module("data.{module}").{function} = killed
"""


@pytest.mark.parametrize(
    ("module", "function"),
    [("preparation.assemble", "publish"), ("preparation.preparing", "write_text_atomic")],
)
def test_who_is_killed_while_publishing_leaves_nothing_half_and_can_be_started_again(
    module, function, cache, corpus
):
    """Before the rename, and between it and the note of what was made."""
    words = (*on(corpus), "data.validation_fraction=0.3")
    fault = KILLED.format(module=module, function=function)
    done = child(fault, "data", "prepare", *words)
    assert done.returncode == -signal.SIGKILL, done
    assert_valid(*words)
    assert list(cache.glob("data/work/*")) == []


def write_tokenizer(path, lower):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if lower:
        made.normalizer = normalizers.Lowercase()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    made.train_from_iterator(["the model reads the shard"], trainer=trainer)
    made.save(str(path))


def test_a_tokenizer_that_loses_text_is_refused_with_the_record_that_shows_it(cache, corpus):
    write_tokenizer(Path("lower.json"), lower=True)
    said = refused(
        "run", *on(corpus), "tokenizer=file", "tokenizer.path=lower.json", "stage.steps=2"
    )
    assert f"{corpus}/00.txt:1" in said
    assert "tokenizer" in said


def a_mixture(corpus, **weights):
    own = ", ".join(
        f"{name}: {{source: text, path: {corpus}, weight: {weight}}}"
        for name, weight in weights.items()
    )
    return ("data=mixture", f"data.datasets={{{own}}}", *SMALL)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (lambda corpus: (*on(corpus), "model.vocab_size=100"), "at least the 257 tokens"),
        (
            lambda corpus: a_mixture(corpus, a=0, b=1),
            "data.datasets.a.weight=0 must be a whole number of at least 1",
        ),
        (
            lambda corpus: (
                *a_mixture(corpus, a=1, b=1),
                "data.phases=[{start: 4096, weights: {c: 1}}]",
            ),
            "names c, but data.datasets has a, b",
        ),
        (
            lambda corpus: (*a_mixture(corpus, a=1, b=1), "data.text_column=body"),
            "nothing would read data.text_column; write that for each dataset "
            "(data.datasets.NAME.text_column=...)",
        ),
        (
            lambda corpus: (*a_mixture(corpus, a=1, b=1), "data.contract.not_empty=true"),
            "nothing would read data.contract; write that for each dataset",
        ),
        (lambda corpus: ("data=mixture", *SMALL), "data=mixture needs datasets; try 'data.da"),
        (
            lambda corpus: ("data=mixture", "data.datasets=[a]", *SMALL),
            "data.datasets has another shape; write 'data.datasets={NAME: {",
        ),
        (
            lambda corpus: (*on(corpus), "data.filters=[length]"),
            "data.filters has another shape; write 'data.filters=[{name: length, min: 20}]'",
        ),
        (
            lambda corpus: (*on(corpus), "data.filters=[{name: length, min: 1000000}]"),
            "length min=1000000: 80",
        ),
        (
            lambda corpus: of("jsonl", "http://127.0.0.1:9/a.jsonl"),
            "data.path=http://127.0.0.1:9/a.jsonl: not fetched in 3 attempts",
        ),
    ],
)
def test_settings_that_no_data_can_meet_are_refused(words, said, cache, corpus):
    assert said in refused("run", *words(corpus))


def test_a_dataset_shorter_than_a_sequence_is_refused_with_a_length_that_would_do(cache, tmp_path):
    (tmp_path / "short.jsonl").write_text(lines_of([{"text": "one"}, {"text": "two"}]))
    said = refused("run", *of("jsonl", tmp_path / "short.jsonl"))
    assert "data.sequence_length=32 is longer than the train split of dataset data, 4" in said
    assert "try data.sequence_length=4 or less" in said


@pytest.mark.parametrize("unit", [inputs.UNIT_BYTES, 1 << 19])
def test_row_1000000_of_a_file_is_named_exactly(unit, cache, tmp_path, monkeypatch):
    """Also when it is in a later unit of work, which knows only the byte it begins at."""
    monkeypatch.setattr(inputs, "UNIT_BYTES", unit)
    file = tmp_path / "long.jsonl"
    part = '{"text": "words"}\n' + "\n" * 99
    file.write_text(part * 9_999 + "\n" * 99 + '{"text": "torn\n' + part)
    said = refused("run", *of("jsonl", file))
    assert f"{file}:1000000: is not JSON" in said
    assert "repair or remove this line" in said


def test_columns_that_change_from_file_to_file_are_named_with_what_changed(cache, tmp_path):
    for name, column in (("a", "text"), ("b", "body")):
        records = ({column: f"words {i} of {name}", "n": i} for i in range(30))
        (tmp_path / f"{name}.jsonl").write_text(lines_of(records))
    said = refused("run", *of("jsonl", tmp_path / "?.jsonl"))
    assert f"{tmp_path}/b.jsonl:1: data.text_column=text is not a column; there are: body" in said
    assert f"compared with {tmp_path}/a.jsonl: column text (string) went" in said
