"""Supervised fine-tuning as the job around it sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from data.files import expand_home
from data.messages import override
from models.configs import CausalConfig, language
from orchestrator.config.changes import Change
from orchestrator.config.checks import check_at_least
from orchestrator.config.stage import TrainingConfig
from orchestrator.stages.sft.tasks import TaskConfig, check_tasks

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig

OWN = (
    *("data", "chat_template", "sequence_length", "packing", "validation_fraction"),
    *("replay_fraction", "tasks"),
)
OF_STREAMS = (
    *("sequence_length", "row_tokens", "packing", "isolate_documents", "phases", "seed"),
    *("max_repetition", "on_bad_block", "drift"),
)
"""Settings of the section `data` that order and cut it for pretraining."""


@dataclass
class SFTConfig(TrainingConfig):
    """Training on the answers of conversations, from random weights or those of `model.weights`."""

    reads: ClassVar[tuple[str, ...]] = (*TrainingConfig.reads, "tokenizer", "data")
    changes: ClassVar[Mapping[str, Change]] = {
        **TrainingConfig.changes,
        **dict.fromkeys(OWN, Change.ACCOUNTED),
    }
    measures: ClassVar[Mapping[str, str]] = {
        **TrainingConfig.measures,
        "validation/exact": "higher",
    }

    name: str = "sft"
    data: str | None = None
    """A table whose rows are conversations in a column "messages" (FILE.jsonl, FILE.parquet ...,
    also as a glob); or hf:NAME, a Hugging Face dataset. None: questions about functions of Python
    with the answers of its documentation."""
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    """A mixture in place of `data`: name -> {data: FILE, weight: 1, limit: 30000}. What is held out
    is scored for each. Empty: one source."""
    chat_template: str | None = None
    """A file with a Jinja template, or a tokenizer_config.json that has one. None: <|ROLE|>, a new
    line and the message; an answer ends with the end of text."""
    sequence_length: int = 256
    """Most tokens of a row. A longer conversation is left out, and counted."""
    packing: bool = True
    """true: a row holds as many conversations as fit; none sees another. false: one."""
    validation_fraction: float = 0.05
    """Part of the functions, or of the first questions, that is never trained on, by a hash."""
    replay_fraction: float = 0.0
    """Part of the rows that are text of the section `data`, whose every token is learned again, so
    that the weights do not forget it (experience replay). Of text that is held out the loss is
    told before, during and after training, whatever the part."""
    steps: int = 500
    global_batch_size: int = 24
    evaluate_every: int | None = 100
    checkpoint_every: int | None = 200

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.data = expand_home("stage.data", self.data)
        check_tasks(self.tasks)
        if self.tasks and self.data is not None:
            raise ValueError(
                f"stage.data={self.data} is not read beside stage.tasks; make it a task, "
                f"{override('stage.tasks.other.data', self.data)}, or leave one of the two out"
            )
        self.chat_template = expand_home("stage.chat_template", self.chat_template)
        check_at_least("stage.sequence_length", self.sequence_length, 2)
        if not 0 <= self.replay_fraction < 1:
            raise ValueError(
                f"stage.replay_fraction={self.replay_fraction} must be at least 0 and below 1; try "
                "stage.replay_fraction=0.2"
            )
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"stage.validation_fraction={self.validation_fraction} must lie between 0 and 1; "
                "try stage.validation_fraction=0.05"
            )

    def unread(self, job: JobConfig) -> dict[str, str]:
        """Settings of a tokenizer that the weights bring along, and of text that they know."""
        if job.role("model").model.weights is None:
            why = (
                "it is what model.weights=RUN have learned before, and random weights know nothing"
            )
            return dict.fromkeys(("data", "stage.replay_fraction"), why)
        rows = "stage=sft takes rows of stage.sequence_length tokens of the text, each once"
        found = {f"data.{name}": rows for name in OF_STREAMS}
        found |= {f"data.datasets.{name}.weight": rows for name in job.data.datasets}
        if job.tokenizer.kind != "file":
            found["tokenizer"] = "model.weights brings its own"
        return found

    def check_job(self, job: JobConfig) -> None:
        """Check that the model writes text, and that a row fits it, too."""
        super().check_job(job)
        model = language(job.role("model").model)
        if not model.writes:
            raise ValueError(
                f"model.family={model.family} writes no text, and stage=sft trains what does; try "
                "model=gpt_tiny"
            )
        if model.max_positions < self.sequence_length:
            raise ValueError(
                f"stage.sequence_length={self.sequence_length} is longer than "
                f"model.max_positions={model.max_positions}; try "
                f"stage.sequence_length={model.max_positions}"
            )
        if self.packing and not isinstance(model, CausalConfig):
            raise ValueError(
                f"stage.packing=true puts conversations into one row, and model.family="
                f"{model.family} can't keep them apart; try stage.packing=false"
            )
