"""What the screen shows, written into a real rich console: plain lines and a terminal."""

import io
import re

import pytest
from rich.console import Console

from data.messages import Passing
from orchestrator.job.screen import Screen, Terminal
from orchestrator.record.redaction import Redactor
from orchestrator.record.standing import Standing
from orchestrator.stages import Outline
from orchestrator.stages.pretrain.driver import EVALUATION, TRAINING

TRAINED = {
    "train/loss": 2.5,
    "train/tokens_per_second": 1000.0,
    "train/step_seconds": 3.0,
    "train/data_wait_fraction": 0.25,
}
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


def screen(terminal=False, width=80):
    return Terminal(Redactor({}), file=io.StringIO(), force_terminal=terminal, width=width)


def test_without_a_terminal_an_evaluation_has_plain_lines_that_name_their_numbers():
    console = screen()
    with Following(10, console) as progress:
        progress.phase("preparing the data")
        progress.metrics(5, TRAINED)
        progress.event("checkpoint", {"step": 5, "path": "c"})
        progress.metrics(6, TRAINED | EVALUATED)
        progress.metrics(7, TRAINED)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "preparing the data"
    # The first step, the step of the evaluation, and it; the last is too soon after it.
    assert lines[1:] == [
        "step 5/10  train loss 2.500  1,000 tokens/s  3 s/step  data wait 25%",
        lines[2],
        "step 6/10  validation loss 2.250  1.125 bits/byte",
    ]
    for words in ("step 6/10  train loss 2.500  1,000 tokens/s", "left  saved 5", "data wait 25%"):
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


def test_a_terminal_shows_what_is_being_done_with_a_clock_and_keeps_only_what_was_found(
    monkeypatch,
):
    console, now = screen(terminal=True), [100.0]
    monkeypatch.setattr("orchestrator.job.screen.time.monotonic", lambda: now[0])
    with Following(10, console) as progress:
        progress.say(Passing("tokenizing: 1 of 9 units"))
        now[0] += 61
        progress.say(Passing("tokenizing: 2 of 9 units"))  # the same work goes on
        shown = Console(width=80, file=io.StringIO())
        shown.print(progress.screen._bar())
        assert shown.file.getvalue().strip() == "1:01  tokenizing: 2 of 9 units"
        progress.say("data train: 3 documents")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal_or_broken_in_a_word(width):
    console, plain = screen(terminal=True, width=width), screen()
    text = "memory      25.6 MB per worker: weights 5.12 MB, " + "gradients 5.12 MB, " * 9
    for own in (console, plain):
        with Following(100_000, own) as progress:
            progress.say(text, hang=12)
            progress.metrics(99_998, TRAINED | EVALUATED)
            progress.metrics(99_999, TRAINED | EVALUATED)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).splitlines()
    assert max(map(len, shown)) <= width
    assert not any(line.endswith(("5.12", "25.6")) for line in shown)
    lines = [line for line in shown if line.strip() and "━" not in line]
    assert [" ".join(line.split()) for line in plain.file.getvalue().splitlines()] == [
        " ".join(line.split()) for line in re.split(r"\n(?! )", "\n".join(lines))
    ]


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
