"""`resume=RUN`: its config, what may be changed on top, and which checkpoint is taken.

The run is `trained`: two steps, one checkpoint. Nothing but composing and planning is done to it.
"""

import json
import os
import shutil
import subprocess
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import SourceConfig
from data.files import json_sha256
from models import MODELS
from orchestrator.compose import compose_one
from orchestrator.config import SECTIONS, JobConfig, TrainingConfig, to_dict
from orchestrator.config.changes import KINDS
from orchestrator.record.checkpoints import find
from orchestrator.record.checkpoints.content import look
from orchestrator.record.journal import Journal
from orchestrator.stages import STAGES, saved
from orchestrator.stages.pretrain.stage import PretrainConfig
from orchestrator.training import checkpoint
from tests.orchestrator.typed import on, refused, trained, typed


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture
def run(corpus, tmp_path):
    """A copy of the run in outputs of its own."""
    origin = trained(corpus)
    return Path(shutil.copytree(origin, tmp_path / "outputs" / Path(*origin.parts[-2:])))


def names(node, prefix):
    """Every setting of a dataclass, those of dataclasses inside it by their own."""
    hints = get_type_hints(node)
    for field in fields(node):
        kind, name = hints[field.name], f"{prefix}{field.name}"
        yield from names(kind, f"{name}.") if is_dataclass(kind) else (name,)


def test_every_setting_says_what_a_change_of_it_means_to_a_run_that_goes_on():
    sections = {**SECTIONS, **{name: f.config for name, f in MODELS.items()}}
    schemas = [("model." if name in MODELS else f"{name}.", s) for name, s in sections.items()]
    known = {name for prefix, schema in schemas for name in names(schema, prefix)}
    own = {field.name for field in fields(JobConfig)} - {*SECTIONS, "stage", "model", "roles"}
    assert {*known, *own} == set(KINDS)
    assert set(names(SourceConfig, "data.")) <= set(KINDS)
    for stage in (stage.section for stage in STAGES.values()):
        if issubclass(stage, TrainingConfig):
            assert set(stage.changes) == {field.name for field in fields(stage)}


def test_resume_alone_means_the_config_of_the_run(run):
    before, again = saved.load(run / "config.yaml"), compose_one([f"resume={run}"])
    assert again.outputs == str(run.parents[1]), "the copy has moved"
    plain = to_dict(again) | {"resume": None, "outputs": before.outputs}
    assert plain == to_dict(before)


def test_a_run_that_was_copied_out_of_its_outputs_goes_on_in_the_usual_ones(run):
    alone = run.rename(run.parents[2] / "alone")
    again = compose_one([f"resume={alone}", "stage.steps=4"])
    assert again.outputs == "outputs"


def test_what_is_typed_goes_on_top_of_it_and_is_listed_before_the_start(run):
    words = ("stage.steps=8", "stage.global_batch_size=6", "stage.micro_batch_size=3")
    answer = typed("plan", f"resume={run}", *words)
    assert answer.code == 0, answer
    newest = run / "checkpoints" / "step_00000002"
    assert f"resume      {newest}, after step 2; 6 of 8 steps remain\n" in answer.out
    listed = answer.out.partition("changed     ")[2].partition("\nworkers")[0].split("\n")
    assert [line.strip() for line in listed[:3]] == [
        "stage.steps=8 (was 2), and the learning rate follows",
        "stage.global_batch_size=6 (was 4)",
        "stage.micro_batch_size=3 (was null)",
    ]
    typed_engine = compose_one([f"resume={run}", "engine=zero2"]).engine
    assert (typed_engine.name, typed_engine.zero_stage) == ("deepspeed", 2)


def test_an_experiment_goes_on_top_as_well(run):
    job = compose_one([f"resume={run}", "experiment=smoke", "model.max_positions=128"])
    assert (job.model.layers, job.stage.steps) == (2, 60), "those of the experiment"
    assert (job.data.source, job.tokenizer.kind) == ("text", "bytes"), "those of the run"


