"""The loop of a sweep: propose, start, listen, stop, and write down each of it before it is done.

1. What the table says of trials is told to the proposer; those that were interrupted go on.
2. As long as there is room, a trial is proposed, written down and started.
3. Their reports are written down; one that does not get on is stopped, with a checkpoint.
4. When all have ended, the best few are repeated with other seeds, if that was asked for.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from data.messages import counted, did_you_mean, short
from orchestrator.config import JobConfig
from orchestrator.job.signals import handled
from orchestrator.record.journal import goes_on
from orchestrator.record.mlflow.history import key_of
from orchestrator.record.runfolder import new_folder
from orchestrator.record.runs import Run
from orchestrator.verbs.sweep import population
from orchestrator.verbs.sweep.asked import Asked, Job, checked, point_text, took
from orchestrator.verbs.sweep.launching import Launcher, News, Order, Report
from orchestrator.verbs.sweep.proposals import Proposer
from orchestrator.verbs.sweep.ranking import ranked
from orchestrator.verbs.sweep.table import DONE, FAILED, PAUSED, PRUNED, REFUSED, Table, Trial

INTERRUPTED = "interrupted"  # the status of a run that has a checkpoint to go on from
TOP = 3
"""Of the ranking, which are repeated with other seeds."""
SAVING_SECONDS = 120.0  # that the processes of a sweep that was killed may still save


class Ends(RuntimeError):
    """The sweep can't go on; the message says why and what to type."""


