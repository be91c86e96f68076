"""`orchestrate scaling ACTION`: how loss follows from size, data and compute.

fit     the constants of a scaling law with intervals, from a CSV file with the columns parameters,
        tokens (or flops), loss and if there are any flops, budget, unique_tokens, name; or from
        folders of runs or mlflow:EXPERIMENT, of which the validation loss is taken
choose  size and tokens for a budget by that law, what smaller models cost that are as good, and an
        experiment for `orchestrate run`
predict the loss of a run by a law of others: before it runs (--size, --tokens), or after (--run);
        --record keeps it, and PREDICTION --run RUN adds what came out
best    the best value of a setting for each size and amount of data, and the power law through them
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.terminal import say

if TYPE_CHECKING:
    from orchestrator.scaling.points import Points

FORMS = (
    *("chinchilla", "kaplan", "repeated", "size", "data", "compute"),
    *("kaplan_size", "kaplan_data", "kaplan_compute"),
)
MLFLOW = "mlflow:"  # before the name of an experiment
WITHIN = 3.0  # factor by which counted FLOPs may differ from 6 N D


def main(argv: Sequence[str]) -> int:
    """Carry out an action; returns the exit code. Raises ValueError for a wrong request."""
    options = parser().parse_args(argv)
    actions = {"fit": _fit, "choose": _choose, "predict": _predict, "best": _best}
    return actions[options.action](options)


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(
        prog="orchestrate scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = new.add_subparsers(dest="action", required=True, metavar="ACTION")
    fit = actions.add_parser("fit", help="the constants of a law, with intervals and a picture")
    _add_points(fit)
    fit.add_argument("--form", choices=FORMS, default="chinchilla", help="law [%(default)s]")
    fit.add_argument("--picture", default="scaling.png", help="PNG to write [%(default)s]")
    choose = actions.add_parser("choose", help="size and tokens for a budget, by the fit")
    _add_points(choose)
    choose.add_argument("--flops", type=float, required=True, help="of the training")
    choose.add_argument(
        "--write", metavar="FOLDER/experiment/NAME.yaml", help="experiment to write"
    )
    for name, usual, what in (
        ("--vocab-size", 4096, "tokens of its tokenizer"),
        ("--sequence-length", 256, "tokens of a sequence"),
        ("--batch", 12, "sequences of a step"),
    ):
        choose.add_argument(
            name, type=int, default=usual, help=f"{what}, in the experiment [%(default)s]"
        )
    choose.add_argument(
        "--dial", action="store_true", help="a model of experiment=dial, as `sweep scaling` has"
    )
    predict = actions.add_parser("predict", help="the loss of a run, before it runs or after")
    _add_points(predict)
    predict.add_argument("--size", type=float, metavar="N", help="parameters of the run")
    predict.add_argument("--tokens", type=float, metavar="D", help="that it trains on")
    predict.add_argument("--run", help="a run that is done, which is no point then")
    predict.add_argument(
        "--record", action="store_true", help="keep it: a folder in outputs, a page in MLflow"
    )
    best = actions.add_parser("best", help="the best value of a setting, by size and data")
    best.add_argument("points", nargs="+", metavar="FOLDER", help="of a sweep, or of runs")
    best.add_argument("--of", required=True, metavar="SETTING", help="such as optim.learning_rate")
    for action in (fit, choose, predict, best):
        action.add_argument("--json", action="store_true", help="for programs")
    return new


def _add_points(action: argparse.ArgumentParser) -> None:
    """What all actions ask of the points and of their intervals."""
    action.add_argument(
        "points",
        nargs="+",
        metavar="FILE.csv|FOLDER|mlflow:EXPERIMENT",
        help="a CSV file; folders of runs; or an experiment of MLflow's, with ?FILTER behind it",
    )
    action.add_argument(
        "--parameters",
        choices=("total", "non_embedding"),
        default="total",
        help="what the column parameters counts; folders of runs: total [%(default)s]",
    )
    action.add_argument(
        "--flops-within",
        type=float,
        default=WITHIN,
        metavar="FACTOR",
        help="by which flops may differ from 6 x parameters x tokens [%(default)s]",
    )
    action.add_argument("--draws", type=int, default=500, help="for intervals [%(default)s]")
    action.add_argument("--seed", type=int, default=0, help="of the draws [%(default)s]")


def _fit(options: argparse.Namespace) -> int:
    from orchestrator.scaling import fitting, forms, intervals, picture, report

    points = _points(options)
    with fitting.one_thread():
        fitted = fitting.fit(forms.FORMS[options.form], points)
        found = report.report(intervals.bootstrap(fitted, options.draws, options.seed))
    place = Path(options.picture)
    try:
        picture.draw(found).savefig(place, dpi=120)
    except (OSError, ValueError) as error:  # no folder, or no such kind of file
        raise ValueError(f"--picture={place} can't be written: {error}") from None
    if options.json:
        print(json.dumps({**report.plain(found), "picture": str(place)}, indent=1))
        return 0
    for line in report.lines(found):
        say(line, hang=12)
    say(f"picture     {place}")
    return 0


def _choose(options: argparse.Namespace) -> int:
    from orchestrator.scaling import fitting, forms, intervals
    from orchestrator.verbs.scaling import choice

    if not (math.isfinite(options.flops) and options.flops > 0):
        raise ValueError(f"--flops={options.flops:g} must be a number above 0, such as 1e18")
    choice.check(options)
    points = _points(options)
    with fitting.one_thread():
        fitted = fitting.fit(forms.FORMS["chinchilla"], points)
        draws = intervals.bootstrap(fitted, options.draws, options.seed)
    return choice.carry_out(options, draws)


def _predict(options: argparse.Namespace) -> int:
    from orchestrator.record.runs import find
    from orchestrator.scaling import fitting, forms, intervals
    from orchestrator.verbs.scaling import prediction

    described = prediction.asked(options)
    folder = prediction.kept(options)
    if folder is not None:
        return prediction.score(options, folder)
    run = None
    if described is None:
        run = find(options.run, prediction.outputs_of(options.points))
    points = _points(options, without=() if run is None else (run.id,))
    with fitting.one_thread():
        fitted = fitting.fit(forms.FORMS["chinchilla"], points)
        draws = intervals.bootstrap(fitted, options.draws, options.seed)
    return prediction.carry_out(options, draws, run)


def _best(options: argparse.Namespace) -> int:
    from orchestrator.scaling import sources
    from orchestrator.verbs.scaling import best

    points, notes = sources.from_runs(options.points)
    had = sources.setting_of(options.points, options.of)
    for note in notes:
        say(note, sys.stderr)
    return best.carry_out(options, points, had)


def _points(options: argparse.Namespace, without: Sequence[str] = ()) -> "Points":
    """The points that are meant, checked, but for some runs; what was not read is said."""
    from orchestrator.scaling import sources
    from orchestrator.scaling.intervals import check_draws
    from orchestrator.scaling.points import check_flops

    check_draws(options.draws)
    if not (math.isfinite(options.flops_within) and options.flops_within >= 1):
        raise ValueError(f"--flops-within={options.flops_within} must be a factor of 1 or more")
    first, *more = (Path(name).expanduser() for name in options.points)
    address = options.points[0].partition(MLFLOW)
    if address[1] and not address[0] and not more:
        points, notes = sources.from_mlflow(address[2])
    elif first.is_dir() or more:
        if options.parameters != "total":
            raise ValueError(
                f"--parameters={options.parameters} is for a CSV file that counts so; of run "
                "folders all parameters are counted"
            )
        points, notes = sources.from_runs(options.points)
    else:
        points, notes = sources.from_table(first, options.parameters)
    if without:
        points = points.take([n for n in range(len(points)) if points.name(n) not in without])
    check_flops(points, options.flops_within)
    for note in notes:
        say(note, sys.stderr)
    return points
