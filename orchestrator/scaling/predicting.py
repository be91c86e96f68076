"""The loss of one run by a law of others, and the truth about it once the run is done."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from orchestrator.record.mlflow.description import FIGURES
from orchestrator.record.predictions import PICTURE, Prediction, Truth
from orchestrator.record.runfolder import new_folder
from orchestrator.record.runs import Run
from orchestrator.scaling.intervals import Draws
from orchestrator.scaling.points import FLOPS_PER_WEIGHT, Points
from orchestrator.scaling.report import beyond
from orchestrator.scaling.sources import FLOPS, LOSS, TOKENS, Ran

AROUND = 3.0  # times that the curve goes on beyond the run
CURVE = 60  # points that it is drawn by


def predict(draws: Draws, size: float, tokens: float) -> Prediction:
    """The loss of a run that the law does not go by.

    Args:
        draws: the law, of N and D.
        size: its parameters, counted as the points' are.
        tokens: that it trains on.
    """
    points = draws.fit.points
    each = FLOPS_PER_WEIGHT * points.flops_factor * size  # FLOPs per token
    # It begins with as little text as any run had: the law was never asked about less.
    least = min(points.tokens.min(), tokens / AROUND)
    flops = np.geomspace(each * least, AROUND * each * tokens, CURVE)
    sizes = np.full(CURVE + 1, size)
    asked = Points(sizes, np.append(flops / each, tokens), np.ones(CURVE + 1))
    loss, low, high = draws.predict(asked)
    curve = {"flops": flops, "loss": loss[:-1], "low": low[:-1], "high": high[:-1]}
    return Prediction(
        size,
        tokens,
        each * tokens,
        float(loss[-1]),
        float(low[-1]),
        float(high[-1]),
        time.time_ns() // 1_000_000,
        draws.fit.form.formula,
        draws.fit.constants,
        {"parameters": points.count_in_words, "compute": points.per_six_nd},
        [
            {
                "name": points.name(i),
                "parameters": float(points.parameters[i]),
                "tokens": float(points.tokens[i]),
                "flops": float(points.flops[i]),
                "loss": float(points.loss[i]),
            }
            for i in range(len(points))
        ],
        {name: values.tolist() for name, values in curve.items()},
        list(points.data),
        beyond(points, each * tokens),
    )


def described(run: Run) -> tuple[float, float]:
    """Parameters and tokens of a run. Raises ValueError if it can't be a point of a law."""
    own = Ran.of(run)
    if own.lacks:
        raise ValueError(f"{run.id} can't be compared with a law: {own.lacks}")
    assert own.parameters is not None
    return own.parameters, own.metrics[TOKENS]


def truth_of(run: Run, prediction: Prediction) -> Truth:
    """What came out of a run.

    Raises:
        ValueError: it is not done, is not the run that was predicted, or its loss can't be
            compared with that of the points.
    """
    size, tokens = described(run)
    own = Ran.of(run)
    if not prediction.is_of(size, tokens):
        raise ValueError(
            f"{run.id} has {size:,.0f} parameters and trained on {tokens:,.0f} tokens; the "
            f"prediction is of {prediction.parameters:,.0f} and {prediction.tokens:,.0f}. Name the "
            "run that was meant, or the points instead of the prediction: orchestrate scaling "
            f"predict POINTS --run {run.id}"
        )
    if prediction.data and list(own.data) != prediction.data:
        raise ValueError(
            f"{run.id} has another tokenizer or other validation data than the runs that the "
            "prediction goes by, so their losses can't be compared"
        )
    began = next((e["time_ms"] for e in run.events if e.get("event") == "started"), 0)
    name = "/".join(run.folder.resolve().parts[-2:])
    measured = own.metrics[FLOPS], own.metrics[LOSS]
    return Truth(name, size, tokens, *measured, int(began))


def keep(prediction: Prediction, outputs: Path) -> Path:
    """Write a prediction into a new folder of the outputs, with its picture; returns the folder."""
    folder = new_folder(outputs.absolute(), "prediction")
    _write(replace(prediction, folder="/".join(folder.parts[-2:])), folder)
    return folder


def score(folder: Path, run: Run) -> Prediction:
    """Add the truth to a prediction that is kept, and a copy of it to the run; returns it.

    Raises:
        ValueError: the run is not the one that was predicted, or can't be compared.
    """
    prediction = Prediction.load(folder)
    scored = replace(prediction, truth=truth_of(run, prediction))
    _write(scored, folder)
    scored.save(run.folder)
    (run.folder / FIGURES).mkdir(exist_ok=True)
    shutil.copyfile(folder / PICTURE, run.folder / FIGURES / PICTURE)
    return scored


def _write(prediction: Prediction, folder: Path) -> None:
    from orchestrator.scaling.picture import draw_prediction

    folder.mkdir(parents=True, exist_ok=True)
    prediction.save(folder)
    prediction.save_table(folder)
    draw_prediction(prediction).savefig(folder / PICTURE, dpi=120)
