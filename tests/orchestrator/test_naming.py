"""What MLflow calls a run, and how it describes it."""

import json

import pytest

from orchestrator.record.mlflow.description import Description, _without_folders
from orchestrator.record.mlflow.naming import run_name, trial_name
from tests.orchestrator.tracked import make_run, play

STARTED = {"event": "started", "roles": {"model": {"family": "gpt", "parameters": 2557632}}}
WEIGHTS = {
    "event": "weights",
    "role": "model",
    "path": "/o/d/12-00-00-a-b/checkpoints/s",
    "step": 9,
}
WIKI, CODE = ({"event": "dataset", "name": name} for name in ("wiki", "code"))


@pytest.mark.parametrize(
    ("events", "typed", "command", "name"),
    [
        ([STARTED, WIKI, WIKI], ["data=text", "data.path=a/wiki.txt"], "", "s gpt 2.56M wiki"),
        ([STARTED, WEIGHTS, WIKI], [], "", "s gpt 2.56M of a-b-step-9 wiki"),
        (
            [WIKI, CODE],
            ["model.layers=2", "seed=2", "++outputs=x", "tracking.experiment=e"],
            "model.layers=2 seed=2",
            "s wiki+code seed=2 layers=2",
        ),
        (
            [],
            ["seed=2", "stage.steps=5", "roles.a.optim.lr=1", "roles.b.optim.lr=2"],
            "-m seed=2 stage.steps=5,6 roles.a.optim.lr=1 roles.b.optim.lr=2",
            "s steps=5 seed=2 roles.a.optim.lr=1 roles.b.optim.lr=2",
        ),
    ],
    ids=["data", "weights", "order", "sweep"],
)
def test_a_run_is_called_by_what_it_is_and_what_tells_it_from_others(events, typed, command, name):
    assert run_name("s", events, typed, command.split()) == name
    assert len(run_name("s", events, [f"{key}=1" for key in ("longer" * 9, "k" * 99)], [])) <= 120


def test_a_trial_is_called_by_what_tells_it_from_the_others_of_its_sweep():
    point = {"optim": "sgd", "optim.learning_rate": 0.19676691837361399, "model.hidden": "[64,64]"}
    assert trial_name(7, point) == "trial 7: optim=sgd learning_rate=0.1968 hidden=[64,64]"
    both = {"roles.a.seed": 1, "roles.b.seed": 2}
    assert trial_name(0, both) == "trial 0: roles.a.seed=1 roles.b.seed=2"


def test_the_source_is_the_command_with_the_last_part_of_each_path():
    command = "orchestrate run checkpoint=/a/b/latest data.path=texts/ 'data.path=x/*.txt'"
    assert _without_folders(command) == (
        "orchestrate run checkpoint=latest data.path=texts 'data.path=*.txt'"
    )


def test_the_description_says_what_the_job_is_and_where(tmp_path):
    folder = make_run(tmp_path)
    note = Description(folder).note(None, {})
    assert note.startswith("pretrain on `here`: running\n")
    assert f"`{folder}`" in note
    assert "with uncommitted changes" in note
    play(folder, status="failed")
    result = json.loads((folder / "result.json").read_text())
    result["error"] = {"class": "OOM", "message": "out of\nmemory"}
    result |= {"best": {"metric": "validation/loss", "step": 3}, "reason": "no better"}
    (folder / "result.json").write_text(json.dumps(result))
    note = Description(folder).note("failed", {"tokenizer": "abc"})
    assert note.startswith("**2.100 validation loss (gzip 2.400, unigram 4.800).** pretrain on")
    parts = ["Error** out of memory", "Differs from the defaults** `hub.token=[redacted]`"]
    parts += ["Result**\n\n- validation/loss: 2.1", "Data**\n\n- tiny train: 10 documents"]
    parts += ["Again**\n\n- `orchestrate rerun abc123`", "What happened**", "Samples**"]
    places = [note.index(f"**{part}") for part in parts]
    assert places == sorted(places), "what matters most comes first"
    assert "- tokenizer: `abc`" in note
    tags = Description(folder).final_tags("done", {})
    assert (json.loads(tags["best"])["step"], tags["reason"]) == (3, "no better")
