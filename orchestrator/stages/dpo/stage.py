"""Direct preference optimization as the job around it sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from data.files import expand_home
from models.configs import language
from orchestrator.config.changes import Change
from orchestrator.config.checks import check_at_least, check_choice
from orchestrator.config.stage import TrainingConfig

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig

OWN = ("data", "chat_template", "sequence_length", "validation_fraction")
LOSSES = ("dpo", "ipo")


@dataclass
class DPOConfig(TrainingConfig):
    """Training on pairs of answers; the reference is the frozen model of the same weights."""

    reads: ClassVar[tuple[str, ...]] = (*TrainingConfig.reads, "tokenizer")
    roles: ClassVar[tuple[str, ...]] = ("model", "reference")
    frozen: ClassVar[tuple[str, ...]] = ("reference",)
    changes: ClassVar[Mapping[str, Change]] = {
        **TrainingConfig.changes,
        **dict.fromkeys(OWN, Change.ACCOUNTED),
        **dict.fromkeys(("loss", "beta", "label_smoothing"), Change.MATHEMATICS),
    }
    measures: ClassVar[Mapping[str, str]] = {
        **TrainingConfig.measures,
        "validation/accuracy": "higher",
    }

    name: str = "dpo"
    data: str | None = None
    """A table with columns "chosen" and "rejected", texts with a column "prompt" or lists of
    messages (FILE.jsonl, FILE.parquet ..., also as a glob); or hf:NAME. None: questions about
    functions of Python; rejected is the answer of another function."""
    chat_template: str | None = None
    """A file with a Jinja template, or a tokenizer_config.json that has one. None: that of
    stage=sft."""
    sequence_length: int = 256
    """Most tokens of a question with an answer. A longer pair is left out, and counted."""
    validation_fraction: float = 0.05
    """Part of the functions, or of the questions, that is never trained on, chosen by a hash."""
    loss: str = "dpo"
    """dpo (Rafailov et al. 2023), or ipo (Azar et al. 2023)."""
    beta: float = 0.1
    """How close the policy stays to the reference; the larger, the closer."""
    label_smoothing: float = 0.0
    """For loss=dpo: probability that a pair is the wrong way round (conservative DPO)."""
    steps: int = 100
    global_batch_size: int = 32
    evaluate_every: int | None = 50
    checkpoint_every: int | None = 50

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.data = expand_home("stage.data", self.data)
        self.chat_template = expand_home("stage.chat_template", self.chat_template)
        check_at_least("stage.sequence_length", self.sequence_length, 2)
        check_choice("stage.loss", self.loss, LOSSES)
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"stage.validation_fraction={self.validation_fraction} must lie between 0 and 1; "
                "try stage.validation_fraction=0.05"
            )
        if not 0 < self.beta < math.inf:
            raise ValueError(f"stage.beta={self.beta} must be greater than 0; try stage.beta=0.1")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(
                f"stage.label_smoothing={self.label_smoothing} must be at least 0 and below 0.5, "
                "where a pair says nothing; try stage.label_smoothing=0.1"
            )

    def unread(self, job: JobConfig) -> dict[str, str]:
        """Settings of another loss, and of the tokenizer, which the weights bring along."""
        found = super().unread(job)
        if self.loss != "dpo":
            found["stage.label_smoothing"] = "it is for stage.loss=dpo"
        if job.tokenizer.kind != "file":
            found["tokenizer"] = "model.weights brings its own"
        return found

    def check_job(self, job: JobConfig) -> None:
        """Check that both models write text, have room for a pair, and begin as something."""
        super().check_job(job)
        for name in self.roles:
            model = language(job.role(name).model)
            if model.weights is None:
                raise ValueError(
                    "stage=dpo goes on from a model that answers; add model.weights=RUN, a run of "
                    "stage=sft"
                )
            if not model.writes:
                raise ValueError(f"model.family={model.family} writes no text; try model=gpt_tiny")
            if model.max_positions < self.sequence_length:
                raise ValueError(
                    f"stage.sequence_length={self.sequence_length} is longer than "
                    f"model.max_positions={model.max_positions}; try "
                    f"stage.sequence_length={model.max_positions}"
                )
