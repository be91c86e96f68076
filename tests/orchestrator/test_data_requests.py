"""Requests about data in the ways that people type them."""

import gzip
import json
import re

import pytest

from data.sources.recognise import COMPRESSED
from data.sources.table_files import table_parts
from tests.orchestrator.typed import SMALL, on, refused, trained, typed


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def rows(tmp_path):
    """A file of 40 rows."""
    file = tmp_path / "rows.jsonl"
    lines = (json.dumps({"text": f"row {i}, " + "word " * i, "n": i}) for i in range(1, 41))
    file.write_text("\n".join(lines))
    return file


def of(file):
    return ("data=jsonl", f"data.path={file}", *SMALL)


def answered(*words):
    answer = typed(*words)
    assert answer.code == 0, answer
    return answer.out


MINE = """
defaults:
  - data_defaults

datasets:
  web: {source: jsonl, path: rows.jsonl}
"""


def test_a_yaml_of_ones_own_is_found_by_plan_and_by_data(rows, tmp_path):
    (tmp_path / "confs" / "data").mkdir(parents=True)
    (tmp_path / "confs" / "data" / "mine.yaml").write_text(MINE)
    for words in (["plan"], ["data", "simulate"]):
        assert "step" in answered(*words, "-cd", "confs", "data=mine", *SMALL)
    assert "needs an override that uses it" in refused("data", "simulate", "-cd", "confs")


@pytest.mark.parametrize(
    "words",
    [
        ("data.datasets.a={source: jsonl, path: rows.jsonl, weight: 3}",),
        (
            "data.datasets.a.source=jsonl",
            "data.datasets.a.path=rows.jsonl",
            "data.datasets.a.weight=3",
            "data.datasets.a.contract.columns.n=integer",
        ),
    ],
)
def test_the_datasets_of_a_mixture_may_be_typed_one_by_one(rows, words):
    other = "data.datasets.b={source: jsonl, path: rows.jsonl}"
    said = answered("plan", "data=mixture", *words, other, *SMALL, "stage.steps=40")
    found = re.search(r"epochs: a about ([\d.]+), b about ([\d.]+)", said)
    assert float(found[1]) > 2 * float(found[2])


def test_a_row_of_a_file_is_that_row_and_not_all_that_begin_with_it(rows):
    shown = {}
    for row in range(1, 5):
        answer = typed("data", "when", f"{rows}:{row}", *of(rows), "stage.steps=40")
        if answer.code == 0:
            shown[row] = re.findall(r"rows\.jsonl:(\d+)", answer.out)
        else:
            assert "no document of the train split" in answer.err
    assert shown == {row: [str(row)] for row in shown}
    assert len(shown) > 1


def test_when_follows_the_sequence_lengths_that_a_run_had(rows, tmp_path):
    words = (*of(rows), "data.row_tokens=32")
    answered("run", *words, "data.sequence_length=16", "stage.steps=3")
    said = refused("run", *of(rows), "stage.steps=6", "resume=outputs/latest", "data.row_tokens=64")
    assert "data.row_tokens=64, but the run began with 32; set data.row_tokens=32" in said
    resumed = (*words, "stage.steps=6", "resume=outputs/latest", "stage.global_batch_size=2")
    planned = json.loads(answered("data", "explain", "6", *resumed, "--json"))
    answered("run", *resumed)
    seen = {}
    for step in range(1, 7):
        found = json.loads(answered("data", "explain", str(step), "--json"))
        assert {sum(p["tokens"] for p in own["pieces"]) for own in found} == {
            16 if step < 4 else 32
        }
        for own in found:
            for piece in own["pieces"]:
                place = (step, piece["offset"], piece["tokens"])
                seen.setdefault(piece["document"], []).append(place)
    assert planned == found
    for document, places in seen.items():
        found = json.loads(answered("data", "when", str(document), "--json"))
        assert sorted((s["step"], s["offset"], s["tokens"]) for s in found) == sorted(places)


def test_a_mixture_asks_which_dataset_a_document_is_of(rows):
    words = ("data=mixture", "data.datasets.web={source: jsonl, path: rows.jsonl}", *SMALL)
    words += ("data.datasets.book={source: jsonl, path: rows.jsonl}",)
    answered("data", "prepare", *words)
    assert "add --dataset NAME, one of web, book" in refused("data", "when", "0", *words)
    said = refused("data", "when", "0", *words, "--dataset", "wep")
    assert "--dataset=wep is not one of web, book; did you mean web?" in said


def test_workers_are_started_when_they_are_asked_for(rows):
    """Also by a job that itself would run in this process."""
    rows.with_name("more.jsonl").write_text('{"text": "one more row"}')
    said = answered("data", "prepare", *of(rows.parent), "--workers", "2")
    assert "starting 2 tokenization workers" in said


