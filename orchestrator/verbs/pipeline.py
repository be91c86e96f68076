"""`orchestrate pipeline NAME [OVERRIDES]`: jobs in order, each a run like any other, and a table.

NAME is a file of conf/pipeline, or FILE.yaml:

    title: what it is, in a line
    jobs:
      base:  {run: [stage=pretrain], figure: validation/bits_per_byte}
      check: {run: [stage=evaluate, 'checkpoint=${base}'], figure: ..., picture: figures/loss.png}

`${base}` stands for the run folder of an earlier job. OVERRIDES are for every job. A job that fails
stops those alone that need it. What was done is in pipeline.json of the pipeline's own folder, and
`--resume FOLDER` goes on there: a job that was interrupted goes on in the middle. `--plan` tells
what each job will take, and all of them, and starts nothing.
"""

import argparse
import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.files import DataError, write_text_atomic
from data.messages import clock, did_you_mean, short
from orchestrator.config import JobConfig
from orchestrator.job.codes import DONE, FAILED, REFUSED
from orchestrator.record.reading import read_settings
from orchestrator.record.runfolder import new_folder
from orchestrator.record.runs import Run, made_here, mapping
from orchestrator.terminal import columns, say

STATE = "pipeline.json"
NEEDS = re.compile(r"\$\{(\w+)\}")
PICTURES_IN_A_ROW = 3
COLUMNS = ("job", "status", "figure", "time", "command", "picture")

Compose = Callable[[Sequence[str]], JobConfig]


@dataclass(frozen=True)
class Job:
    """One job of a pipeline."""

    run: list[str]
    """Overrides."""
    figure: str | None = None
    """The metric that tells how well it went."""
    picture: str | None = None
    """A file of its run folder that makes its point."""

    @property
    def needs(self) -> list[str]:
        """Names of the jobs whose runs it works on."""
        return [name for word in self.run for name in NEEDS.findall(word)]

    def words(self, runs: Mapping[str, str]) -> list[str]:
        """The overrides, with the run folders of the jobs before it."""
        return [NEEDS.sub(lambda match: runs[match[1]], word) for word in self.run]


@dataclass
class Pipeline:
    """A pipeline and how far it has come."""

    name: str
    title: str
    jobs: dict[str, Job]
    overrides: list[str]
    """For every job."""
    runs: dict[str, str] = field(default_factory=dict)
    """The run folder of each job that was begun."""
    codes: dict[str, int] = field(default_factory=dict)
    """How each that has ended did so."""
    seconds: dict[str, float] = field(default_factory=dict)

    def missing(self, name: str) -> list[str]:
        """Jobs that a job needs and that are not done."""
        return [own for own in self.jobs[name].needs if self.codes.get(own) != DONE]

    def words(self, name: str) -> list[str]:
        """What is typed for a job; one that was interrupted goes on with its own config."""
        begun = self.runs.get(name)
        if begun is not None and any(Path(begun).glob("checkpoints/step_*/manifest.json")):
            return [f"resume={begun}"]
        return [*self.jobs[name].words(self.runs), *self.overrides]


