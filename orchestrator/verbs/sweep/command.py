"""`orchestrate sweep [NAME] SETTINGS`: the best values of some settings, by many jobs.

A setting of the job gets several values in Hydra's own syntax, the rest stays as with `run`:

    optim.learning_rate='tag(log,interval(1e-4,1e-2))'    a number, tried by factors
    model.width='interval(64,256)'                        a whole number, for the setting is one
    model.layers=2,4  optim='glob(ada*)'  model.dropout='range(0,0.5,0.1)'

What has no dot and is no setting of a job is of the sweep itself:

    sampler=tpe             grid (where every value is listed), random, sobol, tpe, cmaes, gp
    trials=16               how many
    pruner=asha             what ends those early that do not get on; also hyperband, median, pbt
    objective=METRIC        what it is about; METRIC:higher, or several with commas
    constraint='METRIC<=1'  what the best must keep
    parallel=2              at once; otherwise as many as there is room for
    launcher=queue          trials are jobs of the cluster of `orchestrate up`, which outlive this
    seeds=3                 the best few again with other seeds: is it noise?
    failures=10             so many failed trials end the sweep
    name=mine               of its folder

NAME is a file of conf/sweep, a list of such words. Trials are ordinary jobs, each with a run
folder; what became of them is in the folder of the sweep, and `--resume FOLDER` goes on there.
`--plan` tells what the trials will take, and all of them, and starts nothing.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from data.messages import counted, did_you_mean, short
from orchestrator.config import JobConfig
from orchestrator.job.codes import DONE, FAILED, INTERRUPTED
from orchestrator.plan.devices import available
from orchestrator.plan.planning import make_plan
from orchestrator.record.mlflow.sweeps import sending
from orchestrator.record.runfolder import new_folder
from orchestrator.record.sweeps import ASKED, LOG
from orchestrator.terminal import say
from orchestrator.verbs.sweep import planned
from orchestrator.verbs.sweep.asked import Asked, fill_in, probe
from orchestrator.verbs.sweep.launching import Launcher, WarmProcesses, room_of
from orchestrator.verbs.sweep.proposals import Proposer
from orchestrator.verbs.sweep.report import Report
from orchestrator.verbs.sweep.running import Ends, Sweep
from orchestrator.verbs.sweep.settings import Settings, read
from orchestrator.verbs.sweep.space import Space
from orchestrator.verbs.sweep.table import Table

WARMED = 2  # processes that are started before it is known how many there is room for


class Composing(Protocol):
    """What composes the jobs of a sweep; a context."""

    def __enter__(self) -> "Composing":
        """Make it ready."""

    def __exit__(self, *error: object) -> None:
        """Leave everything as it was."""

    def asked(self, words: Sequence[str]) -> tuple[list[str], Space]:
        """The words of the sweep, and its space."""

    def job(self, words: Sequence[str]) -> JobConfig:
        """The job of a trial."""

    def is_group(self, name: str) -> bool:
        """Whether a name is that of a group of choices."""


def main(argv: Sequence[str], composing: Callable[[str | None], Composing]) -> int:
    """Carry out a sweep, or the rest of one; returns the exit code.

    Raises:
        ValueError: it can't work, and nothing was started.
    """
    options = parser().parse_args(argv)
    if options.resume is not None:
        if options.plan:
            raise ValueError(
                f"--plan is for a sweep that has not begun, and --resume={options.resume} has; "
                "leave one out"
            )
        if options.words:
            raise ValueError(
                f"--resume={options.resume} goes on as it was asked for; leave "
                f"{' '.join(options.words)} out, or start another sweep"
            )
        folder = _folder(options.resume)
        asked = Asked.load(folder)
        with composing(asked.config_dir) as compose, _warm(asked.settings) as warm:
            return _carry_out(asked, folder, probe(asked.space, compose.job), compose, warm)
    with composing(options.config_dir) as compose:
        words, space = compose.asked(options.words)
        settings, command = read(words), ["sweep", *argv]
        if options.plan:
            asked, jobs = fill_in(space, settings, command, options.config_dir, compose.job)
            for line in [*asked.lines(), *planned.lines(asked, jobs, compose.job)]:
                say(line, hang=12)
            return DONE
        with _warm(settings) as warm:
            asked, jobs = fill_in(space, settings, command, options.config_dir, compose.job)
            folder = _new_folder(asked)
            make_plan(jobs[0], say)  # the data is made once, not by all trials at the same time
            return _carry_out(asked, folder, jobs, compose, warm)


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(
        prog="orchestrate sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    new.add_argument("words", nargs="*", help="NAME of conf/sweep, settings of job and sweep")
    new.add_argument("--resume", metavar="FOLDER", help="of a sweep that was interrupted")
    new.add_argument("--plan", action="store_true", help="tell what it will take; start nothing")
    new.add_argument("--config-dir", "-cd", metavar="FOLDER", help="of your own YAML")
    return new


@contextmanager
def _warm(settings: Settings) -> Iterator[WarmProcesses]:
    """Processes for trials, of which the first import already while the sweep is being checked.

    Not where there are GPUs: which of them a process sees has to be known when it starts. If the
    sweep is refused they are ended.
    """
    processes, here = WarmProcesses(), available(None)
    if settings.launcher == "processes" and not here.gpus:
        most = settings.parallel if isinstance(settings.parallel, int) else here.cpus
        processes.warm(min(most, WARMED))
    try:
        yield processes
    finally:
        processes.close()


def _carry_out(
    asked: Asked,
    folder: Path,
    jobs: Sequence[JobConfig],
    compose: Composing,
    warm: WarmProcesses,
) -> int:
    launcher = _launcher(asked, folder, jobs, warm)
    for line in [*asked.lines(), _trials_line(jobs, launcher), f"folder      {short(folder)}"]:
        say(line, hang=12)
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with Table(folder) as table:
        if not (folder / ASKED).exists():
            asked.save(folder)
        directions = [direction for _, direction in asked.objectives]
        spent = sum(trial.seconds for trial in table.trials) / max(1, launcher.room)
        proposer = Proposer(asked.space, asked.settings, directions, asked.course, asked.seed)
        sweep = Sweep(asked, table, proposer, launcher, compose.job, say)
        ended, whole = None, False
        outputs = Path(asked.outputs).absolute()
        with sending(folder, jobs[0].tracking, outputs, asked.trials) as tracked:
            try:
                whole = sweep.run()
            except Ends as error:
                ended = str(error)
            status = "failed" if ended else "done" if whole else "interrupted"
            seconds = spent + time.monotonic() - begun
            report = Report(folder, asked, table.trials, seconds, status)
            say("")
            for line in report.write(proposer, compose.is_group):
                say(line, hang=12)
    for line in tracked:
        say(f"MLflow      {line}", hang=12)
    if ended is not None:
        say(f"error: {ended}", sys.stderr)
        return FAILED
    if not whole:
        say(f"go on       orchestrate sweep --resume {short(folder)}")
        return INTERRUPTED
    return DONE


def _launcher(
    asked: Asked, folder: Path, jobs: Sequence[JobConfig], warm: WarmProcesses
) -> Launcher:
    """What carries the trials out. Raises QueueError if it is a queue that does not answer."""
    parallel = asked.settings.parallel if isinstance(asked.settings.parallel, int) else None
    if asked.settings.launcher == "queue":
        from orchestrator.verbs.sweep.queued import QueuedTrials

        return QueuedTrials(jobs, parallel)
    here = available(None)
    warm.room, warm.log = parallel or room_of(jobs, here.cpus, here.gpus), folder / LOG
    warm.gpus = max(job.workers * job.resources.gpus_per_worker for job in jobs)
    return warm


def _trials_line(jobs: Sequence[JobConfig], launcher: Launcher) -> str:
    """How trials are carried out."""
    resources = max((job.resources for job in jobs), key=lambda own: own.most)
    kind = "GPU" if resources.gpus_per_worker else "CPU"
    each = f"{counted(resources.most, 'worker')} on {kind}"
    how = launcher.how
    if resources.launcher == "ray":
        how += "; each starts its Ray workers anew, resources=inline does without"
    return f"trials      {launcher.room} at once, {each} each, {how}"


def _new_folder(asked: Asked) -> Path:
    """Of a new sweep. Raises ValueError if there is one of its name."""
    outputs, name = Path(asked.outputs).absolute(), asked.settings.name
    folder = new_folder(outputs, "sweep")
    if name is None:
        return folder
    if taken := sorted(outputs.glob(f"*/*-sweep-{name}")):
        raise ValueError(
            f"name={name} is that of {short(taken[-1])}; go on with that one by `orchestrate sweep "
            f"--resume {short(taken[-1])}`, or take another name"
        )
    return folder.with_name(f"{folder.name.rpartition('-')[0]}-{name}")


def _folder(name: str) -> Path:
    """The folder that --resume means. Raises ValueError if there is none."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.absolute()
    found = sorted(Path("outputs").glob(f"*/*-sweep-{name}")) if "/" not in name else []
    if found:
        return found[-1].absolute()
    known = [str(path) for path in sorted(Path("outputs").glob("*/*-sweep-*"))]
    raise ValueError(f"--resume={name}: there is no such folder{did_you_mean(name, known)}")
