"""How far a run has got is the same seen live and read from its folder."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings

from orchestrator.record.journal import Journal
from orchestrator.record.standing import Standing
from tests.orchestrator.attempts import ATTEMPTS, play


@settings(deadline=None, max_examples=60)
@given(ATTEMPTS)
def test_the_driver_sees_after_each_line_what_its_folder_tells_anyone_else(attempts):
    with TemporaryDirectory() as name:
        folder = Path(name)

        def check(book):
            assert book.standing == Standing.read(folder)

        made = play(folder, attempts, check)
        found = Standing.read(folder)
    last = max(made.by, default=0)
    assert (found.step, found.tokens) == (last, 10 * len(made.by))
    assert found.checkpoint == made.checkpoint
    assert found.metrics.get("train/loss") == (made.by[last] + last / 100 if last else None)
    assert found.attempt == len(attempts)


def test_a_resumed_run_stands_where_it_began_until_its_first_step(tmp_path):
    with Journal(tmp_path) as journal:
        journal.event("resumed", step=7, path="elsewhere/step_00000007")
        assert (journal.standing.step, journal.standing.checkpoint_step) == (7, 7)
    found = Standing.read(tmp_path)
    assert (found.step, found.checkpoint) == (7, "elsewhere/step_00000007")


def test_what_was_measured_after_the_step_that_was_resumed_is_forgotten(tmp_path):
    with Journal(tmp_path) as journal:
        journal.metrics(1, {"validation/loss": 3.0})
        journal.event("checkpoint", step=1, path=Path("checkpoints/step_00000001"))
        journal.metrics(2, {"validation/loss": 2.0})
        journal.attempt = 2
        journal.event("resumed", step=1, path=Path("checkpoints/step_00000001"))
        assert journal.standing.metrics == {"validation/loss": 3.0}
        assert journal.standing == Standing.read(tmp_path)


def test_a_run_says_how_it_ended_and_one_that_was_taken_up_again_that_it_goes_on(tmp_path):
    for attempt, status in ((1, "failed"), (2, "done")):
        with Journal(tmp_path, attempt) as journal:
            journal.event("started")
            assert Standing.read(tmp_path).status is None
            journal.metrics(1, {"x": math.inf})
            journal.event("finished", status=status)
        assert Standing.read(tmp_path).status == status
    assert Standing.read(tmp_path).metrics == {"x": math.inf}
    assert 0 <= Standing.read(tmp_path).seconds < 5
