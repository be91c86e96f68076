"""The run that a job goes on from: its checkpoint, and what the job changes of its settings."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.addresses import HIDDEN, is_url
from data.messages import counted, did_you_mean, short
from orchestrator.config import Change, JobConfig, TrainingConfig, kind_of, to_dict
from orchestrator.config.optim import OptimConfig
from orchestrator.record import runfolder
from orchestrator.record.checkpoints import FOLDER, Checkpoint, RoleRecord, find, published
from orchestrator.record.journal import goes_on
from orchestrator.record.lines import EVENTS, read
from orchestrator.record.reading import CONFIG
from orchestrator.record.redaction import Redactor, flatten
from orchestrator.stages import saved

if TYPE_CHECKING:
    from orchestrator.record.checkpoints.fetching import RemoteRun

AUTO = "auto"
ABSENT = object()
LONGEST = 80  # characters of a value in a message


@dataclass(frozen=True)
class Changed:
    """A setting that the job has otherwise than the run it goes on from."""

    name: str
    kind: Change
    was: str
    now: str
    """Both as they may be shown."""


@dataclass(frozen=True)
class Start:
    """Where a job goes on."""

    checkpoint: Checkpoint
    """Verified."""
    changed: tuple[Changed, ...]
    """What is otherwise from there on."""
    schedules: bool
    """Whether the learning rate of a step depends on how many there are."""

    def lines(self, steps: int) -> dict[str, str]:
        """The start as lines of a plan, by their label, for a job of so many steps."""
        found = self.checkpoint
        where = f"{short(found.path.resolve())}, after step {found.step:,}"
        left = f"{steps - found.step:,} of {counted(steps, 'step')} remain"
        passed_over = [f"passed over: {reason}" for reason in found.passed_over]
        changed = [self._line(own) for own in self.changed]
        lines = {"resume": "\n".join([*passed_over, f"{where}; {left}"])}
        return {**lines, "changed": "\n".join(changed)} if changed else lines

    def _line(self, own: Changed) -> str:
        line = f"{own.name}={own.now} (was {own.was})"
        follows = own.name == "stage.steps" and self.schedules
        return f"{line}, and the learning rate follows" if follows else line


def run_folder(resume: str) -> Path:
    """The run folder that `resume` names, or the one of the checkpoint that it names.

    Of one behind a URL, config and journal are fetched, and it is that in the cache.

    Raises:
        ValueError: nothing is there, or not the config of a run.
    """
    if is_url(resume):
        return _remote(resume).fetch_record()
    path = Path(resume).resolve()
    if not path.exists():
        raise ValueError(
            f"resume={resume} does not exist; name a run folder, `orchestrate runs` lists them"
        )
    for folder in (path, *path.parents[:2]):
        if (folder / CONFIG).is_file():
            return folder
    raise ValueError(
        f"resume={resume} is not in a run folder: there is no {CONFIG} that says what it was "
        f"trained with; name a whole run folder, or start anew with model.weights={resume}"
    )


def _remote(resume: str) -> "RemoteRun":
    from orchestrator.record.checkpoints.fetching import RemoteRun

    return RemoteRun(resume, "resume")


def find_start(config: JobConfig) -> Start | None:
    """Where the job goes on, if it does; for `resume=auto` the newest run may decide.

    Raises:
        ValueError: there is no good checkpoint, or the job changes what it must not.
    """
    if config.resume == AUTO:
        newest = _newest_unfinished(config)
        return None if newest is None else find_start(replace(config, resume=newest))
    if config.resume is None:
        return None
    folder = run_folder(config.resume)
    writes = _remote(config.resume).writer() if is_url(config.resume) else folder
    if writes is not None and goes_on(writes):
        raise ValueError(
            f"resume={config.resume} still goes on{_writer(writes)}, and two jobs would go on from "
            f"it; end that one first, or start another run from its weights with "
            f"model.weights={config.resume}"
        )
    before = saved.load(folder / CONFIG)
    found, steps = find(config.resume, "resume"), config.section(TrainingConfig).steps
    if found.step >= steps:
        raise ValueError(
            f"stage.steps={steps} must be more than the {found.step} steps that "
            f"resume={config.resume} has done; try stage.steps={2 * found.step}"
        )
    optims = {name: config.role(name).optim for name in config.stage.roles}
    for name, optim in optims.items():
        if optim is not None and name in found.roles:
            _check_optimizer(config.resume, found.roles[name], optim)
    _check_secrets(config)
    changed = tuple(_changes(before, config))
    _check_changes(config, changed)
    schedules = any(own is not None and own.schedule != "constant" for own in optims.values())
    return Start(found, changed, schedules)


def _newest_unfinished(config: JobConfig) -> str | None:
    """The newest run of this very job that has a checkpoint, unless a newer one is done.

    If the outputs have none, as on a new host, it is looked for where checkpoints are copied to.
    """
    runs = Path(config.outputs).glob(f"*/*/{CONFIG}")
    for file in sorted(runs, key=lambda file: file.parts[-3:], reverse=True):
        if _is_same_job(file, config):
            if runfolder.status(file.parent) == "done":
                return None
            if published(file.parent / FOLDER):
                return str(file.parent)
    section = config.section(TrainingConfig)
    return None if section.checkpoints_to is None else _newest_copied(config, section)


def _newest_copied(config: JobConfig, section: TrainingConfig) -> str | None:
    """The same among the copies of runs; one is done that has the last step.

    Raises:
        ValueError: they can't be looked at now.
    """
    from orchestrator.record.checkpoints.destination import Destination
    from orchestrator.record.checkpoints.fetching import STEP, RemoteRun

    setting, url = "stage.checkpoints_to", str(section.checkpoints_to).rstrip("/")
    for name in reversed(Destination(url, setting).runs()):
        copied = RemoteRun(f"{url}/{name}", setting)
        if _is_same_job(copied.fetch_config(), config) and (steps := copied.steps()):
            done = int(next(iter(steps)).removeprefix(STEP)) >= section.steps
            return None if done else copied.there.url
    return None


def _is_same_job(file: Path, config: JobConfig) -> bool:
    """Whether a run's config is that of this job."""
    try:
        return all(own.name == "outputs" for own in _changes(saved.load(file), config))
    except ValueError:  # of another version
        return False