def test_filters_that_leave_out_nothing_are_not_in_the_report_of_who_has_none(rows):
    some = answered("data", "prepare", *of(rows), "data.filters=[{name: length, min: 2}]")
    none = answered("data", "prepare", *of(rows))
    assert "length min=2" in some
    assert "length min=2" not in none


def test_drift_that_stops_a_job_is_said_in_one_line(corpus, rows):
    words = (f"data.drift.reference={trained(corpus)}", "data.drift.policy=stop")
    said = refused("run", *of(rows), *words)
    assert f"`orchestrate data diff {trained(corpus)} FOLDER` shows more" in said


def test_a_dataset_that_the_reference_lacks_is_said_not_to_be_compared(corpus, rows, tmp_path):
    events = (trained(corpus) / "events.jsonl").read_text().splitlines()
    known = next(e for e in map(json.loads, events) if e["event"] == "dataset")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "events.jsonl").write_text(json.dumps(known | {"name": "wiki"}) + "\n")
    datasets = ", ".join(f"{name}: {{source: jsonl, path: {rows}}}" for name in ("wiki", "code"))
    reference = f"data.drift.reference={tmp_path / 'old'}"
    said = answered(
        "plan", "--with-data", "data=mixture", f"data.datasets={{{datasets}}}", reference, *SMALL
    )
    assert f"code: not compared: {tmp_path / 'old'} has no dataset code, only wiki" in said


def test_a_simulation_never_fetches_more_than_there_is_into_a_cache_that_holds_it(corpus):
    said = answered("data", "simulate", *on(corpus), "stage.steps=30")
    assert said.splitlines()[0] == "1 host, 1 worker, 30 steps"
    stored = int(re.search(r"= ([\d,]+) tokens", answered("plan", *on(corpus)))[1].replace(",", ""))
    fetched = float(re.search(r"fetched  ([\d.]+) kB", said)[1]) * 1000
    assert stored / 2 < fetched < 300_000  # 2 bytes a token, and blocks of 128 KiB


@pytest.mark.parametrize("end", ["", *COMPRESSED])
def test_tables_may_be_compressed(rows, tmp_path, end):
    import zstandard

    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[end]
    file = tmp_path / f"packed.jsonl{end}"
    file.write_bytes(pack(rows.read_bytes()))
    assert sum(part.num_rows for part in table_parts(file)) == 40


def test_a_record_deep_in_a_large_file_is_named_and_found_by_its_line(
    tmp_path, monkeypatch, corpus
):
    monkeypatch.setattr("data.sources.inputs.UNIT_BYTES", 4000)
    lines = [json.dumps({"text": f"number {i} of the lines of this file"}) for i in range(400)]
    (tmp_path / "big.jsonl").write_text("\n".join(lines))
    small = [word for word in on(corpus) if not word.startswith("data=") and "path" not in word]
    job = ("data=jsonl", "data.path=big.jsonl", *small, "stage.steps=300")
    answer = typed("data", "explain", "1", *job, "--json")
    assert answer.code == 0, answer
    pieces = [piece for own in json.loads(answer.out) for piece in own["pieces"]]
    assert pieces
    for piece in pieces:
        number = int(piece["place"].removeprefix("big.jsonl:"))
        assert piece["text"].removesuffix("<|endoftext|>") in lines[number - 1]
        said = typed("data", "when", piece["place"], *job)
        assert said.code == 0, said
        assert "step 1 (will be)" in said.out


def test_a_vocabulary_and_a_validation_text_of_ones_own_are_on_the_screen_and_on_record(tmp_path):
    (tmp_path / "train.txt").write_text("".join(f"A line, number {i}.\n" for i in range(400)))
    (tmp_path / "held_out.txt").write_text("".join(f"Line {i} of another.\n" for i in range(99)))
    words = [word for word in SMALL if word != "tokenizer=bytes"]
    words += ["data=text", "data.path=train.txt", "tokenizer.vocab_size=4000", "stage.steps=2"]
    own = ("data.validation.path=held_out.txt", "data.validation_fraction=0")
    said = answered("run", *words, *own, "stage.keep_best=true")
    size = int(re.search(r"tokenizer.vocab_size=4000: this text fills (\d+) tokens", said)[1])
    assert "text train.txt, held_out.txt for validation" in said
    run = (tmp_path / "outputs" / "latest").resolve()
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    tokenizer = next(event for event in events if event["event"] == "tokenizer")
    assert (tokenizer["vocab_size"], tokenizer["vocab_size_asked"]) == (size, 4000)
    assert [(e["split"], e["source"]) for e in events if e["event"] == "dataset"] == [
        ("train", "train.txt"),
        ("validation", "held_out.txt"),
    ]
    result = json.loads((run / "result.json").read_text())
    assert {"unigram", "xz"} <= set(result["baselines"]["validation/bits_per_byte"])
    assert result["best"]["value"] == result["metrics"]["validation/loss"]