@dataclass
class Sweep:
    """One sweep that is carried out; the only writer of its table."""

    asked: Asked
    table: Table
    proposer: Proposer
    launcher: Launcher
    job: Job
    say: Callable[[str], None]
    running: dict[int, Path] = field(default_factory=dict)
    """The run folder of each trial that is under way."""
    waiting: list[Trial] = field(default_factory=list)
    """Interrupted ones, which go on first."""
    stopping: bool = False
    ends: str | None = None
    """Why no more trials are started."""
    _signals: int = 0

    def run(self) -> bool:
        """Carry the sweep out to its end; false: it was interrupted.

        Raises:
            Ends: it can't go on.
        """
        with handled(self._on_signal):
            try:
                self._take_in()
                while self._fill() or self.running:
                    for news in self.launcher.news(0.5):
                        self._heard(news)
                    if self._signals and not self.stopping:
                        self._stop_all(
                            "stopping the trials, each with a checkpoint; Ctrl-C once "
                            "more stops now"
                        )
                    if self._signals > 1:
                        break
            finally:
                self.launcher.close()
        if self.ends is not None:
            raise Ends(self.ends)
        return not self.stopping

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _stop_all(self, why: str) -> None:
        self.stopping = True
        self.say(why)
        for number in self.running:
            self.launcher.stop(number)

    def _take_in(self) -> None:
        """Tell the proposer what the table has, and find out how interrupted trials stand."""
        to_stop: set[int] = set()  # which a process was killed before it could write
        for row in self.table.rows:
            trial = self.table.trials[row["trial"]]
            if trial.seed_of is not None:
                continue
            if row["event"] == "proposed":
                self.proposer.known(trial.number, trial.point, trial.attributes)
            elif row["event"] == "report":
                if self.proposer.report(trial.number, row["step"], float(row["value"])):
                    to_stop.add(trial.number)
            elif row["event"] == "ended":
                self.proposer.ended(trial.number, trial.status or "", trial.values, trial.excess)
        for trial in self.table.trials:
            if trial.status is None:
                self._settle(trial, trial.number in to_stop)

    def _settle(self, trial: Trial, to_stop: bool) -> None:
        """Find out how a trial stands whose sweep was interrupted."""
        if trial.folders and self.launcher.adopt(*self._heard_at(trial)):
            self.running[trial.number] = trial.folders[-1]
            if to_stop and trial.stopped is None:
                self.table.write("stopped", trial.number, why=PRUNED)
            if trial.stopped is not None:
                self.launcher.stop(trial.number)
            return
        if to_stop and trial.stopped is None:
            self.table.write("stopped", trial.number, why=PRUNED)
        self._await_end(trial)
        status = Run(trial.folders[-1]).result.get("status") if trial.folders else None
        if trial.stopped == PAUSED and status == INTERRUPTED:
            return  # it stands still until it is compared
        if status in (DONE, FAILED) or trial.stopped == PRUNED:
            self._end(trial)
        else:
            self.waiting.append(trial)

    def _await_end(self, trial: Trial) -> None:
        """Let a process of the sweep that was killed save what it is at."""
        deadline = time.monotonic() + SAVING_SECONDS
        told = False
        while trial.folders and goes_on(trial.folders[-1]):
            if not told:
                self.say(f"trial {trial.number} is still being saved: {short(trial.folders[-1])}")
                told = True
            if time.monotonic() > deadline:
                raise Ends(f"trial {trial.number} still goes on, by a process of its own; end it")
            time.sleep(0.1)

    def _fill(self) -> bool:
        """Start trials while there is room; whether any was."""
        started = False
        while len(self.running) < self.launcher.room and not self.stopping:
            trial = self.waiting.pop(0) if self.waiting else self._next()
            if trial is None:
                break
            self._start(trial)
            started = True
        return started

    def _next(self) -> Trial | None:
        """A new trial, written down. None: there is none now, or none any more."""
        number, together = len(self.table.trials), self.asked.settings.pruner == "pbt"
        own = [t for t in self.table.trials if t.seed_of is None and not t.begun_at]
        if len(own) < self.asked.trials:
            point, attributes = self.proposer.propose(number)
            facts = {"point": point, "words": self.asked.space.words(point)}
            member = {"member": len(own)} if together else {}
            return self.table.write("proposed", number, **facts, attributes=attributes, **member)
        if self.running:
            return None
        if together:
            self._compare()
            if self.waiting:
                return self.waiting.pop(0)
        return self._repeat()

    def _compare(self) -> None:
        """Of a population that stands still, have each trial go on, or another in its place."""
        trials = self.table.trials
        still = population.paused(trials)
        if not still:
            return
        step = min(max(trial.reports) for trial in still)
        better = population.successors(trials, step, self.asked.objectives[0][1] == "lower")
        members = {trial.member: trial for trial in population.current(trials)}
        for trial in (own for own in still if max(own.reports) == step):
            if trial.number not in better:
                if trial.passed < step:
                    self.table.write("passed", trial.number, step=step)
                self.waiting.append(trial)
                continue
            new = members[trial.member]
            if new is trial:  # else that much was done before the sweep was killed
                new = self._succeed(trial, better[trial.number], step)
                self.waiting.append(new)
            self._end(trial, f"trial {new.number} goes on from trial {new.origin} in its place")

    def _succeed(self, trial: Trial, better: Sequence[Trial], step: int) -> Trial:
        """A trial in the place of another, from the checkpoint of one of the better ones."""
        number, seed = len(self.table.trials), self.asked.seed
        origin = better[population.choose(len(better), seed, number)]
        point = population.explored(self.asked.space, origin.point, seed, number)
        self.proposer.known(number, point, {})
        return self.table.write(
            "proposed",
            number,
            point=point,
            words=population.words(self.asked.space, point, origin),
            attributes={},
            member=trial.member,
            origin=origin.number,
            passed=step,
        )

    def _repeat(self) -> Trial | None:
        """One of the best with a seed that it has not had. None: all have had theirs."""
        for best in ranked(self.asked, self.table.trials)[:TOP]:
            had = sum(trial.seed_of == best.number for trial in self.table.trials) + 1
            if had < self.asked.settings.seeds:
                words = [word for word in best.words if not word.startswith("seed=")]
                return self.table.write(
                    "proposed",
                    len(self.table.trials),
                    point=best.point,
                    words=[*words, f"seed={self.asked.seed + had}"],
                    attributes={},
                    seed_of=best.number,
                )
        return None

    def _start(self, trial: Trial) -> None:
        """Start a trial, or have one go on from its newest checkpoint."""
        words = trial.words
        before = trial.folders[-1] if trial.folders else None
        if before is not None and any(before.glob("checkpoints/step_*/manifest.json")):
            words = [f"resume={before}"]
        try:
            config: JobConfig = checked(words, self.job)
        except ValueError as error:
            self._ended(trial, REFUSED, message=str(error))
            return
        folder = new_folder(Path(config.outputs).absolute(), config.stage.name)
        self.table.write("started", trial.number, folder=os.path.relpath(folder, self.table.folder))
        self.running[trial.number] = folder
        sweep, command = key_of(self.table.folder), self.asked.command
        number, _, metric = self._heard_at(trial)
        self.launcher.start(Order(number, config, words, command, folder, sweep, metric))

    def _heard_at(self, trial: Trial) -> tuple[int, Path, str | None]:
        """A trial, its folder, and the metric at which it is judged, if it is."""
        judged = self.asked.settings.pruner != "none" and trial.seed_of is None
        return trial.number, trial.folders[-1], self.asked.objectives[0][0] if judged else None

    def _heard(self, news: News) -> None:
        trial = self.table.trials[news.trial]
        if isinstance(news, Report):
            if self._is_to_stop(trial, news) or self.stopping:
                self.launcher.stop(trial.number)
            else:
                self.launcher.go_on(trial.number)
            return
        self.running.pop(trial.number, None)
        if news.run not in (None, trial.folders[-1]) and trial.stopped is None:
            folder = os.path.relpath(str(news.run), self.table.folder)
            self.table.write("started", trial.number, folder=folder)
        status = Run(trial.folders[-1]).result.get("status")
        interrupted = status in (None, INTERRUPTED)
        if news.refused is not None:
            self._ended(trial, REFUSED, message=news.refused)
        elif trial.stopped == PAUSED and interrupted:
            return
        elif not (interrupted and self.stopping and trial.stopped is None):
            self._end(trial)

    def _is_to_stop(self, trial: Trial, news: Report) -> bool:
        """Write down how a trial gets on; whether it is to end here, for now or for good."""
        metric, every = self.asked.objectives[0][0], self.asked.course.every
        if every is None or news.step % every or trial.stopped is not None:
            return False
        first = news.step not in trial.reports
        if first:  # one that was interrupted may come here again
            self.table.write("report", trial.number, step=news.step, value=news.metrics[metric])
        pruned = first and self.proposer.report(trial.number, news.step, news.metrics[metric])
        paused = trial.member is not None and news.step > trial.passed
        if not (pruned or paused) or news.step >= self.asked.course.steps:
            return False
        self.table.write("stopped", trial.number, why=PAUSED if paused else PRUNED)
        return True

    def _end(self, trial: Trial, message: str | None = None) -> None:
        """Write down how a trial has ended, by what its run folder says."""
        run = Run(trial.folders[-1])
        status, steps = run.result.get("status"), int(run.result.get("steps") or 0)
        steps = max([steps, *trial.reports]) - trial.begun_at
        if trial.stopped is not None and status != DONE:
            last = [trial.reports[max(trial.reports)]] if trial.reports else []
            self._ended(trial, PRUNED, last, steps=steps, message=message)
            return
        if status != DONE:
            error = run.result.get("error") or {}
            said = error.get("message") or "its process has died, or was stopped by somebody"
            self._ended(trial, FAILED, message=str(said), steps=steps)
            return
        wanted = [metric for metric, _ in self.asked.objectives]
        self._check_measured(trial, run, wanted)
        values = [value_of(run, metric) for metric in wanted]
        bad = [m for m, v in zip(wanted, values, strict=True) if not math.isfinite(v)]
        if bad:
            self._ended(trial, FAILED, message=f"{bad[0]} is not finite", steps=steps)
            return
        excess = [own.excess(run.metrics[own.metric]) for own in self.asked.settings.constraints]
        self._ended(trial, DONE, values, excess, steps=steps)

    def _check_measured(self, trial: Trial, run: Run, wanted: list[str]) -> None:
        """Raise Ends if a trial that is done has not measured what the sweep is about."""
        asked = [("objective", metric) for metric in wanted]
        asked += [("constraint", own.metric) for own in self.asked.settings.constraints]
        for setting, metric in asked:
            if metric not in run.metrics:
                known = ", ".join(sorted(run.metrics))
                raise Ends(
                    f"{setting}={metric}: trial {trial.number} has measured no such thing"
                    f"{did_you_mean(metric, run.metrics)}; it reports {known}"
                )

    def _ended(
        self,
        trial: Trial,
        status: str,
        values: list[float] | None = None,
        excess: list[float] | None = None,
        *,
        message: str | None = None,
        steps: int = 0,
    ) -> None:
        """Write down that a trial is over, tell the proposer and the user."""
        self.table.write(
            "ended",
            trial.number,
            status=status,
            values=values or [],
            excess=excess or [],
            steps=steps,
            message=message,
        )
        if trial.seed_of is None:
            self.proposer.ended(trial.number, status, trial.values, trial.excess)
        self.say(self._line(trial))
        failed = sum(own.status in (FAILED, REFUSED) for own in self.table.trials)
        if failed >= self.asked.failures and self.ends is None:
            self.ends = (
                f"{failed} of {counted(len(self.table.trials), 'trial')} have failed, the last: "
                f"{message}; failures={self.asked.failures} end the sweep"
            )
            if self.running:
                self._stop_all("stopping the trials that run")
            self.stopping = True

    def _line(self, trial: Trial) -> str:
        """How a trial ended, in a line."""
        (metric, _), *others = self.asked.objectives
        words = [f"trial {trial.number:<3} {trial.status:8}"]
        for name, value in zip([metric, *(m for m, _ in others)], trial.values, strict=False):
            words.append(f"{name.rpartition('/')[2]} {value:.4g}")
        if trial.status == PRUNED:
            words.append(f"after step {trial.steps}")
        if trial.seed_of is not None:
            words.append(f"trial {trial.seed_of} with seed {self._seed_of(trial)}")
        words += [took(trial.seconds), point_text(trial.point)]
        first = next(iter(ranked(self.asked, self.table.trials)), None)
        if first is trial and len(self.asked.objectives) == 1:
            words.append("best so far")
        if trial.message is not None:
            words.append(trial.message)
        return "  ".join(words)

    def _seed_of(self, trial: Trial) -> str:
        return trial.words[-1].removeprefix("seed=")


def value_of(run: Run, metric: str) -> float:
    """What counts of a run: the last value, or of one that keeps its best step, the best."""
    best = run.result.get("best")
    if isinstance(best, dict) and best.get("metric") == metric:
        return float(best["value"])
    return run.metrics[metric]
