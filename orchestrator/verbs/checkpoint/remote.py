"""Checkpoints behind a URL: listed, verified, and copied there."""

from functools import partial
from typing import TYPE_CHECKING, cast

from data.addresses import hide
from data.messages import counted
from orchestrator.record.checkpoints import CheckpointError
from orchestrator.record.fencing import Fenced, take
from orchestrator.record.journal import goes_on
from orchestrator.record.redaction import Redactor
from orchestrator.record.runs import Run
from orchestrator.record.standing import Standing
from orchestrator.terminal import say
from orchestrator.verbs.checkpoint.rows import Row, measured_by, show, verify_each

if TYPE_CHECKING:
    from orchestrator.record.checkpoints.fetching import RemoteRun


def list_there(url: str) -> int:
    """A line for each checkpoint; sizes and manifests are looked at, contents are not."""
    run = _run(url)
    measured, steps = measured_by(Run(run.fetch_record())), run.steps()
    if not steps:
        say(f"{hide(url)} has no checkpoint yet")
        return 0
    show(measured, [_row(run, step, sizes) for step, sizes in steps.items()])
    return 0


def verify_there(url: str) -> int:
    """Read every byte of one checkpoint, or of all of a run, where they are."""
    run = _run(url)
    steps = run.steps() if run.step is None else [run.step]
    if not steps:
        raise ValueError(f"{hide(url)} holds no checkpoint; name a run folder there")
    base = run.there.url
    each = {f"{hide(base)}/checkpoints/{step}": partial(run.verify, step) for step in steps}
    return verify_each(hide(url), each, run.step is not None)


def copy(run: Run, url: str | None) -> int:
    """Copy what a destination lacks of a run that has ended; exit code 1 if another has it."""
    from orchestrator.record.checkpoints.copying import Copier

    url = url or cast("str | None", run.settings.get("stage.checkpoints_to"))
    if url is None:
        raise ValueError(
            f"{run.folder} names no stage.checkpoints_to; say where to: "
            f"orchestrate checkpoint copy {run.folder} URL"
        )
    if goes_on(run.folder):
        raise ValueError(f"{run.folder} still goes on, and copies its checkpoints by itself")
    fence = take(run.folder, max(1, Standing.read(run.folder).attempt))
    redactor = Redactor.of_run(run.folder, run.config)
    copier = Copier(run.folder, url, lambda: fence, redactor)
    try:
        copier.copy_all()
    except Fenced as error:
        say(f"error: {copier.url}: {error}; name another URL, or remove what is there")
        return 1
    news = list(copier.news())
    copied = [event for event in news if event["event"] == "copied"]
    bad = [event for event in news if event["event"] == "copy_failed"]
    for event in bad:
        say(f"not copied: {event['reason']}")
    say(f"{counted(len(copied), 'checkpoint')} copied to {copier.url}")
    return 1 if bad else 0


def _run(url: str) -> "RemoteRun":
    from orchestrator.record.checkpoints.fetching import RemoteRun

    return RemoteRun(url, "checkpoint")


def _row(run: "RemoteRun", step: str, sizes: dict[str, int]) -> Row:
    try:
        found = run.read(step)
    except CheckpointError as error:
        return Row(step, f"{error}")
    for name, expected in found.files.items():
        if sizes.get(name) != expected.bytes:
            has = f"{sizes[name]} bytes" if name in sizes else "nothing"
            return Row(step, f"{name}: {has} there, the manifest says {expected.bytes}")
    return Row(step, "whole", found=found)
