"""A run folder from somebody else: its files are data, and what can't be read is one sentence."""

import json
import os
from pathlib import Path

import pytest
import yaml

from data.files import json_sha256
from models.configs import GPTConfig
from orchestrator.config import JobConfig, to_dict
from orchestrator.record.journal import Journal
from orchestrator.record.lines import JournalError, read
from orchestrator.record.reading import lies_in
from orchestrator.stages import saved
from orchestrator.stages.pretrain.stage import PretrainConfig
from tests.orchestrator.tracked import make_run, sync
from tests.orchestrator.typed import typed

DEEP = 100_000


def config_file(folder, **sections):
    plain = to_dict(JobConfig(stage=PretrainConfig(), model=GPTConfig()))
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(plain | sections))
    return path


@pytest.mark.parametrize(
    "text", ["${oc.env:HOME}", r"\${seed}", "a${", r"\\${oc.decode:1}", "${oc.create:{a: 1}} b"]
)
def test_what_looks_like_an_interpolation_in_a_saved_config_is_text(tmp_path, text):
    path = config_file(tmp_path, data={"source": "jsonl", "path": text}, outputs=text)
    config = saved.load(path)
    assert (config.data.path, config.outputs) == (text, text)


HOSTILE = {
    "deep": "[" * DEEP,
    "a bomb": "a: &a [x, x]\nb: &b [*a, *a]\nstage: {name: pretrain}\n",
    "an object": "!!python/object/apply:os.getcwd []",
    "huge": "a: " + "x" * 2_000_000,
    "no mapping": "- 1",
    "no YAML": "{a: [",
    "no UTF-8": b"a: caf\xe9",
    "no date": "stage: 2026-99-99",
    "a long number": "seed: " + "9" * 5000,
    "sections that are none": "stage: {name: pretrain}\ndata: 3\nmodel: 4\nroles: 5",
    "a stage that is none": "stage: pretrain",
    "a key that is none": "stage: {name: pretrain}\n7: 8",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_config_that_no_run_has_written_is_refused_in_one_sentence(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    answer = typed("data", "verify", str(tmp_path))
    assert answer.code == 2
    assert answer.err.startswith(f"error: {path}")
    assert answer.err.count("\n") == 1
    assert len(answer.err) < 1500


def forged(entries):
    manifest = {"format": 3, "step": 1, "roles": {}, "files": {}, "facts": {}} | entries
    return json.dumps({**manifest, "digest": json_sha256(manifest)})


MANIFESTS = {
    "deep": '{"format": 3, "a":' + "[" * DEEP,
    "a long number": '{"format": 3, "step": ' + "9" * 5000 + "}",
    "no object": "[3]",
    "no files": forged({"files": None}),
    "no step": forged({"step": None}),
    "roles that are none": forged({"roles": {"model": [1]}}),
    "files that are none": forged({"files": {"a": {"size": 1}}}),
}


@pytest.mark.parametrize("text", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_no_run_has_written_is_refused_in_one_sentence(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    answer = typed("generate", str(tmp_path), "--prompt", "a")
    assert answer.code == 2
    assert answer.err.startswith(f"error: {tmp_path / 'manifest.json'}")
    assert answer.err.count("\n") == 1
    assert len(answer.err) < 1500


def test_a_deep_line_of_a_journal_is_named(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"a": ' + "[" * DEEP + "\n")
    with pytest.raises(JournalError, match=r"events\.jsonl:1 is damaged"):
        read(tmp_path / "events.jsonl")


def test_a_link_leads_out_of_a_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "key").touch()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "key")
    assert lies_in(tmp_path / "run", tmp_path / "run" / "logs" / "a")
    outside = ("link", "../key", "../run-2/a", str(tmp_path / "key"))
    assert [p for p in outside if lies_in(tmp_path / "run", tmp_path / "run" / p)] == []


def test_sync_sends_no_file_from_outside_of_the_run_folder(tmp_path):
    private = tmp_path / "id_rsa"
    private.write_text("PRIVATE-KEY-OF-MINE")
    folder = make_run(tmp_path / "outputs")
    (folder / "link").symlink_to(private)
    (folder / "logs" / "rank-1.log").symlink_to(private)
    (folder / "samples.txt").unlink()
    (folder / "samples.txt").symlink_to(private)
    with Journal(folder) as book:
        for path in (private, os.path.relpath(private, folder), "link", folder / "link"):
            book.event("artifact", path=str(path))
        book.event("tokenizer", path=str(private), fingerprint="t" * 64)
        book.event("checkpoint", step=1, path=str(private), manifest_sha256="d" * 64, bytes=5)
        book.event("finished", status="done")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["path"] = "${oc.env:HOME}"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    done = sync(folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is not in the run folder, so it is not sent") == 5
    sent = [path for path in (tmp_path / "outputs").glob("ml*/**/*") if path.is_file()]
    assert "${oc.env:HOME}" in next(p for p in sent if p.name == "config.yaml").read_text()
    assert [path for path in sent if b"PRIVATE" in path.read_bytes()] == []
    assert not Path(folder / "logs" / "rank-0.log").is_symlink()
