"""Trials of a sweep whose curves are known formulas, carried out at once in this process.

What they leave in their run folders is what jobs leave there; all else of the sweep is real.
"""

import math
from pathlib import Path

import yaml

from orchestrator.config import to_dict
from orchestrator.record import runfolder
from orchestrator.record.lines import METRICS, LineFile
from orchestrator.verbs.sweep.launching import Ended, Report

METRIC = "validation/loss"


def loss(point, step):
    """Falls with the steps to a floor that is lowest, 0.1, at a learning rate of 3e-3."""
    floor = 0.1 + math.log10(point["optim.learning_rate"] / 3e-3) ** 2
    return floor + (2 + point["model.dropout"]) * math.exp(-step / 20)


class Curves:
    """A launcher whose trials go on by one evaluation with every look at them."""

    def __init__(self, room=1, every=10, function=loss, also=None, fails=()):
        self.room, self.every, self.how = room, every, "at once"
        self.function, self.also, self.fails = function, also or (lambda point: {}), fails
        self.started, self.closed = [], False
        self._running, self._ended = {}, []

    def start(self, order):
        self.started.append(order.trial)
        (order.folder / "logs").mkdir(parents=True)
        (order.folder / "config.yaml").write_text(yaml.safe_dump(to_dict(order.config)))
        before = None if order.config.resume is None else Path(order.config.resume)
        step = 0
        if before is not None:
            step = max(int(path.name.rpartition("_")[2]) for path in before.glob("checkpoints/*"))
        self._running[order.trial] = [order, point_of(order.config), step]

    def adopt(self, trial, folder, reports):
        return False

    def news(self, seconds):
        found, self._ended = self._ended, []
        for trial, state in list(self._running.items()):
            order, point, _ = state
            state[2] += self.every
            line = {"step": state[2], "metrics": self._metrics(point, state[2])}
            file = LineFile(order.folder / METRICS)
            file.append({"time_ms": state[2], "attempt": 1, **line})
            file.close()
            if order.reports is not None:
                found.append(Report(trial, **line))
            if state[2] >= order.config.stage.steps:
                found.append(self._end(trial, "failed" if trial in self.fails else "done"))
        return found

    def go_on(self, trial):
        pass

    def stop(self, trial):
        if trial in self._running:
            self._ended.append(self._end(trial, "interrupted"))

    def close(self):
        self.closed = True

    def _metrics(self, point, step):
        return {METRIC: self.function(point, step), **self.also(point)}

    def _end(self, trial, status):
        order, point, step = self._running.pop(trial)
        result = {"status": status, "steps": step, "metrics": self._metrics(point, step)}
        if status == "failed":
            result["error"] = {"message": "loss is NaN"}
        checkpoint = order.folder / "checkpoints" / f"step_{step:08}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "manifest.json").write_text("{}")
        runfolder.write_result(order.folder, result)
        return Ended(trial)


def point_of(config):
    """What the formulas know of a job."""
    return {
        "optim.learning_rate": config.optim.learning_rate,
        "model.dropout": config.model.dropout,
        "seed": config.seed,
    }
