"""`orchestrate pipeline` with real jobs, in this process."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from orchestrator.compose import compose_one
from orchestrator.config import TrainingConfig
from orchestrator.job.codes import INTERRUPTED
from orchestrator.record.runs import runs
from orchestrator.verbs import pipeline as pipeline_verb
from orchestrator.verbs import run as run_verb
from tests.orchestrator.typed import SMALL, refused, typed


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


@pytest.mark.parametrize("name", pipeline_verb.known())
def test_every_pipeline_of_conf_is_of_jobs_that_compose(name):
    pipeline = pipeline_verb.read(name, [])
    made = {}
    for own, job in pipeline.jobs.items():
        if not job.needs:
            config = compose_one(job.words(made))
            if job.figure is not None and isinstance(config.stage, TrainingConfig):
                assert job.figure in config.stage.measures_of(config), own
