"""What the screen shows, written into a real rich console: plain lines and a terminal."""

import io

import pytest
from rich.console import Console

from orchestrator.job.screen import Screen
from orchestrator.record.standing import Standing
from orchestrator.stages import Outline
from orchestrator.stages.pretrain.driver import EVALUATION, TRAINING

TRAINED = {"train/loss": 2.5, "train/tokens_per_second": 1000.0}
EVALUATED = {"validation/loss": 2.25, "validation/bits_per_byte": 1.125}


class Following:
    """A screen that is fed as the driver feeds it."""

    def __init__(self, steps, console):
        self.screen = Screen(Outline(steps, {}, {}, TRAINING, EVALUATION), console)
        self.standing = Standing()
        self.say, self.phase = self.screen.say, self.screen.phase

    def __enter__(self):
        self.screen.__enter__()
        return self

    def __exit__(self, *error):
        self.screen.__exit__(*error)

    def metrics(self, step, values):
        self.standing.take({"time_ms": 0, "attempt": 1, "step": step, "metrics": values})
        self.screen.metrics(self.standing, values)

    def event(self, kind, facts):
        self.standing.take({"time_ms": 0, "attempt": 1, "event": kind, **facts})
        self.screen.event(kind, facts)


def screen(terminal=False):
    return Console(file=io.StringIO(), force_terminal=terminal, width=80)


def test_without_a_terminal_an_evaluation_is_one_plain_line():
    console = screen()
    with Following(10, console) as progress:
        progress.phase("preparing the data")
        progress.metrics(5, TRAINED)
        progress.event("checkpoint", {"step": 5, "path": "c"})
        progress.metrics(6, TRAINED | EVALUATED)
        progress.metrics(7, TRAINED)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "preparing the data"
    assert len(lines) == 3  # the first step, the evaluation; the last is too soon after it
    for words in ("step 6/10", "2.500", "1.125 bits/byte", "1,000 tokens/s", "saved 5"):
        assert words in lines[2]
    assert "\x1b" not in console.file.getvalue()


def test_in_a_terminal_the_bar_is_live_and_gone_at_the_end():
    console = screen(terminal=True)
    with Following(10, console) as progress:
        progress.phase("starting 2 workers")
        progress.metrics(1, TRAINED)
        progress.say("a line that stays")
    shown = console.file.getvalue()
    assert "a line that stays" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is back


def test_text_in_brackets_is_not_taken_for_markup():
    console = screen()
    with Following(10, console) as progress:
        progress.say("[bold]resume=[/x] a[b]c")
    assert console.file.getvalue() == "[bold]resume=[/x] a[b]c\n"


def test_resumed_and_rejected_checkpoints_are_told():
    console = screen()
    with Following(10, console) as progress:
        progress.event("checkpoint_rejected", {"reason": "c is damaged"})
        progress.event("resumed", {"step": 4, "path": "outputs/x"})
    assert console.file.getvalue().splitlines() == [
        "passed over: c is damaged",
        "resumed after step 4 from outputs/x",
    ]


@pytest.mark.parametrize("steps", [1, 10])
def test_the_last_step_says_nothing_of_time_left(steps):
    console = screen()
    with Following(steps, console) as progress:
        for step in range(1, steps + 1):
            progress.metrics(step, TRAINED | EVALUATED)
    assert "left" not in console.file.getvalue().splitlines()[-1]