def test_mathematics_change_only_by_name(run):
    words = (f"resume={run}", "stage.steps=8", "optim.learning_rate=1e-4", "model.dropout=0.1")
    said = refused("plan", *words)
    assert "model.dropout=0.1 was 0.0; and optim.learning_rate=0.0001 was 0.003" in said
    allowed = said[said.index("allow_changes") :]
    assert allowed == "allow_changes=[model.dropout,optim.learning_rate]"
    assert "model.dropout" in refused("plan", *words, "allow_changes=[optim.learning_rate]")
    answer = typed("plan", *words, allowed)
    assert "optim.learning_rate=0.0001 (was 0.003)" in answer.out, answer
    role = (f"resume={run}", "stage.steps=8", "roles.model.optim.beta1=0.5")
    assert "allow_changes=[roles.model.optim.beta1]" in refused("plan", *role)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("allow_changes=[optim.beta1]",), "add resume=RUN"),
        (
            ("resume={run}", "stage.steps=3", "allow_changes=[optim.beta]"),
            "did you mean",
        ),
        (("-m", "resume={run},b"), "resume=b does not exist"),
        (
            ("resume={run}", "-cn", "mine"),
            "--config-name=mine: a job that is",
        ),
        (("resume={run}/checkpoints/step_00000001",), "does not exist; name a run folder"),
        (("resume={run}/../../..",), "is not in a run folder: there is no config.yaml"),
        (("resume={run}",), "stage.steps=2 must be more than the 2 steps"),
    ],
)
def test_what_names_no_run_or_no_setting_is_refused(run, words, said):
    assert said in refused("plan", *(word.format(run=run) for word in words))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda text: text.replace("steps: 2", "steps: two"), "could not be converted to Integer"),
        (lambda text: text + "colour: red\n", "colour"),
        (lambda text: text + "a: &a [1]\nb: *a\n", "it has references"),
        (lambda text: text + f"a: {'[' * 9000}\n", "nested too deeply"),
        (lambda text: text + f"a: {'x' * 2**21}\n", "more than 1,000,000 characters"),
        (lambda text: text.replace("name: pretrain", "name: own.module:run"), "stage.name=own"),
        (lambda text: "- a\n", "holds no settings"),
    ],
)
def test_a_config_that_no_run_has_written_is_one_sentence(run, harm, said):
    config = run / "config.yaml"
    config.write_text(harm(config.read_text()))
    assert said in refused("plan", f"resume={run}", "stage.steps=4")


def test_a_run_folder_of_somebody_else_learns_nothing_of_this_process(run, monkeypatch):
    monkeypatch.setenv("SECRET", "pa55word")
    config = run / "config.yaml"
    plain = yaml.safe_load(config.read_text())
    plain["stage"]["prompts"] = ["${oc.env:SECRET}"]
    plain["tokenizer"]["path"] = "${oc.env:SECRET}"
    config.write_text(yaml.safe_dump(plain))
    assert "pa55word" not in refused("plan", f"resume={run}", "stage.steps=4")
    plain["tokenizer"]["path"] = None
    config.write_text(yaml.safe_dump(plain))
    assert compose_one([f"resume={run}"]).stage.prompts == ["${oc.env:SECRET}"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(alphabet="$\\{}a:'\" ,\n").filter(lambda text: text != "???")))
def test_any_text_of_a_config_comes_back_as_it_was(texts):
    config = JobConfig(stage=PretrainConfig(prompts=texts), model=MODELS["gpt"].config())
    path = Path(os.environ["ORCHESTRATE_CACHE"]).parent / "texts.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    assert saved.load(path) == config


