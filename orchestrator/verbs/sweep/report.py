"""The end of a sweep: ranking, cost, what mattered, how sure that is; on the screen and as files.

In the folder of the sweep:

best.yaml                    overrides of the best trial, as of `overrides.yaml` of a run
conf/experiment/NAME.yaml    the same as an experiment: `orchestrate run experiment=NAME -cd FOLDER`
report.json                  all that is said here, for programs
parallel_coordinates.png     each trial as a line through its values
curves.png                   the objective of each trial by its steps
"""

import json
import math
import shlex
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data.files import write_text_atomic
from data.messages import counted, short
from orchestrator.record.lines import strict
from orchestrator.record.redaction import Redactor
from orchestrator.record.sweeps import BEST, EXPERIMENTS, REPORT
from orchestrator.terminal import columns
from orchestrator.verbs.sweep import pictures
from orchestrator.verbs.sweep.asked import Asked, point_text, took
from orchestrator.verbs.sweep.proposals import Proposer
from orchestrator.verbs.sweep.ranking import Repeated, certainty, ranked, repeated
from orchestrator.verbs.sweep.table import DONE, FAILED, PRUNED, REFUSED, Trial

ENDS = (DONE, PRUNED, FAILED, REFUSED)
SHOWN = 10  # of the ranking
SURE = 0.05
"""p below which the first is called better than the second."""


