"""What an action works on: a job's config, its prepared data, its stream, and a run's state."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data import Prepared
from data.feed.stream import Stream
from data.order.state import DataState
from orchestrator.config import JobConfig
from orchestrator.plan.resume import find_start
from orchestrator.stages.language.preparing import make_data
from orchestrator.stages.language.resuming import initial_state, resumed_state
from orchestrator.stages.rollouts.section import RolloutConfig
from orchestrator.stages.rollouts.text import saved_text, text_state
from orchestrator.terminal import say


@dataclass(frozen=True)
class Subject:
    """A job, with the run folder if it has been run."""

    config: JobConfig
    folder: Path | None

    @property
    def beside_answers(self) -> bool:
        """Whether its text is learned beside answers, and kept account of with them."""
        return isinstance(self.config.stage, RolloutConfig)

    def prepare(self, say: Callable[[str], None] = say, workers: int | None = None) -> Prepared:
        """The data, made now if it is not there, by so many processes."""
        return make_data(self.config, say, workers)

    @cached_property
    def prepared(self) -> Prepared:
        """The data, made now if it is not there; standard output is for the answer."""
        return self.prepare(lambda line: say(line, sys.stderr))

    @cached_property
    def stream(self) -> Stream:
        """What the job trains on."""
        return Stream.open(self.prepared.train_sets, self.config.data)

    @cached_property
    def saved(self) -> DataState | None:
        """The state in the newest valid checkpoint of the run, if there is one."""
        from orchestrator.record import checkpoints

        if self.folder is None:
            return None
        newest, rejected = checkpoints.newest_valid(self.folder / "checkpoints")
        for line in checkpoints.told(None if newest is None else newest.path, rejected):
            say(line, sys.stderr)
        if newest is None:
            return None
        return saved_text(newest) if self.beside_answers else newest.data

    @cached_property
    def state(self) -> DataState:
        """That of the run's newest checkpoint, else that with which the job began or will begin."""
        if self.saved is not None:
            return self.saved
        start = find_start(self.config)
        if self.beside_answers:
            return text_state(self.config, self.stream, None if start is None else start.checkpoint)
        if start is not None:
            return resumed_state(start.checkpoint, self.config, self.prepared, self.stream)
        return initial_state(self.config, self.stream)