def _writer(folder: Path) -> str:
    """Which process writes a run, by its own account."""
    events, _ = read(folder / EVENTS)
    begun = [event for event in events if event["event"] == "started"]
    return f", process {begun[-1]['pid']} on {begun[-1]['host']}" if begun else ""


def _check_secrets(config: JobConfig) -> None:
    """Raise ValueError for settings whose secrets a destination did not get."""
    for name, value in _settings(config, config.roles).items():
        if HIDDEN in _text(value):
            raise ValueError(
                f"{name}={_text(value)} was copied to resume={config.resume} without its secret; "
                f"type it: {name}=..."
            )


def _check_optimizer(resume: str, saved_role: RoleRecord, optim: OptimConfig) -> None:
    """Raise ValueError if a role was trained by another optimizer, whose state this one has not."""
    before = saved_role.optimizer
    if before not in (None, optim.name):
        raise ValueError(
            f"optim.name={optim.name} can't go on from the state of {before} in "
            f"resume={resume}; try optim.name={before}, or start anew from its "
            f"weights alone with model.weights={resume} in place of resume"
        )


def _changes(before: JobConfig, now: JobConfig) -> Iterator[Changed]:
    """The settings of a job that differ from those of the run before."""
    roles = {**before.roles, **now.roles}
    was, own = _settings(before, roles), _settings(now, roles)
    shown = [Redactor(to_dict(config)) for config in (before, now)]
    other = before.stage.name != now.stage.name  # which says it all
    for name in ("stage.name",) if other else {**was, **own}:
        values = was.get(name, ABSENT), own.get(name, ABSENT)
        if values[0] != values[1] and name not in ("resume", "allow_changes"):
            texts = (
                redactor.setting(name, _text(value))
                for redactor, value in zip(shown, values, strict=True)
            )
            yield Changed(name, _kind(name, now, new=ABSENT in values), *texts)


def _settings(config: JobConfig, roles: Iterable[str]) -> dict[str, Any]:
    """The settings by their names, the roles with all that they have."""
    plain = {name: own for name, own in to_dict(config).items() if name != "roles"}
    flat = flatten(plain)
    for role in roles:
        own = config.role(role)
        for section in ("model", "engine", "optim"):
            if (part := getattr(own, section)) is not None:
                flat |= flatten(asdict(part), f"roles.{role}.{section}")
    return flat


def _kind(name: str, config: JobConfig, *, new: bool) -> Change:
    """The kind of a setting; a dataset that is new in a mixture, or gone, is accounted for."""
    parts = name.split(".")
    if parts[0] == "roles":
        parts = parts[2:]
    elif parts[:2] == ["data", "datasets"] and len(parts) > 2:
        if new:
            return Change.ACCOUNTED
        parts = ["data", *parts[3:]]
    return kind_of(".".join(parts), config.stage.changes)


def _check_changes(config: JobConfig, changed: Iterable[Changed]) -> None:
    """Raise ValueError for settings that must not differ, and for those that nobody has allowed."""
    known = _settings(config, config.roles)
    for name in config.allow_changes:
        if name not in known:
            hint = did_you_mean(name, known) or "; leave it out"
            raise ValueError(f"allow_changes=[{name}] is no setting of this job{hint}")
    fixed = [own for own in changed if own.kind is Change.FIXED]
    if fixed:
        listed = "; and ".join(f"{own.name}={own.now} must be {own.was}" for own in fixed)
        raise ValueError(
            f"resume={config.resume} was trained with other settings: {listed}; leave them out, or "
            f"start another run from its weights with model.weights={config.resume}"
        )
    refused = [
        own
        for own in changed
        if own.kind is Change.MATHEMATICS and own.name not in config.allow_changes
    ]
    if refused:
        listed = "; and ".join(f"{own.name}={own.now} was {own.was}" for own in refused)
        names = ",".join([*config.allow_changes, *(own.name for own in refused)])
        raise ValueError(
            f"resume={config.resume} was trained with other settings: {listed}; leave them out, or "
            f"let steps compute something else from there on with allow_changes=[{names}]"
        )


def _text(value: Any) -> str:
    """A value as it is typed, shortened."""
    text = value if isinstance(value, str) else "absent" if value is ABSENT else json.dumps(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
