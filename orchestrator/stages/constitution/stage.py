"""Settings of revisions by a constitution."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from data.files import expand_home
from orchestrator.config.checks import check_at_least, check_choice
from orchestrator.config.stage import BatchSizes, StageConfig
from orchestrator.stages.asking.section import AskedConfig, JudgeConfig, check_whole

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig

REVISE = ("again", "conversation")


@dataclass
class ConstitutionConfig(StageConfig):
    """Answers, criticised by principles and revised: rows for sft and dpo; nothing is trained."""

    reads: ClassVar[tuple[str, ...]] = ("engine", "roles")
    roles: ClassVar[tuple[str, ...]] = ("writer", "judge")
    frozen: ClassVar[tuple[str, ...]] = ("writer", "judge")

    name: str = "constitution"
    data: str | None = None
    """A table (FILE.jsonl, FILE.parquet ..., also as a glob) or hf:NAME with a column "prompt", or
    "messages" of which the last answer is left out. None: questions about functions of Python."""
    prompts: int = 200
    """Most prompts that are answered, spread over the data."""
    constitution: str | None = None
    """A YAML file with a list of principles, or a Markdown file with one. None: two principles on
    the form of answers, which rules check (stages/constitution/answers.yaml)."""
    rounds: int = 2
    """Critiques and revisions of an answer, at most."""
    revise: str = "again"
    """again: the question is answered once more, for a model that has learned single answers, and
    the better of both by the rules stays. conversation: the writer sees its answer and the
    critique, and is asked for a revision (Bai et al. 2022)."""
    answer_tokens: int = 64
    """Most tokens of an answer, a critique or a revision."""
    temperature: float = 1.0
    """Of all that is written; 0 takes the likeliest token each time."""
    writer: AskedConfig = field(default_factory=AskedConfig)
    """Who answers, criticises and revises."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """Who compares a revision with the first answer; what it does not prefer makes no pair. Nobody:
    each revision counts as better, as the rules or the writer say."""

    def __post_init__(self) -> None:
        """Check ranges, and the sections of writer and judge."""
        self.data = expand_home("stage.data", self.data)
        self.constitution = expand_home("stage.constitution", self.constitution)
        for name in ("prompts", "rounds", "answer_tokens"):
            check_at_least(f"stage.{name}", getattr(self, name), 1)
        check_choice("stage.revise", self.revise, REVISE)
        if not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"stage.temperature={self.temperature} must be at least 0 and finite; try "
                "stage.temperature=1"
            )
        if self.revise == "again" and self.temperature == 0:
            raise ValueError(
                "stage.revise=again writes the same again at stage.temperature=0; try "
                "stage.temperature=1"
            )
        self.writer.filled_in("stage.writer")
        self.judge.filled_in("stage.judge")
        self.writer.check("stage.writer")
        self.judge.check("stage.judge")

    def check_job(self, job: JobConfig) -> None:
        """Check that somebody writes, and is held whole."""
        if not self.writer.asked:
            raise ValueError(
                "stage=constitution needs a writer; try stage.writer.model=SFT_RUN, or with "
                "stage.writer.endpoint=URL the name of a model there"
            )
        check_whole(job, "writer", "judge")

    def unread(self, job: JobConfig) -> dict[str, str]:
        """Settings of other kinds of writers and judges."""
        found = self.writer.unread("stage.writer") | self.judge.unread("stage.judge")
        for name in ("logprobs", "least_mass"):
            found[f"stage.writer.{name}"] = "it is for choices, and a writer writes"
        if not self.writer.local and not self.judge.local:
            found["engine"] = "no model is asked on this machine"
        return found

    def batch(self, workers: int) -> BatchSizes:
        """So many answers on each worker at a time."""
        return BatchSizes(self.writer.batch_size * workers, self.writer.batch_size, 1)
