"""A prediction in MLflow: a run whose steps are FLOPs, linked with the run that was predicted."""

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.record import predictions as files
from orchestrator.record.mlflow.description import picture
from orchestrator.record.mlflow.history import RUN_TAG, find_run, key_of
from orchestrator.record.mlflow.mirror import State
from orchestrator.record.mlflow.naming import short_number
from orchestrator.record.mlflow.points import Point
from orchestrator.record.mlflow.sink import Sink

if TYPE_CHECKING:
    from mlflow import MlflowClient

LARGEST_STEP = 2**53  # that a browser counts exactly
UNITS = {1: "FLOPs", 10**9: "GFLOPs", 10**15: "PFLOPs", 10**21: "ZFLOPs"}


class PredictionReplay:
    """Sends a prediction, and the truth once that is there; every method may be repeated."""

    def __init__(self, folder: Path, state: State) -> None:
        """Open the store and the run: found by its tag, or new."""
        from orchestrator.record.mlflow.replay import user_name
        from orchestrator.record.mlflow.store import connect, experiment_id

        self.folder, self.state = folder, state
        self.client: MlflowClient = connect(state)
        state.experiment_id = experiment_id(self.client, state)
        key, own = key_of(folder), files.Prediction.load(folder)
        run = find_run(self.client, [state.experiment_id], key)
        if run is None:
            tags = {RUN_TAG: key, "mlflow.user": user_name(), "stage": "prediction"}
            run = self.client.create_run(
                state.experiment_id, start_time=own.made_ms, tags=tags, run_name=_name(own)
            )
        state.run_id = str(run.info.run_id)
        state.save(folder)
        self.sink = Sink(self.client, state.run_id)

    def send(self) -> None:
        """Params and metrics."""
        own = files.Prediction.load(self.folder)
        unit, word = _unit(max(own.flops, *own.curve["flops"], *(p["flops"] for p in own.points)))
        self.sink.params(
            {
                "parameters": f"{own.parameters:.0f}",
                "tokens": f"{own.tokens:.0f}",
                "flops": f"{own.flops:.6g}",
                "law": own.law,
                "steps count": word,
                **{f"convention.{name}": text for name, text in own.convention.items()},
                **{f"law.{name}": f"{value:.6g}" for name, value in own.constants.items()},
            }
        )
        for batch in self.sink.points(_points(own, unit)):
            self.sink.metrics(batch)

    def finish(self) -> None:
        """The files, and what it says in words."""
        own = files.Prediction.load(self.folder)
        for name in (files.FILE, files.PICTURE, files.TABLE):
            self.sink.artifact(str(self.folder / name), None)
        self.sink.table(files.TABLE)
        self.sink.tags({"folder": str(self.folder), "mlflow.note.content": self._note(own)})
        self.client.set_terminated(self.sink.run_id, "FINISHED")
        self.state.done = True
        self.state.save(self.folder)

    def _note(self, own: files.Prediction) -> str:
        """The description of the run, in Markdown."""
        text = [f"**{own.said[0].upper()}{own.said[1:]}**"]
        text += ["", f"{_size(own)}, {own.flops:.3g} FLOPs"]
        if own.truth is not None:
            text[-1] += f"; the run: {self._link(own.truth.folder)}"
        if own.extrapolates:
            text += ["", f"**Warning** {own.extrapolates}"]
        constants = ", ".join(f"{name} {value:.4g}" for name, value in own.constants.items())
        text += ["", picture(self.sink.run_id, files.PICTURE), "", f"`{own.law}`: {constants}"]
        text += [*(f"- {name}: {words}" for name, words in own.convention.items())]
        text += [f"- points: {len(own.points)} runs, see {files.TABLE}", f"- `{self.folder}`"]
        if own.truth is None:
            text += ["", f"`orchestrate scaling predict {self.folder} --run RUN` adds the truth"]
        return "\n".join(text)

    def _link(self, run: str) -> str:
        state = State.load(self.folder.parents[1] / run)
        if state is None or state.run_id is None:
            return f"`{run}`"
        return f"[{run}]({state.page.removeprefix('/')})"


def _points(own: files.Prediction, unit: int) -> list[Point]:
    """What was predicted, the law for this size, its runs and what came out, by FLOPs."""
    curve, at = own.curve, round(own.flops / unit)
    found = [
        Point(f"predicted/{name}", value, own.made_ms, at)
        for name, value in (("loss", own.loss), ("low", own.low), ("high", own.high))
    ]
    found += [
        Point(f"curve/{name}", value, own.made_ms, round(flops / unit))
        for name in ("loss", "low", "high")
        for flops, value in zip(curve["flops"], curve[name], strict=True)
    ]
    by_compute = sorted(own.points, key=lambda point: point["flops"])
    found += [
        Point("points/loss", point["loss"], own.made_ms, round(point["flops"] / unit))
        for point in by_compute
    ]
    if own.truth is not None:
        assert own.error is not None
        ran = own.truth.began_ms, round(own.truth.flops / unit)
        found += [
            Point("measured/loss", own.truth.loss, *ran),
            Point("measured/error", own.error, *ran),
            Point("measured/inside", float(bool(own.inside)), *ran),
        ]
    return found


def _unit(largest: float) -> tuple[int, str]:
    """What a step counts, so that the largest is still a number to a browser."""
    return next((u, word) for u, word in UNITS.items() if largest / u < LARGEST_STEP)


def _size(own: files.Prediction) -> str:
    return f"{short_number(own.parameters)} parameters on {short_number(own.tokens)} tokens"


def _name(own: files.Prediction) -> str:
    return f"prediction: {_size(own)}"
