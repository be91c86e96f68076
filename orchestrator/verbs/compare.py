"""`orchestrate compare RUN RUN ...`: how runs differ, as tables and a picture.

Settings, data, code and results of each; and whether their curves lie in the band of the first one,
or of the runs behind --band: one run's own scatter, or what several seeds lead one to expect.
A run alone is compared with the reference curves of its stage, from runs of the stage's own recipe
in the chain pretrain, sft, then reward, dpo, grpo or ppo.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from data.messages import clock, did_you_mean
from orchestrator.record.comparing import differences
from orchestrator.record.comparing.differences import Band, Place
from orchestrator.record.comparing.recipes import reference
from orchestrator.record.figures import COLORS, INK, Points, plain_axes
from orchestrator.record.runs import Run, find
from orchestrator.terminal import columns, printable, say

WIDEST = 34  # characters of a cell
SAME = "the same in all"


def main(argv: Sequence[str]) -> int:
    """Print what differs; returns 1 if a run leaves the band that was asked for, else 0.

    Raises:
        ValueError: there is no such run, or too few of them, or none has measured the metric.
    """
    options = parser().parse_args(argv)
    outputs = Path(options.outputs).expanduser()
    runs = [find(name, outputs) for name in options.runs]
    if len(runs) == 1 and options.band is None:
        return _with_reference(runs[0], Path(options.picture), as_json=options.json)
    references = [find(name, outputs) for name in options.band or ()] or runs[:1]
    if len({run.folder.resolve() for run in [*runs, *references]}) < 2:
        raise ValueError(
            f"{' '.join(options.runs)}: give two runs or more; `orchestrate runs` lists them"
        )
    curves = {run.folder: differences.curves(run) for run in [*runs, *references]}
    metric = _metric(options.metric, [curves[run.folder] for run in [*references, *runs]])
    band = differences.band_of([curves[run.folder][metric] for run in references], metric)
    others = [run for run in runs if run not in references]
    places = {run.id: differences.place(curves[run.folder].get(metric, ([], [])), band)
              for run in others}  # fmt: skip
    parts = {
        "results": _results(runs),
        "settings": differences.settings(runs),
        "data": differences.data(runs),
        "code": differences.code(runs),
    }
    picture = Path(options.picture)
    shown = {run.id: curves[run.folder].get(metric, ([], [])) for run in others}
    _draw([(band, shown)], picture)
    if options.json:
        found = {name: own and differences.plain(own) for name, own in places.items()}
        print(json.dumps({"runs": [str(r.folder) for r in runs], **parts, metric: found}, indent=1))
    else:
        _print(runs, parts, band, references, places)
        say(f"picture: {picture}")
    outside = [own for own in places.values() if own is None or not own.inside]
    return 1 if options.band and outside else 0


def _with_reference(run: Run, picture: Path, *, as_json: bool) -> int:
    """Print where a run lies with respect to its recipe; returns 1 if it leaves a band of that.

    Raises:
        ValueError: its stage has no reference curves.
    """
    recipe, bands = reference(run.stage)
    curves = differences.curves(run)
    own = [(band, {run.id: curves.get(band.metric, ([], []))}) for band in bands]
    places = [(band, differences.place(found[run.id], band)) for band, found in own]
    _draw(own, picture)
    if as_json:
        told = {band.metric: {run.id: place and differences.plain(place)} for band, place in places}
        print(json.dumps(told, indent=1))
    else:
        for band, place in places:
            say(f"{band.metric} over steps")
            for line in told_of(band, f"{band.runs} runs of `{recipe}`", {run.id: place}):
                say(f"  {line}")
        typed = differences.overrides(run)
        say(f"{run.id} was asked for with {' '.join(typed) or 'the defaults'}")
        say(f"picture: {picture}")
    return 0 if all(place is not None and place.inside for _, place in places) else 1


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(
        prog="orchestrate compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    new.add_argument("runs", nargs="+", metavar="RUN", help="run folder, or beginning of an id")
    new.add_argument(
        "--band",
        nargs="+",
        metavar="RUN",
        help="runs that are taken as alike, such as seeds; exit code 1 if one leaves it",
    )
    new.add_argument("--metric", help="of the curves [train/loss, or the loss there is]")
    new.add_argument("--picture", default="compare.png", help="PNG to write [%(default)s]")
    new.add_argument("--json", action="store_true", help="for programs")
    new.add_argument("--outputs", default="outputs", help="folder of the runs [%(default)s]")
    return new


def _metric(asked: str | None, found: Sequence[Mapping[str, Points]]) -> str:
    """The metric of the curves: one that all have measured."""
    common = [name for name in found[0] if all(name in own for own in found)]
    if asked is None:
        usual = [n for n in ("train/loss", "validation/loss") if n in common]
        losses = usual + [name for name in common if name.endswith("/loss")]
        if losses:
            return losses[0]
        raise ValueError(
            "the runs have measured no loss that all have; choose a metric of the first with "
            f"--metric: {', '.join(found[0]) or 'it has none yet'}"
        )
    if asked not in common:
        hint = did_you_mean(asked, common) or f"; all have {', '.join(common) or 'none'}"
        raise ValueError(f"--metric={asked}: not every run has measured it{hint}")
    return asked


def _results(runs: Sequence[Run]) -> dict[str, list[str]]:
    """How each ended, and its last metrics beside those of the first."""
    rows = {
        "status": [run.status for run in runs],
        "stage": [run.stage for run in runs],
        "model": [run.model for run in runs],
        "steps": [run.steps for run in runs],
        "time": [_time(run.result.get("wall_s")) for run in runs],
        "tokens per second": [_number(run.result.get("tokens_per_second")) for run in runs],
    }
    names = dict.fromkeys(n for run in runs for n in run.metrics if not n.startswith("train/"))
    for name in [*(n for n in ("train/loss",) if any(n in r.metrics for r in runs)), *names]:
        rows[name] = [_against(run.metrics.get(name), runs[0].metrics.get(name)) for run in runs]
    return rows


def _time(seconds: Any) -> str:
    return clock(seconds) if isinstance(seconds, int | float) else "-"


def _number(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else "-"


def _against(value: float | None, first: float | None) -> str:
    """A value, and by how much it is another one than the first run's."""
    if value is None:
        return "-"
    change = "" if not first or value == first else f" ({(value - first) / abs(first):+.2%})"
    return f"{value:.5g}{change}"


