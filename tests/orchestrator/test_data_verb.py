"""`orchestrate data ...` as a user types it, on a corpus and a run of two steps."""

import json
import math
import random
import shutil
from pathlib import Path

import pytest

from tests.orchestrator.typed import on, refused, trained, typed


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def answered(*arguments):
    answer = typed("data", *arguments)
    assert answer.code == 0, answer
    return answer.out


def pieces_of(run, step):
    found = json.loads(answered("explain", str(step), str(run), "--json"))
    return {own["sample"]: own["pieces"] for own in found}


def test_explain_shows_the_text_of_a_step_and_when_leads_back_to_it(corpus):
    run = trained(corpus)
    assert sorted([*pieces_of(run, 1), *pieces_of(run, 2)]) == list(range(8))
    for sample, pieces in pieces_of(run, 2).items():
        assert sum(piece["tokens"] for piece in pieces) == 32
        for piece in pieces:
            source = Path(piece["place"].split(":")[0]).read_text(encoding="utf-8")
            assert piece["text"].replace("<|endoftext|>", "") in source
            seen = json.loads(answered("when", piece["place"], str(run), "--json"))
            assert any(
                (own["step"], own["cursor"], own["offset"]) == (2, sample * 32, piece["offset"])
                for own in seen
            )


def test_explain_and_when_are_readable_and_tell_the_past_from_the_future(corpus):
    run = trained(corpus)
    said = answered("explain", "1", str(run))
    assert said.startswith("step 1 was tokens 0..127: 4 sequences of 32 tokens")
    assert "sequence 3: data, epoch 0, row" in said
    one = answered("explain", "sample:6", str(run))
    assert one.startswith("step 2 was tokens 128..255")
    assert one.count("\nsequence ") == one.count("\nsequence 6: ") == 1
    planned = answered("explain", "5", *on(corpus), "stage.steps=9")
    assert planned.startswith("step 5 will be tokens 512..639")
    assert "(will be), epoch 0" in answered("when", "0", *on(corpus), "stage.steps=700")


def test_what_explain_and_when_can_not_answer_is_refused(corpus):
    run = str(trained(corpus))
    short = ("stage.prompt_tokens=8", "stage.answer_tokens=8")
    alone = refused("data", "explain", "1", "stage=grpo", f"model.weights={run}", *short)
    assert "it is for stage.ptx_coefficient, which is 0" in alone
    assert "3 is not in the job's steps 1..2" in refused("data", "explain", "3", run)
    said = refused("data", "explain", "sample:8", run)
    assert "sample:8 is not in the job's steps 1..2: the sequence would be in step 3" in said
    assert "try 12, or sample:144" in refused("data", "explain", "two", run)
    assert "no document of the train split" in refused("data", "when", "nowhere.txt", run)
    assert "is not a run folder" in refused("data", "explain", "1", str(corpus))
    assert "not both" in refused("data", "explain", "1", run, "data=text")


def test_verify_reads_all_hashes_and_recounts_the_run(corpus):
    said = answered("verify", str(trained(corpus)))
    assert said.count("all hashes as written") == 2
    assert "run: 256 tokens in 2 steps, 0 sequences skipped; each exactly as often" in said


def test_a_run_that_did_not_train_on_text_has_no_data_to_look_at(tmp_path):
    quick = ("stage=classify", "resources=inline", "engine=torch", "tracking=none")
    few = ("stage.steps=2", "optim.warmup_steps=0", "resources.gpus_per_worker=0")
    assert typed("run", *quick, *few).code == 0
    for words in (("explain", "1"), ("verify",), ("inspect",)):
        answer = typed("data", *words)
        assert answer.code == 2
        assert "outputs/latest is of stage=classify" in answer.err
    assert "stage=classify" in typed("data", "prepare", "stage=classify").err


def test_verify_names_the_file_that_is_not_what_was_written(tmp_path, monkeypatch, corpus):
    cache = tmp_path / "cache"
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(cache))
    answered("prepare", *on(corpus))
    (shard,) = cache.glob("data/sets/*/train/shard-00000.arrow")
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(raw)
    answer = typed("data", "verify", *on(corpus))
    assert answer.code == 1
    assert f"problem: {shard}" in answer.out


