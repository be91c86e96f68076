"""`orchestrate runs [SETTING=VALUE ...]`: the runs of an outputs folder, newest first, one a line.

Words choose among them: stage=pretrain, status=failed, or any setting: optim.name=lion.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from data.messages import did_you_mean
from orchestrator.record.runs import Run, ranked, runs
from orchestrator.terminal import columns, say

SHOWN = 20
COLUMNS = ("id", "started", "stage", "model", "status", "result", "steps")


def main(argv: Sequence[str]) -> int:
    """Print the list; returns the exit code. Raises ValueError for a wrong request."""
    options = parser().parse_args(argv)
    outputs = Path(options.outputs).expanduser()
    if not outputs.is_dir():
        raise ValueError(
            f"--outputs={options.outputs}: there is no such folder; `orchestrate run` makes one"
        )
    found = [run for run in runs(outputs) if all(_holds(run, word) for word in options.only)]
    metric = None
    if options.best is not None:
        metric = metric_of(options.best, found)
        found = ranked(found, metric)
    if options.json:
        print(json.dumps([_plain(run) for run in found], indent=1))
        return 0
    shown = found[: options.limit]
    rows = [COLUMNS, *(_row(run, metric) for run in shown)]
    for line in columns(rows):
        say(line)
    if len(found) > len(shown):
        say(f"and {len(found) - len(shown)} more; --limit={len(found)} shows all")
    if not found:
        say(f"no run in {outputs} is so" if options.only else f"no run in {outputs} yet")
    else:
        say(f"orchestrate show {found[0].id} shows the first")
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(
        prog="orchestrate runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    new.add_argument(
        "only", nargs="*", metavar="SETTING=VALUE", help="only runs with stage=, status=, or so set"
    )
    new.add_argument(
        "--best", metavar="METRIC", help="best first, for example validation/bits_per_byte or loss"
    )
    new.add_argument("--limit", type=int, default=SHOWN, metavar="N", help="lines [%(default)s]")
    new.add_argument("--json", action="store_true", help="all of them, for programs")
    new.add_argument("--outputs", default="outputs", help="folder of the runs [%(default)s]")
    return new


def metric_of(name: str, among: Sequence[Run]) -> str:
    """The metric that is meant: its name, or its last word if only one of validation has it.

    Raises:
        ValueError: no run has measured it.
    """
    known = dict.fromkeys(own for run in among for own in run.metrics)
    ends = [own for own in known if own.endswith(f"/{name}")]
    for candidates in ([name], [f"validation/{name}"], ends):
        if len(candidates) == 1 and candidates[0] in known:
            return candidates[0]
    hint = did_you_mean(name, known) or (f"; there are {', '.join(known)}" if known else "")
    raise ValueError(f"--best={name}: none of {len(among)} runs has measured it{hint}")


def _holds(run: Run, word: str) -> bool:
    name, sign, text = word.partition("=")
    if not sign:
        raise ValueError(f"{word}: give SETTING=VALUE, for example stage=pretrain or status=done")
    if name in ("status", "stage", "id", "model"):
        return str(getattr(run, name)) == text
    if name not in run.settings:
        return False
    value = run.settings[name]
    return str(value) == text or bool(value == yaml.safe_load(text))


def _row(run: Run, metric: str | None) -> tuple[str, ...]:
    measured = metric or (run.headline or (None,))[0]
    result = "-" if measured is None else f"{measured.split('/', 1)[-1]} {run.told(measured)}"
    return (run.id, run.started, run.stage, run.model, run.status, result, run.steps)


def _plain(run: Run) -> dict[str, object]:
    """A run for programs."""
    names = ("id", "started", "stage", "model", "status", "steps", "metrics")
    return {"folder": str(run.folder), **{name: getattr(run, name) for name in names}}