def test_auto_takes_the_newest_run_of_the_same_job_that_is_not_done(run, corpus):
    words = (*on(corpus), f"outputs={run.parents[1]}", "stage.steps=2", "resume=auto")
    answer = typed("plan", *words)
    assert "no run of this job is left unfinished; it begins at step 0" in answer.out, answer
    (run / "result.json").unlink()
    assert "2 steps that resume=" in refused("plan", *words), "it was taken, and has no step left"
    assert "begins at step 0" in typed("plan", *words, "optim.beta1=0.5").out


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("model.width=64", "model.width=64 must be 32"),
        ("model.norm=layernorm", "model.norm=layernorm must be rmsnorm"),
        ("data.seed=5", "data.seed=5 must be 0"),
        ("data.packing=best_fit", "data.packing=best_fit must be chunked"),
        ("data.sequence_length=16", "data.row_tokens=16, but the run began with 32"),
        ("data.validation_fraction=0.3", "data.validation_fraction=0.3 must be 0.05"),
        ("data.isolate_documents=true", "allow_changes=[data.isolate_documents]"),
    ],
)
def test_another_setting_is_named_with_its_value_then(corpus, other, said):
    run = trained(corpus)
    answer = refused("run", *on(corpus), "stage.steps=4", f"resume={run}", other)
    assert said in answer
    assert "; and " not in answer


@pytest.mark.parametrize(
    "changed",
    [
        (),
        ("stage.global_batch_size=8",),
        ("data.sequence_length=16", "data.row_tokens=32"),
    ],
)
def test_the_same_stream_goes_on_also_in_other_batches(corpus, changed):
    run = trained(corpus)
    answer = typed("plan", *on(corpus), "stage.steps=4", f"resume={run}", *changed)
    assert answer.code == 0, answer


def test_the_settings_are_all_that_a_stage_compares(corpus):
    # What stages/pretrain.py wants to be equal must be refused here, before a run folder.
    run = trained(corpus)
    found = checkpoint.read(run / "checkpoints" / "step_00000002")
    compared, described = {"data", "tokenizer_fingerprint"}, {"data_fingerprint", "spent"}
    assert set(found.facts) == compared | described
    assert found.roles["model"].model is not None  # compared, too


def test_a_run_that_goes_on_is_not_resumed(run):
    with Journal(run) as journal:
        journal.event("started", host="far", pid=7)
        said = refused("plan", f"resume={run}", "stage.steps=4")
        assert "still goes on, process 7 on far" in said
        with pytest.raises(ValueError, match="the run of another process"):
            Journal(run)
    assert typed("plan", f"resume={run}", "stage.steps=4").code == 0


def add_damaged(run):
    """A newer checkpoint, damaged."""
    newer = run / "checkpoints" / "step_00000003"
    shutil.copytree(newer.with_name("step_00000002"), newer)
    weights = newer / "model" / "weights-0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    return weights


def test_wherever_a_checkpoint_is_chosen_the_screen_says_what_was_passed_over(run, corpus):
    damaged, used = add_damaged(run), str(run / "checkpoints" / "step_00000002")
    for words in (
        ("plan", f"resume={run}", "stage.steps=4"),
        ("plan", *on(corpus), f"model.weights={run}"),
        ("plan", "stage=evaluate", f"checkpoint={run}", *on_text(corpus)),
        ("generate", str(run), "--prompt", "The", "--max-new-tokens", "1"),
        ("export", str(run), "exported"),
        ("data", "explain", "1", str(run)),
    ):
        answer = typed(*words)
        assert answer.code == 0, answer
        said = answer.out + answer.err
        assert f"passed over: {damaged} is damaged: " in said
        assert used in said
    said = refused("plan", f"resume={damaged.parents[1]}", "stage.steps=4")
    assert f"the newest good one beside it is {used}" in said


def on_text(corpus):
    """The words of `on` that an evaluation reads."""
    unread = ("tokenizer", "model", "optim", "stage")
    return [word for word in on(corpus) if not word.startswith(unread)]


def test_weights_that_are_not_finite_are_passed_over_with_the_last_good_one_named(run):
    """Only an older version can have published them."""
    newer = run / "checkpoints" / "step_00000003"
    shutil.copytree(newer.with_name("step_00000002"), newer)
    file = newer / "model" / "weights-0.safetensors"
    data = bytearray(file.read_bytes())
    assert look(file)[1]
    data[-4:] = np.float32("inf").tobytes()
    file.write_bytes(data)
    manifest = newer / "manifest.json"
    plain = yaml.safe_load(manifest.read_text())
    plain.pop("digest")
    plain["step"] = 3
    plain["files"]["model/weights-0.safetensors"]["sha256"] = look(file)[0]
    manifest.write_text(rewritten(plain))
    found = find(run)
    assert found.step == 2
    assert "weights-0.safetensors holds numbers that are not finite" in found.passed_over[0]
    with pytest.raises(ValueError, match=r"not finite.*beside it is .*step_00000002"):
        find(newer)


