"""`orchestrate scaling predict`: the loss of a run by a law of others, before it runs or after."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data.messages import short
from orchestrator.config import TrackingConfig
from orchestrator.record.mlflow import Pending, State, new_state
from orchestrator.record.predictions import PICTURE, Prediction, is_prediction
from orchestrator.record.reading import CONFIG
from orchestrator.record.runs import Run, find
from orchestrator.terminal import say

if TYPE_CHECKING:
    from orchestrator.scaling.intervals import Draws


def asked(options: argparse.Namespace) -> tuple[float, float] | None:
    """The run that --size and --tokens describe. None: --run names one.

    Raises:
        ValueError: neither or both are there, or a number is no count.
    """
    described = (options.size, options.tokens)
    if options.run is not None:
        if any(value is not None for value in described):
            raise ValueError("--run tells size and tokens itself; leave --size and --tokens out")
        return None
    for name, value in zip(("--size", "--tokens"), described, strict=True):
        if value is None:
            raise ValueError(f"{name} is missing: give --size and --tokens, or --run RUN")
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value:g} must be a number above 0, such as 1e7")
    return described


def kept(options: argparse.Namespace) -> Path | None:
    """The folder of a prediction that is to be scored. None: what is named are points."""
    folder = Path(options.points[0]).expanduser()
    if not is_prediction(folder):
        return None
    if options.run is None or len(options.points) > 1:
        raise ValueError(
            f"{folder} is a prediction that was made: --run RUN adds what came out to it; for "
            "another prediction name the points"
        )
    return folder


def score(options: argparse.Namespace, folder: Path) -> int:
    """Add what came out of a run to a prediction that was made before, here and in MLflow."""
    from orchestrator.scaling import predicting

    run = find(options.run, folder.absolute().parents[1])
    own = predicting.score(folder, run)
    _say(options, own, folder)
    return _send(folder, run)


def carry_out(options: argparse.Namespace, draws: "Draws", run: Run | None) -> int:
    """Print what the law says of a run, and if it has run, how good that was; keep it if asked."""
    from orchestrator.scaling import predicting

    if run is None:
        own = predicting.predict(draws, options.size, options.tokens)
    else:
        own = predicting.predict(draws, *predicting.described(run))
        own = replace(own, truth=predicting.truth_of(run, own))
    folder = None
    if options.record:
        folder = predicting.keep(own, outputs_of(options.points))
        _track(folder, options.points)
    _say(options, own, folder)
    return 0 if folder is None else _send(folder, run)


def outputs_of(points: Sequence[str]) -> Path:
    """The outputs folder of run folders and sweeps; of a table that of where we are."""
    first = Path(points[0]).expanduser().absolute()
    if first.is_dir():
        around = (first, first.parent, first.parent.parent)
        return next((own for own in around if any(own.glob(f"*/*/{CONFIG}"))), around[-1])
    return Path("outputs").absolute()


def _track(folder: Path, points: Sequence[str]) -> None:
    """Note where the prediction is sent: to where the runs of its points are, else to the usual."""
    state = new_state(TrackingConfig(), folder.parents[1])
    first = State.load(Path(points[0]).expanduser())
    if first is not None:
        state = replace(
            state,
            tracking_uri=first.tracking_uri,
            artifact_root=first.artifact_root,
            experiment=first.experiment,
        )
    state.save(folder)


def _send(folder: Path, run: Run | None) -> int:
    """Send a prediction and, once more, its run: whose page is linked has to be there before."""
    from orchestrator.record.mlflow.sending import send

    state = State.load(folder)
    order = [folder]
    if run is not None and State.load(run.folder) is not None:
        fresh = state is None or state.run_id is None
        order = [folder, run.folder] if fresh else [run.folder, folder]
    code = 0
    for own in order:
        sent = send(own)
        if isinstance(sent, Pending):
            say(str(sent), sys.stderr)
            code = 1
        elif own == folder:
            say(f"MLflow      {sent.url or f'orchestrate ui {short(folder)}'}", sys.stderr)
    return code


def _say(options: argparse.Namespace, own: Prediction, folder: Path | None) -> None:
    """The prediction on the screen."""
    if options.json:
        told = asdict(own)
        del told["curve"]
        measured = None if own.truth is None else own.truth.loss
        told |= {"measured": measured, "error": own.error, "inside": own.inside}
        print(json.dumps(told, indent=1))
        return
    points = own.points
    largest = own.parameters / max(point["parameters"] for point in points)
    for line in (
        f"points      {len(points)}: {own.convention['parameters']}; {own.convention['compute']}",
        f"run         {own.parameters:,.0f} parameters, {largest:.2g} x the largest of the points, "
        f"on {own.tokens:,.0f} tokens, {own.flops:.3g} FLOPs",
        f"predicted   {own.loss:#.4g} ({own.low:#.4g} to {own.high:#.4g}, 9 times in 10)",
        *([] if own.verdict is None else [f"measured    {own.verdict}"]),
        *([] if own.extrapolates is None else [f"WARNING     {own.extrapolates}"]),
        *([] if folder is None else [f"picture     {short(folder / PICTURE)}"]),
    ):
        say(line, hang=12)
    if folder is not None and own.truth is None:
        say(f"score it:   orchestrate scaling predict {short(folder)} --run RUN")
