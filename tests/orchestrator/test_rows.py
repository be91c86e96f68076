"""Drills on whole jobs: some in every suite, and all of them where they are asked for."""

import json
import os

import pytest

from tests.orchestrator.commands import RUN, TINY, Job, no_left_overs

OTHERS = ("stage.steps", "stage.checkpoint_every", "stage.evaluate_every", "model.layers")
SMALL = [
    *(word for word in TINY if not word.startswith(OTHERS)),
    *("stage.steps=120", "stage.checkpoint_every=20", "stage.evaluate_every=60", "model.layers=1"),
]


def carried_out(names, folder, corpus, *words, seconds):
    """The drills' command, and the outcome of each."""
    command = [*RUN[:-1], "drill", names]
    drill = Job(folder, corpus, *words, command=command, own=SMALL)
    code = drill.wait(seconds)
    (kept,) = (folder / "outputs" / "drills").glob("*/drills.json")
    assert no_left_overs(drill)
    return drill, code, json.loads(kept.read_text())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs the superuser")
def test_after_a_killed_driver_a_damaged_checkpoint_and_a_full_disk_the_end_is_the_same(
    tmp_path, corpus
):
    words = ("resources.workers=1", "tracking=none", "at=50")
    drill, code, outcomes = carried_out(
        "corrupt-checkpoint,full-disk", tmp_path, corpus, *words, seconds=270
    )
    assert code == 0, drill.screen
    for outcome in outcomes.values():
        assert (outcome["passed"], outcome["equal"]) == (True, True), drill.screen
        assert outcome["lost_steps"] <= 40, "steps between three checkpoints"
    notes = {name: outcome["notes"] for name, outcome in outcomes.items()}
    assert notes == {"corrupt-checkpoint": ["resumed as its user would"], "full-disk": []}


@pytest.mark.drill
@pytest.mark.timeout(3600)
def test_every_drill_that_this_machine_allows_is_passed(tmp_path, corpus):
    drill, code, outcomes = carried_out("all", tmp_path, corpus, "tracking=mlflow", seconds=3500)
    print(drill.screen)
    failed = {name: own["notes"] for name, own in outcomes.items() if own["passed"] is False}
    assert (code, failed) == (0, {})