def main(argv: Sequence[str], compose: Compose) -> int:
    """Carry out the jobs; returns the largest exit code.

    Raises:
        ValueError: there is no such pipeline, or a job of it can't work; nothing was started.
    """
    options = parser().parse_args(argv)
    if options.resume:
        folder = Path(options.resume)
        pipeline = _read_state(folder)
    else:
        pipeline = read(options.name, list(options.overrides))
        if options.plan:
            return _tell(pipeline, compose)
        folder = new_folder(Path(options.outputs), f"pipeline-{pipeline.name}")
    for name, job in pipeline.jobs.items():
        if not job.needs and pipeline.codes.get(name) != DONE:
            _check(pipeline, name, compose)
    say(f"{pipeline.title}: {len(pipeline.jobs)} jobs; {folder / STATE}")
    for number, name in enumerate(pipeline.jobs, 1):
        if pipeline.codes.get(name) == DONE:
            continue
        if missing := pipeline.missing(name):
            say(f"\njob {number}, {name}: not started, it needs {', '.join(missing)}")
            continue
        say(f"\njob {number} of {len(pipeline.jobs)}, {name}:")
        code = _carry_out(pipeline, name, compose, folder)
        if code not in (DONE, FAILED, REFUSED):
            say(f"orchestrate pipeline --resume {shlex.quote(str(folder))} goes on")
            return code
    say(f"\n{pipeline.title}: {clock(sum(pipeline.seconds.values()))} in all")
    for line in table(pipeline):
        say(line)
    if pictures := draw(pipeline, folder):
        say(f"pictures: {short(pictures)}")
    return max(pipeline.codes.get(name, FAILED) for name in pipeline.jobs)


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(
        prog="orchestrate pipeline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    new.add_argument("name", nargs="?", help=f"one of {', '.join(known()) or 'none'}, or FILE.yaml")
    new.add_argument("overrides", nargs="*", help="settings of every job")
    new.add_argument("--resume", metavar="FOLDER", help="of a pipeline that was interrupted")
    new.add_argument("--plan", action="store_true", help="tell what it will take; start nothing")
    new.add_argument("--outputs", default="outputs", help="folder of its record [%(default)s]")
    return new


def known() -> list[str]:
    """The pipelines of conf/pipeline."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def _folder() -> Path:
    import conf

    return Path(conf.__path__[0]) / "pipeline"


def read(name: str | None, overrides: list[str]) -> Pipeline:
    """A pipeline by its name or file. Raises ValueError, which names what is wrong in it."""
    if name is None:
        raise ValueError(f"give the name of a pipeline: {', '.join(known())}, or FILE.yaml")
    path = Path(name) if name.endswith((".yaml", ".yml")) else None
    if path is None and name not in known():
        raise ValueError(
            f"{name} is no pipeline{did_you_mean(name, known())}; there are {', '.join(known())}, "
            "or give FILE.yaml"
        )
    path = path or _folder() / f"{name}.yaml"
    said = read_settings(path)
    jobs = said.get("jobs")
    if not isinstance(jobs, dict) or not jobs:
        raise DataError(f"{path} has no jobs; give jobs: {{NAME: {{run: [stage=pretrain]}}}}")
    found = {str(own): _job(path, str(own), value) for own, value in jobs.items()}
    for number, (own, job) in enumerate(found.items()):
        for other in job.needs:
            if other not in list(found)[:number]:
                raise DataError(
                    f"{path}: job {own} needs ${{{other}}}, which is no job before it"
                    f"{did_you_mean(other, list(found)[:number])}"
                )
    return Pipeline(path.stem, str(said.get("title", path.stem)), found, overrides)


def _job(path: Path, name: str, said: Any) -> Job:
    known = ("run", "figure", "picture")
    if not isinstance(said, dict) or not isinstance(said.get("run"), list):
        raise DataError(f"{path}: job {name} has no overrides; give run: [stage=pretrain, ...]")
    for key in said:
        if key not in known:
            raise DataError(f"{path}: job {name}: {key} is not one of {', '.join(known)}")
    if not re.fullmatch(r"\w+", name):
        raise DataError(f"{path}: the name of job {name!r} must be letters, digits and _")
    return Job([str(word) for word in said["run"]], said.get("figure"), said.get("picture"))


def _read_state(folder: Path) -> Pipeline:
    """A pipeline that was begun. Raises ValueError if there is none in the folder."""
    said = mapping(folder / STATE)
    try:
        jobs = {name: Job(**job) for name, job in said.pop("jobs").items()}
        return Pipeline(jobs=jobs, **said)
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"--resume={folder} holds no {STATE} of a pipeline") from None


def _check(pipeline: Pipeline, name: str, compose: Compose) -> None:
    """Raise ValueError, which names the job, if it can't work."""
    from orchestrator.plan.planning import make_plan

    words = pipeline.words(name)
    try:
        make_plan(compose(words), lambda line: None)
    except ValueError as error:
        raise ValueError(f"in job {name}, {shlex.join(words)}: {error}") from error


def _tell(pipeline: Pipeline, compose: Compose) -> int:
    """Print what each job will take. Raises ValueError, which names the job, if one can't work."""
    from orchestrator.plan.hardware import here
    from orchestrator.plan.planning import Plan, foresee
    from orchestrator.plan.several import table as planned

    plans: dict[str, Plan | str] = {}
    for name, job in pipeline.jobs.items():
        if job.needs:
            plans[name] = f"begins with what {' and '.join(job.needs)} will have made"
            continue
        words = pipeline.words(name)
        try:
            config = compose(words)
            plans[name] = foresee(config, lambda line: None, with_data=False, hardware=here(config))
        except ValueError as error:
            raise ValueError(f"in job {name}, {shlex.join(words)}: {error}") from error
    say(f"{pipeline.title}: {len(pipeline.jobs)} jobs, of which nothing is started")
    for line in planned(plans):
        say(line)
    return DONE


def _carry_out(pipeline: Pipeline, name: str, compose: Compose, folder: Path) -> int:
    """Run one job, and keep how it went."""
    from orchestrator.verbs.run import main as run

    words, begun = pipeline.words(name), time.monotonic()
    say(f"orchestrate run {shlex.join(words)}", hang=4)
    outputs = None
    try:
        config = compose(words)  # the job itself plans it
        outputs = Path(config.outputs)
        code = run(config, words, begun)
    except ValueError as error:
        say(f"error: {error}", sys.stderr)
        code = REFUSED
    made = (
        None if outputs is None else made_here(outputs, [Path(p) for p in pipeline.runs.values()])
    )
    if made is not None:
        pipeline.runs[name] = str(made.folder)
    if code in (DONE, FAILED, REFUSED):
        pipeline.codes[name] = code
    pipeline.seconds[name] = pipeline.seconds.get(name, 0.0) + time.monotonic() - begun
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(folder / STATE, json.dumps(asdict(pipeline), indent=1))
    return code


def table(pipeline: Pipeline) -> list[str]:
    """A line for each job: how it went, what it measured, what to type and what to look at."""
    return columns([COLUMNS, *(_row(pipeline, name) for name in pipeline.jobs)])


def draw(pipeline: Pipeline, folder: Path) -> Path | None:
    """The pictures of all jobs on one, in the pipeline's folder. None: no job has any."""
    from orchestrator.record.comparing.tiles import tiled

    rows = (_row(pipeline, name) for name in pipeline.jobs)
    shown = {f"{row[0]}: {row[2]}": Path(row[-1]) for row in rows if row[-1].endswith(".png")}
    if not shown:
        return None
    tiled(shown, PICTURES_IN_A_ROW, (4.0, 2.6)).savefig(folder / "pictures.png", dpi=100)
    return folder / "pictures.png"


def _row(pipeline: Pipeline, name: str) -> tuple[str, ...]:
    job, folder = pipeline.jobs[name], pipeline.runs.get(name)
    run = Run(Path(folder)) if folder else None
    status = run.status if run else ("refused" if name in pipeline.codes else "not started")
    metrics = run.metrics if run else {}
    figure = "-"
    if job.figure in metrics:
        figure = f"{job.figure.rpartition('/')[2]} {metrics[job.figure]:.4g}"
    elif job.figure and pipeline.codes.get(name) == DONE:
        figure = f"{job.figure} was not measured"
    picture = run.folder / job.picture if run and job.picture else None
    took = clock(pipeline.seconds[name]) if name in pipeline.seconds else "-"
    shown = str(picture) if picture and picture.exists() else "-"
    return name, status, figure, took, f"orchestrate run {shlex.join(job.run)}", shown