def rewritten(plain):
    """A manifest with another content and the digest that goes with it."""
    return json.dumps({**plain, "digest": json_sha256(plain)})


@pytest.mark.parametrize("harm", [{"roles": None}, {"files": {"a": 1}}, {"step": "x"}])
def test_a_forged_manifest_is_one_sentence(run, harm):
    manifest = run / "checkpoints" / "step_00000002" / "manifest.json"
    plain = yaml.safe_load(manifest.read_text())
    plain.pop("digest")
    manifest.write_text(rewritten(plain | harm))
    assert "was written by something else" in refused("plan", f"resume={run}", "stage.steps=4")
    manifest.write_text("[" * 100_000)
    assert "is damaged" in refused("plan", f"resume={run}", "stage.steps=4")


def test_a_run_without_a_checkpoint_names_the_newest_that_has_one(run):
    empty = run.with_name("99-99-99-pretrain-ffffff")
    empty.mkdir()
    shutil.copy(run / "config.yaml", empty)
    for words in (
        ("plan", f"resume={empty}"),
        ("generate", str(empty)),
        ("export", str(empty), "x"),
    ):
        assert f"the newest run that has one is {run}" in refused(*words)


def newest(run):
    return run / "checkpoints" / "step_00000002"


def rewrite_manifest(run, change, *, honest):
    """Change the manifest; an honest writer makes its digest anew."""
    file = newest(run) / "manifest.json"
    manifest = json.loads(file.read_text())
    digest = manifest.pop("digest")
    change(manifest)
    manifest["digest"] = json_sha256(manifest) if honest else digest
    file.write_text(json.dumps(manifest))


def emptied(run):
    shutil.rmtree(run)
    run.mkdir()


def half_written(run):
    newest(run).rename(run / "checkpoints" / "step_00000002.000001.partial")


def edited(run):
    rewrite_manifest(run, lambda manifest: manifest.update(step=1), honest=False)


def of_a_newer_version(run):
    rewrite_manifest(run, lambda manifest: manifest.update(format=99), honest=True)


def other_texts(run):
    (run.parent / "other.txt").write_text("Something else entirely.\n\n" * 400)
    return ("data.path={parent}/other.txt",)


def contents(run):
    """Of all files, but for what is half-written: no run that is over has a use for it."""
    files = (path for path in run.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if ".partial/" not in str(path)}


def on_a_disk(*options):
    """The outputs of the new run are on a disk of its own."""

    def mount(run):
        disk = run.parent / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "x", disk], check=True)
        return ("outputs={parent}/disk",)

    return mount


@pytest.mark.parametrize("form", ["{}", "file://{}"])
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (emptied, "config.yaml"),
        (half_written, "holds no valid checkpoint: no checkpoint"),
        (edited, "manifest.json is damaged: it differs from its own digest"),
        (of_a_newer_version, "has format 99, and this version reads 2 and 3"),
        (lambda run: ("model.width=64",), "model.width=64 must be 32"),
        (other_texts, "bring that back, or start a run without resume"),
        (lambda run: ("tokenizer.kind=bpe", "tokenizer.vocab_size=300"), "tokenizer"),
        (on_a_disk("size=64k"), "stage.checkpoints_kept"),
        (on_a_disk("ro"), "Read-only file system"),
    ],
)
def test_nothing_is_begun_from_what_is_no_checkpoint_of_this_job_and_nothing_is_changed(
    run, harm, said, form
):
    """A run that is still alive: `test_a_run_that_goes_on_is_not_resumed`."""
    words = [word.format(parent=run.parent) for word in harm(run) or ()]
    try:
        before = contents(run)
        message = refused("run", f"resume={form.format(run)}", "stage.steps=9", *words)
        assert said in message
        assert run.name in message or "outputs=" in message
        assert contents(run) == before
    finally:
        subprocess.run(["umount", "--lazy", run.parent / "disk"], check=False, capture_output=True)
