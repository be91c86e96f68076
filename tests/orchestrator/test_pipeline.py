"""`orchestrate pipeline` with real jobs, in this process."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from orchestrator.job.codes import INTERRUPTED
from orchestrator.record.figures import training_figures
from orchestrator.record.runs import runs
from orchestrator.verbs import pipeline as pipeline_verb
from orchestrator.verbs import run as run_verb
from tests.orchestrator.typed import SHORT, SMALL, refused, typed


@pytest.fixture
def pipeline(corpus, tmp_path, monkeypatch):
    """Write a pipeline; its file."""
    monkeypatch.chdir(tmp_path)

    def write(**jobs):
        Path("p.yaml").write_text(
            yaml.safe_dump({"title": "Two steps", "jobs": jobs}, sort_keys=False)
        )
        return "p.yaml"

    return write


@pytest.fixture
def pretrain(corpus):
    return ["data=text", f"data.path={corpus}", *SMALL, "stage.steps=2", "stage.sample_tokens=0"]


def evaluate(corpus, name):
    words = ["stage=evaluate", f"checkpoint=${{{name}}}", "data=text", f"data.path={corpus}"]
    return [*words, "data.sequence_length=32", "resources=inline", "tracking=none"]


def test_a_job_works_on_the_run_of_another_and_a_table_says_what_each_measured(
    pipeline, pretrain, corpus
):
    figure = "validation/bits_per_byte"
    name = pipeline(
        base={"run": pretrain, "figure": figure, "picture": "loss_by_position.png"},
        check={"run": evaluate(corpus, "base"), "figure": "validation/bits"},
    )
    answer = typed("pipeline", name)
    assert answer.code == 0, answer
    check, base = runs(Path("outputs"))
    assert Path(check.settings["checkpoint"]).resolve() == base.folder.resolve()
    header, first, second, drawn = answer.out.splitlines()[-4:]
    assert Path(drawn.removeprefix("pictures: ")).read_bytes().startswith(b"\x89PNG")
    assert header.split() == ["job", "status", "figure", "time", "command", "picture"]
    assert f"bits_per_byte {base.metrics[figure]:.4g}" in first
    assert f"orchestrate run {shlex.join(pretrain)}" in first
    assert first.endswith(f"{base.folder}/loss_by_position.png")
    assert second.split()[:2] == ["check", "done"]
    assert "validation/bits was not measured" in second
    (state,) = Path("outputs").glob("*/*/pipeline.json")
    again = typed("pipeline", "--resume", str(state.parent))
    assert again.code == 0
    assert len(list(runs(Path("outputs")))) == 2, "what is done is not done again"
    assert again.out.splitlines()[-3:-1] == [first, second]


def test_a_job_that_fails_stops_those_that_need_it_alone_and_resume_goes_on(
    pipeline, pretrain, corpus, tmp_path, monkeypatch
):
    broken = {"codes": [1, 0, INTERRUPTED]}
    monkeypatch.setattr(run_verb, "main", lambda *job: broken["codes"].pop(0))
    name = pipeline(
        base={"run": pretrain},
        check={"run": evaluate(corpus, "base")},
        other={"run": [*pretrain, "seed=1"]},
        last={"run": [*pretrain, "seed=2"]},
    )
    answer = typed("pipeline", name, "recovery=none")
    assert answer.code == INTERRUPTED
    assert "job 2, check: not started, it needs base" in answer.out
    (state,) = Path("outputs").glob("*/*/pipeline.json")
    assert f"orchestrate pipeline --resume {state.parent} goes on" in answer.out
    assert json.loads(state.read_text())["codes"] == {"base": 1, "other": 0}
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    again = typed("pipeline", "--resume", str(state.parent))
    assert again.code == 0, again
    done = list(reversed([run.settings["seed"] for run in runs(Path("outputs"))]))
    assert done == [0, 0, 2], "base, check, last; other was done"
    assert all(run.settings["recovery.max_restarts"] == 0 for run in runs(Path("outputs")))


def test_what_can_not_work_is_named_before_anything_starts(pipeline, pretrain):
    assert "give the name" in refused("pipeline")
    cases = (
        ({"a": {"run": [*pretrain, "stage.steps=0"]}}, "in job a"),
        (
            {"a": {"run": ["checkpoint=${b}"]}, "b": {"run": []}},
            "needs ${b}, which is no job before",
        ),
        ({"a": {"ran": []}}, "job a has no overrides"),
        ({"a": {"run": [], "figur": "x"}}, "figur is not one of"),
        ({"a b": {"run": []}}, "letters, digits"),
        ({}, "has no jobs"),
    )
    for jobs, expected in cases:
        assert expected in refused("pipeline", pipeline(**jobs))
    assert "holds no pipeline.json" in refused("pipeline", "--resume", "nowhere")
    assert "none.yaml" in refused("pipeline", "none.yaml")


OF_TEXT = ("engine=torch", "engine.precision=fp32", "stage.global_batch_size=4")
LANGUAGE = (*OF_TEXT, "data=text", "data.sequence_length=32", "model.width=32")
SMALLER = {  # than conf/pipeline/ladder.yaml has them, by the word of a job that tells its stage
    "experiment=sequences": (*LANGUAGE, "tokenizer=bytes"),
    "stage=pretrain": (*LANGUAGE, "tokenizer=bytes", "model.layers=1", "stage.sample_tokens=4"),
    "stage=masked": (*LANGUAGE, "tokenizer.vocab_size=300", "model.layers=1"),
    "stage=translate": (*OF_TEXT, "stage.pairs=300", "model.width=32", "stage.beams=1"),
    "stage=embed": (*OF_TEXT, "stage.min_count=1", "stage.words=300"),
    "stage=classify_text": OF_TEXT,
}


def test_every_rung_of_the_ladder_has_its_figure_and_its_picture(pipeline, corpus):
    jobs = {}
    for name, job in pipeline_verb.read("ladder", []).jobs.items():
        words = [*job.run, "resources=inline", "resources.gpus_per_worker=0", "tracking=none"]
        for word in job.run:
            words += [own for own in SMALLER.get(word, ()) if own not in words]
        if "data=text" in words or "stage=evaluate" in words:
            words += [f"data.path={corpus}"]
        if "stage=embed" in words:
            words += [f"stage.data={corpus}"]
        if "stage=evaluate" in words:
            words += ["data=text", "data.sequence_length=32"]
        else:
            often = 2 if any("stage.patience" in word for word in words) else 7
            words += ["stage.steps=14", f"stage.evaluate_every={often}", "optim.warmup_steps=1"]
            words += ["stage.checkpoint_every=null"]
        jobs[name] = {"run": words, "figure": job.figure, "picture": job.picture}
    answer = typed("pipeline", pipeline(**jobs))
    assert answer.code == 0, answer
    rows = answer.out.splitlines()[-len(jobs) - 1 : -1]
    for row, (name, job) in zip(rows, jobs.items(), strict=True):
        assert row.split()[:3] == [name, "done", job["figure"].rpartition("/")[2]], row
        float(row.split()[3])
        drawn = job["picture"] is not None and "figures/" not in job["picture"]  # of tracking
        assert row.endswith(job["picture"] if drawn else "-"), row
    assert "pictures.png" in answer.out.splitlines()[-1]


def test_a_base_model_is_aligned_by_every_job_of_its_pipeline(pipeline, pretrain, corpus):
    Path("short.jinja").write_text(SHORT)
    said = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "a b c d"})
    pairs = [{"prompt": f"{n}?", "chosen": "a", "rejected": "a b c d"} for n in range(40)]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    talks = [{"messages": [{**said[0], "content": f"{n}?"}, said[1]]} for n in range(40)]
    Path("talks.jsonl").write_text("\n".join(map(json.dumps, talks)))
    plain = [word for word in pretrain if word.startswith(("resources", "engine", "tracking"))]
    plain += ["stage.steps=2", "stage.global_batch_size=8", "optim.warmup_steps=1"]
    plain += ["stage.chat_template=short.jinja", "stage.validation_fraction=0.2"]
    own = {
        "sft": ["stage.data=talks.jsonl", "stage.sequence_length=32"],
        "reward": ["stage.data=pairs.jsonl", "stage.sequence_length=32"],
        "dpo": ["stage.data=pairs.jsonl", "stage.sequence_length=32"],
        "grpo": ["stage.data=talks.jsonl", "stage.prompt_tokens=16", "stage.answer_tokens=8"],
        "ppo": ["stage.data=talks.jsonl", "stage.prompt_tokens=16", "stage.answer_tokens=8"],
    }
    jobs = {}
    for name, job in pipeline_verb.read("alignment", []).jobs.items():
        stage = job.run[0].removeprefix("stage=")
        words = pretrain if stage == "pretrain" else [*job.run, *plain, *own[stage]]
        # The rule that ordered the built-in pairs says nothing of others.
        figure = "validation/accuracy" if stage == "dpo" else job.figure
        jobs[name] = {"run": words, "figure": figure, "picture": job.picture}
    answer = typed("pipeline", pipeline(**jobs))
    assert answer.code == 0, answer
    for row, (name, job) in zip(answer.out.splitlines()[-7:-1], jobs.items(), strict=True):
        assert row.split()[:3] == [name, "done", job["figure"].rpartition("/")[2]], row
        float(row.split()[3])
    ppo, _, _, reward, answering, _ = runs(Path("outputs"))
    for setting, run in (("model", answering), ("roles.reward.model", reward)):
        checkpoint = Path(ppo.settings[f"{setting}.weights"])
        assert checkpoint.parents[1].resolve() == run.folder.resolve()
    assert set(training_figures(ppo.folder)) >= {"reward", "kl"}
    assert "exact" in training_figures(answering.folder)