def test_inspect_counts_shows_examples_and_draws(corpus, tmp_path):
    said = answered("inspect", *on(corpus), "--examples", "2")
    assert "data train" in said
    assert said.count(f"{corpus}/") >= 2
    assert (tmp_path / "data.png").read_bytes().startswith(b"\x89PNG")


def test_diff_says_which_documents_two_corpora_share(corpus, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(corpus, other)
    for file in sorted(other.iterdir())[::2]:
        file.write_text(file.read_text().upper() + " SHOUTING")
    folders = []
    for folder in (corpus, other):
        said = answered("prepare", *on(folder))
        folders.append(said.split("data: ")[1].split(",")[0])
    answer = typed("data", "diff", *folders)
    assert answer.code == 1
    assert "documents in both" in answer.out
    assert "drift: " in answer.out
    same = answered("diff", folders[0], folders[0])
    assert "data: the same" in same


def test_diff_of_tables_names_swapped_coordinates(tmp_path):
    rows = [(45 + i % 7 / 10, 11 + i % 11 / 10) for i in range(400)]
    for name, pairs in (("a", rows), ("b", [(b, a) for a, b in rows])):
        lines = [f'{i},"{x:.4f},{y:.4f}"' for i, (x, y) in enumerate(pairs)]
        (tmp_path / f"{name}.csv").write_text("id,position\n" + "\n".join(lines) + "\n")
    answer = typed("data", "diff", "a.csv", "b.csv")
    assert answer.code == 1
    assert "position" in answer.out
    assert "swapped" in answer.out
    assert "is no table" in refused("data", "diff", "a.csv", str(tmp_path))


def test_simulate_counts_what_hosts_fetch(corpus):
    said = answered("simulate", *on(corpus), "--steps", "20")
    assert "1 host, 1 worker, 20 steps" in said
    fetched = float(said.split("fetched  ")[1].split(" kB")[0])
    assert fetched < 300  # no more than the corpus has, though it is smaller than a block
    assert "must divide resources.workers=1" in refused(
        "data", "simulate", *on(corpus), "--hosts", "2"
    )


def test_a_mixture_is_typed_as_one_override(corpus, tmp_path):
    lines = [json.dumps({"text": f"line {i} of some other text"}) for i in range(300)]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    small = [word for word in on(corpus) if not word.startswith("data=") and "path" not in word]
    datasets = (
        f"data.datasets={{a: {{source: text, path: {corpus}, weight: 3}}, "
        "b: {source: jsonl, path: b.jsonl}}"
    )
    answer = typed("plan", "data=mixture", datasets, *small, "stage.steps=50")
    assert answer.code == 0, answer
    assert "epochs: a " in answer.out
    wrong = datasets.replace("weight: 3", "weight: 0")
    said = refused("plan", "data=mixture", wrong, *small)
    assert "data.datasets.a.weight=0 must be a whole number of at least 1" in said
    said = refused(
        "plan", "data=mixture", datasets, *small, "data.phases=[{start: 4096, weights: {c: 1}}]"
    )
    assert "names c, but data.datasets has a, b" in said
    often = ("data=mixture", datasets, *small, "data.max_repetition=0.001")
    answer = typed("plan", *often)
    assert answer.code == 0
    assert "by this estimate data.max_repetition=0.001, but stage.steps=" in answer.out
    said = refused("plan", "--with-data", *often)
    assert "data.max_repetition=0.001, but stage.steps=" in said


@pytest.fixture
def torn(tmp_path, monkeypatch):
    """A corpus of several blocks, in a cache of its own, with one bit of one block flipped."""
    cache, draw = tmp_path / "cache", random.Random(0)
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(cache))
    for number in range(40):
        words = " ".join(f"{draw.randrange(10**6)}" for _ in range(900))
        (tmp_path / f"{number}.txt").write_text(words)
    answered("prepare", *on(tmp_path / "*.txt"))
    (shard,) = cache.glob("data/sets/*/train/shard-00000.arrow")
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(raw)
    return shard


