"""The checkpoints of a run, as a stage that trains sees them on its ranks."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.config import JobConfig, RoleConfig, TrainingConfig
from orchestrator.record.checkpoints import FOLDER
from orchestrator.record.runfolder import placed
from orchestrator.stages.run import Run
from orchestrator.training import checkpoint, distributed
from orchestrator.training.checkpoint import Checkpoint, Retention
from orchestrator.training.loop import Metrics, Spent, Trained
from orchestrator.training.roles import Role, build_role
from orchestrator.training.selection import Selection

SELECTION = "selection"  # the entry of a manifest
SPENT = "spent"  # the entry of a manifest; one that was written before there was any lacks it


class Checkpoints:
    """Finds where a run goes on, and publishes its checkpoints. Every rank calls every method."""

    def __init__(self, run: Run, config: JobConfig) -> None:
        """Find the newest valid checkpoint of this run, else that of the run to resume, if any.

        Args:
            run: whose checkpoints these are.
            config: of the job; `resume` is a checkpoint that the driver has verified.
        """
        self._run, self._root = run, run.folder / FOLDER
        self._stage, resume = config.section(TrainingConfig), config.resume
        self._retention = Retention(self._root, self._stage.checkpoints_kept, run.fence)
        found, rejected = checkpoint.newest_valid_shared(self._root)
        for reason in rejected:
            run.event("checkpoint_rejected", reason=reason)
        if found is not None:
            self._retention.trust(found)
        elif resume is not None:
            found = checkpoint.read(Path(resume))
        self.start = found
        """Where the run goes on. None: at its first step."""
        self.newest = found
        """The last checkpoint found or saved."""
        self.selection = self._selection(config)
        """Compares evaluations. None: nothing asks for it."""
        before = {} if found is None else found.facts.get(SPENT, {})
        self.spent = Spent(**before)
        """What training has taken so far; the loop adds to it."""

    @property
    def from_step(self) -> int:
        """Optimizer steps done where the run goes on."""
        return self.start.step if self.start is not None else 0

    def build(self, name: str, role: RoleConfig, config: JobConfig) -> Role:
        """A role with its state where the run goes on, or as it is at the first step."""
        saved = None
        if self.start is not None:
            saved = checkpoint.open_role(self.start, name), self.start.step
        return build_role(
            name,
            role,
            device=self._run.device,
            seed=config.seed,
            micro_batch=config.batch.micro,
            accumulation_steps=config.batch.accumulation_steps,
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
        roles: Iterable[Role],
        tokenizer: Path | None,
        facts: Mapping[str, Any],
        measured: Metrics,
        **record: Any,
    ) -> Checkpoint:
        """Publish the checkpoint of this step, and delete what need not stay.

        Args:
            step: optimizer steps done.
            roles: the models, each with the part of its state that this rank holds.
            tokenizer: the tokenizer.json that they were trained with, if any.
            facts: plain entries for the manifest, such as the state of the data.
            measured: the last value of each metric.
            record: more facts for the record of the run.
        """
        path = self._root / checkpoint.folder_name(step)
        facts = {**facts, SPENT: asdict(self.spent)}
        chosen, best = self.selection, False
        if chosen is not None:
            best = self._stage.keep_best and chosen.best_step == step
            self._retention.best = path if best else self._retention.best
            facts = {**facts, SELECTION: chosen.to_dict() | {"path": self._best_seen_from(path)}}
        self._run.sync()  # who goes on from this checkpoint must not lack the steps before it
        self.newest = done = checkpoint.save(
            self._root,
            step,
            {role.name: role.saved for role in roles},
            tokenizer,
            facts,
            self._run.fence,
        )
        if distributed.rank() == 0:
            self._retention.after(done)
        self._run.event(
            "checkpoint",
            path=placed(done.path, self._run.folder),
            metrics={k: v for k, v in measured.items() if k.startswith("validation/")},
            **done.record,
            **record,
        )
        if best:
            self._tell_best()
        return done

    def reason(self, outcome: Trained) -> str | None:
        """Why training ended before its last step, if it did so by itself."""
        return self.selection.reason() if self.selection and outcome.exhausted else None

    def _tell_best(self) -> None:
        """Record which checkpoint is the best, if it is kept and still there."""
        path, own = self._retention.best, self.selection
        if path is not None and own is not None:
            self._run.event(
                "best",
                step=own.best_step,
                metric=own.metric,
                value=own.best,
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