@dataclass(frozen=True)
class Report:
    """A sweep that has ended, or was interrupted."""

    folder: Path
    asked: Asked
    trials: list[Trial]
    seconds: float
    """Of this and, about, of all earlier processes that carried it out."""
    status: str
    """done, failed or interrupted."""

    def write(self, proposer: Proposer, groups: Callable[[str], bool]) -> list[str]:
        """Write the files; returns what is said on the screen.

        Args:
            proposer: knows all trials.
            groups: whether a name is that of a group of choices, not of a setting.
        """
        best = ranked(self.asked, self.trials)
        said = [*self._ranking(best), "", *self._cost()]
        importance = self._importance(proposer)
        said += importance["lines"]
        certain = self._certainty()
        said += certain["lines"]
        if best:
            self._write_best(best[0], groups)
            said += self._best_lines(best[0])
        pictures.parallel_coordinates(self.asked, self.trials, self.folder)
        pictures.curves(self.asked, self.trials, self.folder)
        facts = {
            "status": self.status,
            "objectives": [metric for metric, _ in self.asked.objectives],
            "best": [
                {"trial": t.number, "values": t.values, "point": t.point, "words": t.words}
                for t in best
            ],
            "trials": {status: self._count(status) for status in ENDS},
            "steps": self.steps,
            "seconds": round(self.seconds, 3),
            "importance": importance["shares"],
            "repeats": certain["repeats"],
            "lines": said,
        }
        write_text_atomic(self.folder / REPORT, json.dumps(strict(facts), indent=1))
        return said

    @property
    def steps(self) -> int:
        """Optimizer steps of all trials."""
        return sum(trial.steps for trial in self.trials)

    def _count(self, status: str) -> int:
        return sum(trial.status == status for trial in self.trials)

    def _ranking(self, best: list[Trial]) -> list[str]:
        """The best trials as a table."""
        if not best:
            broken = [t for t in self.trials if t.status == DONE and not t.allowed]
            why = f"; {counted(len(broken), 'trial')} broke a constraint" if broken else ""
            return [f"no trial is finished{why}"]
        metrics = [metric for metric, _ in self.asked.objectives]
        several = len(metrics) > 1
        head = "front" if several else "rank"
        names = [metric.rpartition("/")[2] for metric in metrics]
        rows = [(head, "trial", *names, "steps", "time", "values")]
        for place, trial in enumerate(best[:SHOWN], 1):
            values = [f"{value:.4g}" for value in trial.values]
            own = ("-" if several else str(place), str(trial.number), *values)
            rows.append((*own, str(trial.steps), took(trial.seconds), point_text(trial.point)))
        return columns(rows)

    def _cost(self) -> list[str]:
        """Trials, steps and time."""
        counts = [f"{self._count(own)} {own}" for own in ENDS if self._count(own)]
        own = [trial for trial in self.trials if trial.seed_of is None]
        whole = sum(self._planned(t) for t in own if t.status in (DONE, PRUNED))
        spent = sum(trial.steps for trial in own)
        saved = f", {spent / whole:.0%} of what all of them would take to the end" if whole else ""
        times = [trial.seconds for trial in self.trials if trial.seconds]
        each = f"; {statistics.median(times):.1f} s per trial" if times else ""
        return [
            f"cost        {counted(len(self.trials), 'trial')}: {', '.join(counts)}; "
            f"{self.steps:,} steps{saved if spent < whole else ''}; "
            f"{took(self.seconds)} in all{each}"
        ]

    def _planned(self, trial: Trial) -> int:
        """Optimizer steps of a trial that goes to its end: its own, if the sweep is about them."""
        said = [word for word in trial.words if word.startswith("stage.steps=")]
        return int(said[-1].partition("=")[2]) if said else self.asked.course.steps

    def _importance(self, proposer: Proposer) -> dict[str, Any]:
        """Which settings mattered for the first objective."""
        try:
            shares = proposer.importance()
        except ValueError as error:
            return {"shares": None, "lines": [f"importance  {error}"]}
        shown = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        return {"shares": shares, "lines": [f"importance  {shown}"]}

    def _certainty(self) -> dict[str, Any]:
        """Whether the ranking is more than noise, by trials that were repeated."""
        found = repeated(self.asked, self.trials)
        facts = [
            {"trial": own.trial.number, "values": own.values, "mean": own.mean} for own in found
        ]
        if not found:
            said = "one seed per trial: nothing tells the differences from noise; seeds=3 would"
            return {"repeats": facts, "lines": [f"sureness    {said}"]}
        lines = [self._of_seeds(own) for own in found]
        if len(found) > 1:
            difference, error, p = certainty(found[0], found[1])
            sure = "is" if p < SURE else "is not"
            lines.append(
                f"trial {found[0].trial.number} {sure} surely better than trial "
                f"{found[1].trial.number}: {difference:.4g} apart, standard error {error:.2g}, "
                f"p = {p:.2g} (Welch's t-test)"
            )
        return {
            "repeats": facts,
            "lines": [f"{'sureness' if not n else '':12}{line}" for n, line in enumerate(lines)],
        }

    def _of_seeds(self, own: Repeated) -> str:
        deviation = "" if math.isnan(own.deviation) else f" +- {own.deviation:.2g}"
        return (
            f"trial {own.trial.number}: {own.mean:.4g}{deviation} over "
            f"{counted(len(own.values), 'seed')}"
        )

    @property
    def _name(self) -> str:
        """Of the experiment that is the best trial."""
        return (self.asked.settings.name or "best").replace(".", "_")

    def _write_best(self, best: Trial, groups: Callable[[str], bool]) -> None:
        redactor = Redactor({})
        words = [redactor.known(word) for word in best.words]
        write_text_atomic(self.folder / BEST, yaml.safe_dump(words))
        (metric, _), *_ = self.asked.objectives
        title = f"{metric} {best.values[0]:.6g}: trial {best.number} of {short(self.folder)}"
        folder = self.folder / EXPERIMENTS
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(folder / f"{self._name}.yaml", experiment(words, title, groups))

    def _best_lines(self, best: Trial) -> list[str]:
        conf = shlex.quote(short(self.folder / "conf"))
        (metric, _), *_ = self.asked.objectives
        front = " (first of the front)" if len(self.asked.objectives) > 1 else ""
        return [
            f"best        {metric} {best.values[0]:.4g}: {short(best.folders[-1])}{front}",
            f"again       orchestrate run experiment={self._name} -cd {conf}",
            f"folder      {short(self.folder)}",
        ]


def experiment(words: list[str], title: str, groups: Callable[[str], bool]) -> str:
    """Overrides as a file of conf/experiment: choices as defaults, settings below them.

    Args:
        words: one value each.
        title: its first comment.
        groups: whether a name is that of a group of choices.
    """
    experiments: list[Any] = []  # before all that they, too, may choose
    choices: list[Any] = []
    plain: dict[str, Any] = {}
    for word in words:
        name, _, text = word.lstrip("+").partition("=")
        if name == "experiment":
            experiments.append(text)
            continue
        if groups(name):
            choices.append({f"override /{name}": None if text == "null" else text})
            continue
        *sections, leaf = name.split(".")
        inside = plain
        for section in sections:
            inside = inside.setdefault(section, {})
        inside[leaf] = _value(text)
    defaults = [*experiments, *choices]
    parts = [{"defaults": defaults}] if defaults else []
    parts += [plain] if plain else []
    body = "\n".join(yaml.safe_dump(part, sort_keys=False) for part in parts)
    return f"# @package _global_\n# {title}\n{body}"


def _value(text: str) -> Any:
    """A typed value as YAML has it."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
