"""Settings of a judge at work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from data.files import expand_home
from orchestrator.config.stage import BatchSizes, StageConfig
from orchestrator.stages.asking.section import JudgeConfig, check_whole
from orchestrator.stages.rewards import REFERENCED

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig


@dataclass
class JudgingConfig(StageConfig):
    """Which of two answers is better, by a model, an endpoint or a rule; nothing is trained."""

    reads: ClassVar[tuple[str, ...]] = ("engine", "roles")
    roles: ClassVar[tuple[str, ...]] = ("judge",)
    frozen: ClassVar[tuple[str, ...]] = ("judge",)

    name: str = "judge"
    data: str | None = None
    """A JSONL file of rows "prompt" and "answers", as `orchestrate label serve` reads it; of every
    two answers one is found better. "gold", the place of the best one where it is known, tells how
    good the judge is."""
    criterion: str = "Which answer is better: right, helpful, and no longer than needed?"
    """What the judge is to go by."""
    people: str | None = None
    """What `orchestrate label export` has written of the same file: the judge is compared with it.
    None: with nobody."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """Who compares."""

    def __post_init__(self) -> None:
        """Check the section of the judge, and paths."""
        self.data = expand_home("stage.data", self.data)
        self.people = expand_home("stage.people", self.people)
        self.judge.filled_in("stage.judge")
        self.judge.check("stage.judge")
        if self.judge.rule in REFERENCED:
            raise ValueError(
                f"stage.judge.rule={self.judge.rule} compares with a right answer, and these data "
                "have none; try stage.judge.rule=sentence"
            )

    def check_job(self, job: JobConfig) -> None:
        """Check that there is something to judge, somebody who does, and a model held whole."""
        if self.data is None:
            raise ValueError(
                "stage=judge needs the answers to compare; try stage.data=FILE.jsonl with rows "
                '{"prompt": "...", "answers": ["...", "..."]}'
            )
        if not self.judge.asked:
            raise ValueError(
                "stage=judge needs a judge; try stage.judge.model=RUN, or with "
                "stage.judge.endpoint=URL the name of a model there, or stage.judge.rule=sentence"
            )
        check_whole(job, "judge")

    def unread(self, job: JobConfig) -> dict[str, str]:
        """Settings of other kinds of judges, and of a model where none is asked here."""
        found = self.judge.unread("stage.judge")
        if self.judge.rule is not None:
            found["stage.criterion"] = "a rule goes by itself"
        if not self.judge.local:
            found["engine"] = "no model is asked on this machine"
        return found

    def batch(self, workers: int) -> BatchSizes:
        """So many pairs on each worker at a time, each asked about twice."""
        return BatchSizes(self.judge.batch_size * workers, self.judge.batch_size, 1)
