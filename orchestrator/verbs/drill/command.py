"""`orchestrate drill NAME[,NAME ...] [at=STEP] [overrides]`: rehearse a failure on your own job.

The job is started as you would, harm is done to it from outside, and it has to come to the same end
as the job undisturbed: the same weights and optimizer, bit for bit, the same ledger of samples, no
step missing or counted twice, nothing left behind. `all` carries out every drill and makes a table.

Besides overrides of the job: at=STEP after which harm is done [5/8 of the steps], within=SECONDS in
which it must run again; of soak and random: minutes=10; of random: every=30, seconds between two
faults, faults=N instead of minutes, and seed=0, which draws them, too.
Exit codes: 0 passed or not possible here, 1 not passed, 2 refused.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.emulated import NotEmulated
from data.messages import did_you_mean, short
from orchestrator.terminal import say
from orchestrator.verbs.drill.outcome import Context, Outcome
from orchestrator.verbs.drill.rehearsal import DrillError, NotPossible
from orchestrator.verbs.drill.rows import DRILLS, Drill
from orchestrator.verbs.drill.soak import random_mix, soak

if TYPE_CHECKING:
    from orchestrator.config import JobConfig

ALL = "all"
LONG = {
    "soak": Drill(23, "quiet on busy cores, for minutes", soak),
    "random": Drill(24, "a random mix of them, for minutes", random_mix),
}
EVERY = DRILLS | LONG
OWN: dict[str, type[int] | type[float]] = {
    "at": int,
    "every": float,
    "faults": int,
    "minutes": float,
    "within": float,
}
COLUMNS = ("row", "drill", "result", "lost", "detect", "resume", "equal", "notes")


def main(argv: Sequence[str], compose: "Callable[[Sequence[str]], JobConfig]") -> int:
    """Carry out the drills; returns the exit code. Raises ValueError for a wrong request."""
    options = parser().parse_args(argv)
    if options.list or options.drill is None:
        for name, drill in EVERY.items():
            lacks = f" (not here: {drill.lacks})" if drill.rehearse is None else ""
            say(f"{drill.row:>2}  {name:22}{drill.summary}{lacks}")
        return 0
    names = list(DRILLS) if options.drill == ALL else options.drill.split(",")
    for name in names:
        if name not in EVERY:
            hint = did_you_mean(name, [*EVERY, ALL]) or f"; there are {', '.join(EVERY)}"
            raise ValueError(f"{name} is no drill{hint}")
    context = _context(options.overrides, Path(options.outputs), compose)
    done: dict[str, Outcome] = {}
    try:
        for name in names:
            done[name] = _carry_out(context, name)
        if options.drill == ALL:
            why = "takes minutes: orchestrate drill {}"
            done |= {name: Outcome(None, [why.format(name)]) for name in LONG}
    finally:  # Ctrl-C ends the drill at hand, with all it has started
        _show(context, done)
    return int(any(outcome.passed is False for outcome in done.values()))


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(
        prog="orchestrate drill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    new.add_argument("drill", nargs="?", help="its name, several with commas between, or all")
    new.add_argument("overrides", nargs="*", metavar="SETTING=VALUE", help="of the job, and at=")
    new.add_argument("--list", action="store_true", help="the drills there are")
    new.add_argument(
        "--outputs", default="outputs", help="their runs go to its drills/ [%(default)s]"
    )
    return new


def _context(
    words: Sequence[str], outputs: Path, compose: "Callable[[Sequence[str]], JobConfig]"
) -> Context:
    """The job, checked before anything starts.

    Raises:
        ValueError: it can't be composed, or can't be drilled.
    """
    from orchestrator.config import TrainingConfig

    asked = dict(word.split("=", 1) for word in words if word.partition("=")[0] in OWN)
    own = {name: _number(name, text) for name, text in asked.items()}
    overrides = [word for word in words if word.partition("=")[0] not in OWN]
    for word in overrides:
        if word.partition("=")[0] in ("outputs", "resume"):
            raise ValueError(f"{word}: a drill sets this itself; use --outputs, or leave it out")
    config = compose(overrides)
    stage = config.stage
    if not isinstance(stage, TrainingConfig):
        raise ValueError(f"stage={stage.name} does not train; drill one that does: stage=pretrain")
    if config.resources.launcher == "inline":
        raise ValueError("resources=inline has no workers that could be lost; try resources=cpu2")
    at = int(own.get("at", stage.steps * 5 // 8))
    if not 1 <= at < stage.steps:
        raise ValueError(
            f"at={at} must be at least 1 and less than stage.steps={stage.steps}; "
            f"try at={max(1, stage.steps // 2)}"
        )
    folder = outputs.absolute() / "drills" / time.strftime("%Y-%m-%d_%H-%M-%S")
    return Context(
        overrides,
        config,
        folder,
        at,
        minutes=own.get("minutes", 10.0),
        every_s=own.get("every", 30.0),
        faults=int(own["faults"]) if "faults" in own else None,
        seed=config.seed,
        within_s=own.get("within"),
        say=say,
    )


def _number(name: str, text: str) -> float:
    try:
        value = float(OWN[name](text))
    except ValueError:
        value = 0.0
    if value <= 0:
        raise ValueError(f"{name}={text} must be a number greater than 0")
    return value


def _carry_out(context: Context, name: str) -> Outcome:
    drill = EVERY[name]
    if drill.rehearse is None:
        return Outcome(None, [drill.lacks])
    say(f"{name}: {drill.summary}")
    try:
        return drill.rehearse(context)
    except NotPossible as error:
        return Outcome(None, [str(error)])
    except (DrillError, NotEmulated) as error:
        return Outcome(False, [str(error)])


def _show(context: Context, done: dict[str, Outcome]) -> None:
    """Print the table, and keep it beside the runs."""
    rows = [COLUMNS, *(_row(name, outcome) for name, outcome in done.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        say("  ".join([*cells, row[-1]]).rstrip(), hang=sum(widths) + 2 * len(widths))
    context.folder.mkdir(parents=True, exist_ok=True)
    kept = context.folder / "drills.json"
    facts = {name: {"row": EVERY[name].row, **asdict(outcome)} for name, outcome in done.items()}
    kept.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    say(f"runs and results: {short(context.folder)}")


def _row(name: str, outcome: Outcome) -> tuple[str, ...]:
    result = {True: "passed", False: "FAILED", None: "skipped"}[outcome.passed]
    return (
        str(EVERY[name].row),
        name,
        result,
        "-" if outcome.lost_steps is None else str(outcome.lost_steps),
        "-" if outcome.detect_s is None else f"{outcome.detect_s:.1f} s",
        "-" if outcome.resume_s is None else f"{outcome.resume_s:.1f} s",
        {True: "yes", False: "NO", None: "-"}[outcome.equal],
        "; ".join(outcome.notes),
    )