def _print(
    runs: Sequence[Run],
    parts: Mapping[str, Mapping[str, list[str]]],
    band: Band,
    references: Sequence[Run],
    places: Mapping[str, Place | None],
) -> None:
    for heading, rows in parts.items():
        say(f"\n{heading}" if heading != "results" else heading)
        unlike = {n: v for n, v in rows.items() if len(set(v)) > 1 or heading == "results"}
        if unlike:
            for line in table(
                [("", *(run.id for run in runs)), *((n, *v) for n, v in unlike.items())]
            ):
                say(f"  {printable(line)}")
        same = [name for name in rows if name not in unlike]
        if not unlike:
            say(f"  all: {SAME}")
        elif same and heading in ("data", "code"):
            say(f"  {', '.join(same)}: {SAME}")
    say(f"\n{band.metric} over steps")
    for line in told_of(band, " ".join(run.id for run in references), places):
        say(f"  {line}")


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns; what is long is cut in its middle, where values of a kind are alike."""
    return columns([[_cut(cell) for cell in row] for row in rows])


def _cut(cell: str) -> str:
    half = (WIDEST - 3) // 2
    return cell if len(cell) <= WIDEST else f"{cell[:half]}...{cell[-half:]}"


def told_of(band: Band, of: str, places: Mapping[str, Place | None]) -> list[str]:
    """The band of some runs in a line, and where each run lies in one more."""
    what = "the scatter of its own steps" if band.runs == 1 else "where 95% of such runs lie"
    lines = [f"band of {of}: {what}, +-{band.half_width:.3g} at most steps"]
    for name, own in places.items():
        if own is None:
            lines.append(f"{name} has no step in common with it")
        elif own.leaves is not None:
            side = "above" if own.beyond > 0 else "below"
            lines.append(
                f"{name} leaves it for good at step {own.leaves} and ends {abs(own.beyond):.3g} "
                f"{side} it"
            )
        else:
            where = "lies in it" if own.inside else "ends in it, but was often outside"
            end = band.steps[-1]
            short = "" if own.last == end else f", and has come to step {own.last} of {end}"
            lines.append(f"{name} {where}: {own.share:.0%} of {own.compared} steps{short}")
    return lines


def _draw(parts: Sequence[tuple[Band, Mapping[str, Points]]], picture: Path) -> None:
    """Bands beside each other, in each the running means of the other runs."""
    from matplotlib.figure import Figure

    size = (8 * len(parts), 4.5)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    for axes, (band, curves) in zip(
        figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True
    ):
        plain_axes(axes, f"{band.metric}, running mean", band.metric, "optimizer step")
        middle = [(low + high) / 2 for low, high in zip(band.low, band.high, strict=True)]
        axes.fill_between(band.steps, band.low, band.high, color=COLORS[0], alpha=0.2, linewidth=0)
        axes.plot(band.steps, middle, color=COLORS[0], linewidth=2, label="band")
        for color, (name, points) in zip(cycle(COLORS[1:]), curves.items(), strict=False):
            means = differences.smooth(points, band.least)
            axes.plot(list(means), list(means.values()), color=color, linewidth=2, label=name)
        axes.legend(frameon=False, labelcolor=INK)
    figure.savefig(picture, dpi=120)
