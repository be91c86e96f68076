"""How far a run has got is the same seen live and read from its folder."""

from orchestrator.record.journal import Journal
from orchestrator.record.standing import Standing


def test_a_run_folder_tells_what_was_seen_while_it_was_written(tmp_path):
    live = Standing()
    with Journal(tmp_path) as journal:
        for step in range(1, 6):
            values = {"train/loss": 1 / step} | ({"validation/loss": 2.0} if step == 3 else {})
            journal.metrics(step, values)
            live.see_metrics(step, values)
            if step == 4:
                facts = {"step": 4, "path": "checkpoints/step_00000004"}
                journal.event("checkpoint", **facts)
                live.see_event("checkpoint", facts)
    assert Standing.read(tmp_path) == live
    assert (live.step, live.checkpoint_step) == (5, 4)
    assert live.metrics == {"train/loss": 0.2, "validation/loss": 2.0}


def test_a_resumed_run_stands_where_it_began_until_its_first_step(tmp_path):
    with Journal(tmp_path) as journal:
        journal.event("resumed", step=7, path="elsewhere/step_00000007")
    found = Standing.read(tmp_path)
    assert (found.step, found.checkpoint) == (7, "elsewhere/step_00000007")
