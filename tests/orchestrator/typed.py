"""What a user types, carried out in this process, and a run that several test files look at."""

import contextlib
import io
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest.mock import patch

from orchestrator import cli


@dataclass(frozen=True)
class Answer:
    """What came back."""

    code: int
    out: str
    err: str


def typed(*arguments: str) -> Answer:
    """`orchestrate ARGUMENTS` in the current folder."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        patch.object(sys, "argv", ["orchestrate", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
    return Answer(code, out.getvalue(), err.getvalue())


def refused(*arguments: str) -> str:
    """The message of a request that must be refused with exit code 2 and nothing left behind."""
    before = sorted(Path.cwd().rglob("*"))
    answer = typed(*arguments)
    assert answer.code == 2, answer
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1, "one message, no traceback and nothing of Hydra"
    assert len(answer.err) < 4000, "a message has an end"
    assert not any(word in answer.err for word in ("Traceback", "hydra.cc", "HYDRA_FULL_ERROR"))
    assert sorted(Path.cwd().rglob("*")) == before
    return answer.err.removeprefix("error: ").strip()


SMALL = (
    "tokenizer=bytes",
    "model.layers=1",
    "model.width=32",
    "model.heads=2",
    "model.max_positions=32",
    "data.sequence_length=32",
    "stage.global_batch_size=4",
    "optim.warmup_steps=1",
    "resources=inline",
    "resources.gpus_per_worker=0",
    "engine=torch",
    "engine.precision=fp32",
    "tracking=none",
)


def on(corpus: Path) -> tuple[str, ...]:
    """The settings that the run of `trained` had, but for its steps."""
    return ("data=text", f"data.path={corpus}", *SMALL)


SHORT = (
    "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
"""A chat template of what is said alone, and the token that ends an answer."""

ROOMY = "model.max_positions=1024"
"""For a model of `trained` that reads more than a line."""


@cache
def trained(corpus: Path, *more: str) -> Path:
    """A run folder with a checkpoint after 2 steps; made once per session and further settings."""
    outputs = Path(os.environ["ORCHESTRATE_CACHE"]).parent / "trained"
    answer = typed("run", *on(corpus), "stage.steps=2", *more, f"outputs={outputs}")
    assert answer.code == 0, answer
    return (outputs / "latest").resolve()
