"""The checkpoints of a run, as a stage that trains sees them on its ranks."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.config import JobConfig, RoleConfig
from orchestrator.record.checkpoints import FOLDER
from orchestrator.record.runfolder import placed
from orchestrator.stages.run import Run
from orchestrator.training import checkpoint, distributed
from orchestrator.training.checkpoint import Checkpoint, Retention
from orchestrator.training.roles import Role, build_role


class Checkpoints:
    """Finds where a run goes on, and publishes its checkpoints. Every rank calls every method."""

    def __init__(self, run: Run, kept: int, resume: str | None) -> None:
        """Find the newest valid checkpoint of this run, else that of the run to resume, if any.

        Args:
            run: whose checkpoints these are.
            kept: how many of the newest stay on the disk.
            resume: the checkpoint to go on from, which the driver has verified.
        """
        self._run, self._root = run, run.folder / FOLDER
        self._retention = Retention(self._root, kept)
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

    def save(
        self,
        step: int,
        roles: Iterable[Role],
        tokenizer: Path | None,
        facts: Mapping[str, Any],
        **record: Any,
    ) -> Checkpoint:
        """Publish the checkpoint of this step, and delete what need not stay.

        Args:
            step: optimizer steps done.
            roles: the models, each with the part of its state that this rank holds.
            tokenizer: the tokenizer.json that they were trained with, if any.
            facts: plain entries for the manifest, such as the state of the data.
            record: more facts for the record of the run.
        """
        self.newest = done = checkpoint.save(
            self._root, step, {role.name: role.saved for role in roles}, tokenizer, facts
        )
        if distributed.rank() == 0:
            self._retention.after(done)
        self._run.event(
            "checkpoint", path=placed(done.path, self._run.folder), **done.record, **record
        )
        return done
