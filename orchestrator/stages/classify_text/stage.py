"""Classification of texts as the job around it sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from data.files import expand_home
from models.configs import BertConfig
from orchestrator.config.changes import Change
from orchestrator.config.stage import TrainingConfig

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig

OWN = ("data", "text", "label", "validation_fraction")


@dataclass
class ClassifyTextConfig(TrainingConfig):
    """Training of a classifier of texts; `model.weights` may be those of a masked model."""

    reads: ClassVar[tuple[str, ...]] = (*TrainingConfig.reads, "tokenizer")
    changes: ClassVar[Mapping[str, Change]] = {
        **TrainingConfig.changes,
        **dict.fromkeys(OWN, Change.ACCOUNTED),
    }
    measures: ClassVar[Mapping[str, str]] = {
        **TrainingConfig.measures,
        "validation/accuracy": "higher",
    }

    name: str = "classify_text"
    data: str | None = None
    """A table whose rows are texts with a label (FILE.csv, FILE.jsonl, FILE.parquet ...). None:
    the docstrings of eight packages of Python, each labelled with its package."""
    text: str = "text"
    """Column of the table with the texts. Of a text the model sees as many tokens as it has
    positions, the first ones."""
    label: str = "label"
    """Column of the table with the class of each text: a text or a whole number."""
    validation_fraction: float = 0.2
    """Part of the texts that is never trained on, chosen by a hash of each text."""
    steps: int = 240
    global_batch_size: int = 32
    evaluate_every: int | None = 40
    checkpoint_every: int | None = 120

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.data = expand_home("stage.data", self.data)
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"stage.validation_fraction={self.validation_fraction} must lie between 0 and 1; "
                "try stage.validation_fraction=0.2"
            )
        if self.text == self.label:
            raise ValueError(
                f"stage.text={self.text} and stage.label={self.label} must be two columns; try "
                "stage.text=text stage.label=label"
            )

    def unread(self, job: JobConfig) -> dict[str, str]:
        """Settings of a table without one, and of a tokenizer that the weights bring along."""
        found = super().unread(job)
        if self.data is None:
            why = "it is of a table, and stage.data names none"
            found |= {"stage.text": why, "stage.label": why}
        if job.role("model").model.weights is not None and job.tokenizer.kind != "file":
            found["tokenizer"] = "model.weights brings its own"
        return found

    def check_job(self, job: JobConfig) -> None:
        """Check that the model tells classes of texts, too."""
        super().check_job(job)
        model = job.role("model").model
        if not isinstance(model, BertConfig):
            raise ValueError(
                f"model.family={model.family} tells no classes of texts, and "
                "stage=classify_text needs a model that does; try model=bert_tiny"
            )