def events_of(run, kind):
    lines = (run / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_a_damaged_block_stops_a_job_by_default_and_names_the_file(torn, tmp_path):
    answer = typed("run", *on(tmp_path / "*.txt"), "stage.steps=20")
    assert answer.code == 1
    assert str(torn) in answer.out
    error = json.loads((tmp_path / "outputs" / "latest" / "result.json").read_text())["error"]
    assert "block" in error["message"]


def test_a_damaged_block_that_is_skipped_is_on_record_and_the_account_holds(torn, tmp_path):
    corpus = tmp_path / "*.txt"
    words = ("data.on_bad_block=skip", "stage.global_batch_size=8", "stage.checkpoint_every=10")
    answer = typed("run", *on(corpus), "stage.steps=20", *words)
    assert answer.code == 0, answer
    run = tmp_path / "outputs" / "latest"
    (skipped,) = events_of(run, "data_skipped")
    saved = events_of(run, "checkpoint")[-1]
    assert saved["data_skipped_sequences"] > 0
    said = typed("data", "verify", str(run))
    assert said.code == 1  # the shard is still damaged
    assert f"{saved['data_skipped_sequences']:,} sequences skipped; each exactly" in said.out
    again = typed("run", *on(corpus), *words, "stage.steps=25", f"resume={run}")
    assert again.code == 0, again
    assert events_of(tmp_path / "outputs" / "latest", "data_skipped") == []
    assert skipped["dataset"] == events_of(run, "dataset")[0]["name"]


def test_a_run_records_what_its_filters_left_out_and_whether_its_data_drifted(corpus, tmp_path):
    lengths = sorted(len(file.read_text()) for file in corpus.iterdir())
    least, below = lengths[40], sum(length < lengths[40] for length in lengths)
    words = (
        f"data.filters=[{{name: length, min: {least}}}]",
        f"data.drift.reference={trained(corpus)}",
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "corpus").symlink_to(corpus)
    (tmp_path / "mine" / "lost.txt").symlink_to("nowhere")
    (tmp_path / "mine" / "half.parquet").touch()
    answer = typed("run", *on(tmp_path / "mine"), "stage.steps=2", *words)
    assert answer.code == 0, answer
    assert (
        f"data: left out of 80 records length min={least}: {below}; did not read 1 link to nothing "
        "(lost.txt), 1 file of another kind (.parquet: 1)"
    ) in answer.out
    run = tmp_path / "outputs" / "latest"
    table = json.loads((run / "data" / "filters.json").read_text())
    rows = {row[1]: dict(zip(table["columns"], row, strict=True)) for row in table["data"]}
    assert (rows[f"length min={least}"]["seen"], rows[f"length min={least}"]["dropped"]) == (
        80,
        below,
    )
    assert (run / "data" / "mine-files-not-read.txt").read_text().splitlines() == [
        f"{tmp_path}/mine/half.parquet: of another kind",
        f"{tmp_path}/mine/lost.txt: a link to nothing",
    ]
    filters = run / "data" / "mine-filters.md"
    assert f"{80 - below} of 80 records kept" in filters.read_text()
    (drift,) = events_of(run, "drift")
    assert drift["passed"] == (not drift["findings"])
    assert (run / "data" / "mine-drift.md").is_file()
    assert drift["dataset"] == "mine" == events_of(run, "dataset")[0]["name"]
    said = refused("run", *on(corpus), "stage.steps=2", "data.drift.reference=nowhere")
    assert "nowhere is no run folder whose data is known" in said


def test_pairs_of_answers_are_refused_by_pretraining(tmp_path, corpus):
    small = [word for word in on(corpus) if not word.startswith("data=") and "path" not in word]
    said = refused("plan", "data=jsonl", "data.path=p.jsonl", "data.records=preferences", *small)
    assert "would learn both" in said


def test_coordinates_that_became_radians_stop_a_job_and_are_named(tmp_path, corpus):
    draw = random.Random(4)
    rows = [(draw.uniform(40, 60), f"text {i} about a place") for i in range(400)]
    for name, factor in (("old", 1.0), ("new", math.pi / 180)):
        lines = [json.dumps({"text": text, "latitude": lat * factor}) for lat, text in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    small = [word for word in on(corpus) if not word.startswith("data=") and "path" not in word]
    small += ["data=jsonl", "data.contract.columns={text: string, latitude: number}"]
    folder = answered("prepare", *small, "data.path=old.jsonl").split("data: ")[1].split(",")[0]
    drift = (f"data.drift.reference={folder}", "data.drift.policy=stop")
    said = refused("plan", "--with-data", *small, "data.path=new.jsonl", *drift)
    assert "latitude" in said
    assert "radians" in said
    assert typed("plan", *small, "data.path=old.jsonl", *drift).code == 0
