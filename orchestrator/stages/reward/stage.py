"""A reward model's training as the job around it sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from data.files import expand_home
from models.configs import CausalConfig
from orchestrator.config.changes import Change
from orchestrator.config.checks import check_at_least, check_choice
from orchestrator.config.stage import TrainingConfig
from orchestrator.stages.rewards import RULES

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig

OWN = ("data", "rule", "answers", "chat_template", "sequence_length", "validation_fraction")
LOSSES = ("bradley_terry", "plackett_luce", "squared_error")


@dataclass
class RewardConfig(TrainingConfig):
    """Training of a reward model, from random weights or those of `model.weights`."""

    reads: ClassVar[tuple[str, ...]] = (*TrainingConfig.reads, "tokenizer")
    changes: ClassVar[Mapping[str, Change]] = {
        **TrainingConfig.changes,
        **dict.fromkeys(OWN, Change.ACCOUNTED),
        **dict.fromkeys(("loss", "centring"), Change.MATHEMATICS),
    }
    measures: ClassVar[Mapping[str, str]] = {
        **TrainingConfig.measures,
        "validation/accuracy": "higher",
    }

    name: str = "reward"
    data: str | None = None
    """A table (FILE.jsonl, FILE.parquet ..., also as a glob) or hf:NAME with columns "chosen" and
    "rejected" (and "margin"), or "answers", the best first, or "answer" and "rating": texts with a
    column "prompt", or lists of messages. None: questions about functions of Python with answers,
    some of them damaged, in the order of `rule`."""
    rule: str = "sentence"
    """What makes an answer of the built-in data better than another: a name in RULES
    (stages/rewards). A policy that is trained by the model can be measured by it."""
    answers: int = 2
    """Most answers to a question of the built-in data; the rule rates no two of them alike."""
    chat_template: str | None = None
    """A file with a Jinja template, or a tokenizer_config.json that has one. None: that of
    stage=sft."""
    sequence_length: int = 256
    """Most tokens of a question with an answer. An example with a longer one is left out, and
    counted."""
    validation_fraction: float = 0.05
    """Part of the functions, or of the questions, that is never trained on, chosen by a hash."""
    loss: str = "bradley_terry"
    """bradley_terry (each pair of the answers to a question), plackett_luce (their whole order), or
    squared_error (their scores or ratings, in standard deviations from the mean)."""
    centring: float = 0.01
    """For orders: weight of the squared mean of the rewards of a question, which keeps rewards
    around 0 (Eisenstein et al. 2023). 0: they may drift."""
    steps: int = 100
    global_batch_size: int = 32
    evaluate_every: int | None = 20
    checkpoint_every: int | None = 50

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.data = expand_home("stage.data", self.data)
        self.chat_template = expand_home("stage.chat_template", self.chat_template)
        check_choice("stage.rule", self.rule, RULES)
        check_choice("stage.loss", self.loss, LOSSES)
        check_at_least("stage.answers", self.answers, 2)
        check_at_least("stage.sequence_length", self.sequence_length, 2)
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"stage.validation_fraction={self.validation_fraction} must lie between 0 and 1; "
                "try stage.validation_fraction=0.05"
            )
        if not 0 <= self.centring < math.inf:
            raise ValueError(
                f"stage.centring={self.centring} must be at least 0 and finite; try "
                "stage.centring=0.01"
            )

    @property
    def ordered(self) -> bool:
        """Whether orders are learned, and not scores."""
        return self.loss != "squared_error"

    def unread(self, job: JobConfig) -> dict[str, str]:
        """Settings of built-in data, of orders, and of a tokenizer that the weights bring along."""
        found = super().unread(job)
        found["model.tied_embedding"] = "a value head takes the place of the output head"
        if self.data is not None:
            why = "it is of the built-in data, and stage.data names other"
            found |= {"stage.rule": why, "stage.answers": why}
        if not self.ordered:
            found["stage.centring"] = "scores say what a reward is counted from"
        if job.role("model").model.weights is not None and job.tokenizer.kind != "file":
            found["tokenizer"] = "model.weights brings its own"
        return found

    def check_job(self, job: JobConfig) -> None:
        """Check that the model can have a value head, and that an answer fits it, too."""
        super().check_job(job)
        model = job.role("model").model
        if not isinstance(model, CausalConfig):
            raise ValueError(
                f"model.family={model.family} can't have a value head, which stage=reward trains; "
                "try model=gpt_tiny"
            )
        if model.max_positions < self.sequence_length:
            raise ValueError(
                f"stage.sequence_length={self.sequence_length} is longer than "
                f"model.max_positions={model.max_positions}; try "
                f"stage.sequence_length={model.max_positions}"
            )
