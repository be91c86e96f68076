"""The checkpoints of a run, as a stage that trains sees them on its ranks."""

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from data.messages import counted
from orchestrator.config import JobConfig, RoleConfig, TrainingConfig
from orchestrator.record.checkpoints import FOLDER, SELECTION, on_this_host
from orchestrator.record.runfolder import placed
from orchestrator.stages.run import Run
from orchestrator.training import checkpoint
from orchestrator.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    Published,
    Retention,
    SavedRole,
)
from orchestrator.training.loop import Metrics, Spent, Trained
from orchestrator.training.patience import CHECKPOINT, WRITING
from orchestrator.training.roles import Role, build_role
from orchestrator.training.selection import Selection

LONG_WAIT_S = 1.0  # for the checkpoint before, from which on the user is told
SPENT = "spent"  # the entry of a manifest; one that was written before there was any lacks it


class Savable(Protocol):
    """A role as far as a checkpoint looks at it."""

    @property
    def name(self) -> str:
        """What it is for."""

    @property
    def saved(self) -> SavedRole:
        """What a checkpoint keeps of it."""


class Checkpoints:
    """Finds where a run goes on, and publishes its checkpoints. Every rank calls every method.

    A context manager: a checkpoint that is being written when it ends is published first.
    """

    def __init__(self, run: Run, config: JobConfig) -> None:
        """Find the newest valid checkpoint of this run, else that of the run to resume, if any.

        Args:
            run: whose checkpoints these are.
            config: of the job; `resume` is a checkpoint that the driver has verified.
        """
        self._run, self._root = run, run.folder / FOLDER
        self._stage, resume = config.section(TrainingConfig), config.resume
        kept, for_ever = self._stage.checkpoints_kept, self._stage.keep_every
        self._retention = Retention(self._root, kept, run.fence, for_ever)
        found, rejected = checkpoint.newest_valid_shared(self._root)
        for reason in rejected:
            run.event("checkpoint_rejected", reason=reason)
        if found is not None:
            self._retention.trust(found)
        elif resume is not None:
            found = checkpoint.read(on_this_host(Path(resume)))
        elif rejected:
            raise CheckpointError(
                f"none of {counted(len(rejected), 'checkpoint')} is whole, and a run never begins "
                f"anew by itself: {rejected[0]}"
            )
        self.start = found
        """Where the run goes on. None: at its first step."""
        self.newest = found
        """The last checkpoint found or published."""
        self.selection = self._selection(config)
        """Compares evaluations. None: nothing asks for it."""
        before = {} if found is None else found.facts.get(SPENT, {})
        self.spent = Spent(**before)
        """What training has taken so far; the loop adds to it."""
        self._saver = checkpoint.Saver(
            self._root,
            run.fence,
            asynchronous=self._stage.save_async,
            before=self._before_writing,
            after=self._retention.after,
        )
        self.before_update = self._saver.before_update
        """To be called before weights change: waits for what a checkpoint still has to copy."""
        self._record: dict[str, Any] = {}  # of the save at hand
        self._is_best = False  # the save at hand

    def _before_writing(self) -> None:
        """There is room again, and who goes on from a checkpoint lacks no step before it."""
        self._retention.wait()
        self._run.sync()

    @property
    def from_step(self) -> int:
        """Optimizer steps done where the run goes on."""
        return self.start.step if self.start is not None else 0

    def build(
        self,
        name: str,
        role: RoleConfig,
        config: JobConfig,
        updates: int | None = None,
        accumulation_steps: int | None = None,
    ) -> Role:
        """A role with its state where the run goes on, or as it is at the first step.

        Args:
            name: what it is for.
            role: with everything filled in.
            config: of the job.
            updates: optimizer steps that it has had by then. None: one in each step.
            accumulation_steps: micro-batches of one optimizer step on one rank. None: of the job's.
        """
        saved = None
        if self.start is not None:
            done = self.start.step if updates is None else updates
            saved = checkpoint.open_role(self.start, name), done
        return build_role(
            name,
            role,
            device=self._run.device,
            seed=config.seed,
            micro_batch=config.batch.micro,
            accumulation_steps=accumulation_steps or config.batch.accumulation_steps,
            resumed=saved,
        )

    def resumed(self) -> None:
        """Record that every part of the stage has taken over the state of `start`."""
        if self.start is not None:
            path = placed(self.start.path, self._run.folder)
            self._run.event("resumed", path=path, **self.start.record)
            self._tell_best()

    def save(
        self,
        step: int,
        roles: Iterable[Savable],
        tokenizer: Path | None,
        facts: Mapping[str, Any],
        measured: Metrics,
        **record: Any,
    ) -> None:
        """Begin to publish the checkpoint of this step; then what need not stay is deleted.

        One that is still being written is waited for.

        Args:
            step: optimizer steps done.
            roles: the models, each with the part of its state that this rank holds.
            tokenizer: the tokenizer.json that they were trained with, if any.
            facts: plain entries for the manifest, such as the state of the data.
            measured: the last value of each metric.
            record: more facts for the record of the run.
        """
        begun = time.monotonic()
        self.wait()
        waited = time.monotonic() - begun
        if waited >= LONG_WAIT_S:
            self._run.event("checkpoint_waited", step=step, seconds=round(waited, 1))
        self._record = {"waited_s": round(waited, 3)}
        path = self._root / checkpoint.folder_name(step)
        facts = {**facts, SPENT: asdict(self.spent)}
        chosen, best = self.selection, False
        if chosen is not None:
            best = self._stage.keep_best and chosen.best_step == step
            self._retention.best = path if best else self._retention.best
            facts = {**facts, SELECTION: chosen.to_dict() | {"path": self._best_seen_from(path)}}
        metrics = {k: v for k, v in measured.items() if k.startswith("validation/")}
        self._record |= {"metrics": metrics, **record}
        self._is_best = best
        self._run.heart.beat(CHECKPOINT if self._stage.save_async else WRITING)
        self._saver.save(step, {role.name: role.saved for role in roles}, tokenizer, facts)
        if not self._stage.save_async:
            self.wait()

    def should_stop(self) -> bool:
        """Whether this process was asked to stop; asked before every step.

        Raises:
            Exception: what went wrong with a checkpoint since; without it the run must not go on.
        """
        self._tell(self._saver.poll())
        return self._run.should_stop()

    def wait(self) -> None:
        """Return when nothing is being written any more. Raises what `should_stop` raises."""
        self._run.heart.beat(WRITING)
        self._tell(self._saver.wait())

    def __enter__(self) -> Self:
        """Nothing happens before the first `save`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what is being written, and record it; not for long if an error ends training."""
        if error is None:
            with self._saver:
                self.wait()
            self._retention.wait()
            return
        self._run.heart.beat(WRITING)
        self._saver.__exit__(kind, error, trace)
        with suppress(Exception):
            self._tell(self._saver.poll())

    def _tell(self, published: Published | None) -> None:
        """Record what was published."""
        if published is None:
            return
        self.newest = done = published.checkpoint
        self._run.event(
            "checkpoint",
            path=placed(done.path, self._run.folder),
            stall_s=round(published.stall_s + self._record["waited_s"], 3),
            write_s=round(published.write_s, 3),
            **done.record,
            **self._record,
        )
        if self._is_best:
            self._tell_best()

    def reason(self, outcome: Trained) -> str | None:
        """Why training ended before its last step, if it did so by itself."""
        return self.selection.reason() if self.selection and outcome.exhausted else None

    @property
    def best(self) -> Checkpoint | None:
        """The checkpoint of the best evaluation, if it is kept and is not the newest.

        To be asked when training has ended, on every rank.
        """
        path = self._retention.best
        if path is None or self.newest is None or path == self.newest.path or not path.is_dir():
            return None
        return checkpoint.read(path)

    @property
    def given(self) -> Checkpoint | None:
        """That of the weights that the run gives: `best`, else the newest. Asked as `best` is."""
        return self.best or self.newest

    def measured(self, latest: Metrics) -> Metrics:
        """The last value of each metric, or where the best weights are kept, theirs."""
        if self._retention.best is None or self.selection is None:
            return latest
        return latest | self.selection.measured

    def restore_best(self, role: Role) -> bool:
        """Give a role the weights of `best`; whether there is one. Every rank calls it."""
        best = self.best
        if best is not None:
            reader = checkpoint.open_role(best, role.name)
            role.engine.load_state(reader, best.step, optimizer=False)
        return best is not None

    def take_over(self, role: Role, name: str) -> None:
        """Give a role the weights of a role of `given`. Every rank calls it, after training."""
        saved = self.given
        assert saved is not None  # a run that has trained has saved
        reader = checkpoint.open_role(saved, name)
        role.engine.load_state(reader, saved.step, optimizer=False)

    def _tell_best(self) -> None:
        """Record which checkpoint is the best, if it is kept and still there."""
        path, own = self._retention.best, self.selection
        if path is not None and own is not None:
            self._run.event(
                "best",
                step=own.best_step,
                metric=own.metric,
                value=own.best,
                metrics=own.measured,
                path=placed(path, self._run.folder),
            )

    def _selection(self, config: JobConfig) -> Selection | None:
        """What the stage compares evaluations by, as it was where the run goes on."""
        stage = self._stage
        if not stage.selects:
            return None
        metric = stage.compared_by
        higher = stage.measures_of(config)[metric] == "higher"
        new = Selection(metric, higher, stage.patience, stage.min_delta)
        if self.start is not None and (saved := self.start.facts.get(SELECTION)) is not None:
            new.restore(saved)
            best = (
                Path(os.path.normpath(self.start.path / saved["path"])) if saved["path"] else None
            )
            if stage.keep_best and new.best is not None and best is not None and best.is_dir():
                self._retention.best = best
        return new

    def _best_seen_from(self, path: Path) -> str | None:
        """The checkpoint of the best step, relative to another: outputs may be moved as a whole."""
        best = self._retention.best
        return None if best is None else os.path.relpath(best, path)
