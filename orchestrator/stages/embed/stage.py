"""Word vectors as the job around them sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from data.files import expand_home
from models.configs import WordVectorsConfig
from orchestrator.config.changes import Change
from orchestrator.config.checks import check_at_least
from orchestrator.config.stage import TrainingConfig

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig


@dataclass
class EmbedConfig(TrainingConfig):
    """Training of word vectors by negative sampling."""

    changes: ClassVar[Mapping[str, Change]] = {
        **TrainingConfig.changes,
        **dict.fromkeys(
            ("data", "words", "min_count", "subsample", "validation_fraction"), Change.ACCOUNTED
        ),
        **dict.fromkeys(("window", "negatives"), Change.MATHEMATICS),
        **dict.fromkeys(("nearest", "analogies"), Change.FREE),
    }
    measures: ClassVar[Mapping[str, str]] = {
        **TrainingConfig.measures,
        "validation/ranked_first": "higher",
    }

    name: str = "embed"
    data: str | None = None
    """Text to read words from: a file, folder or glob. None: the documentation inside Python."""
    words: int = 10_000
    """Most words that are learned, the most frequent ones; others are left out of the text."""
    min_count: int = 5
    """Occurrences from which on a word is learned; rarer ones are left out of the text."""
    subsample: float = 1e-3
    """Frequency above which words are thinned: one of frequency f stays with the probability
    sqrt(subsample / f), once for the whole run (Mikolov et al. 2013, equation 5). 1: all stay."""
    window: int = 5
    """Most words on either side that count as neighbours; how many is drawn for each centre."""
    negatives: int = 5
    """Words drawn for each pair as neighbours that it does not have."""
    validation_fraction: float = 0.1
    """Part of the documents whose pairs are never trained on, chosen by a hash of their words."""
    nearest: list[str] | None = None
    """Words whose nearest ones are shown at the end. None: some frequent ones."""
    analogies: str | None = None
    """File of questions in the questions-words format: `a b c d` per line, sections after `:`.
    None: a few about English plurals, verbs and Python."""
    steps: int = 2400
    global_batch_size: int = 512
    evaluate_every: int | None = 600
    checkpoint_every: int | None = 1200

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.data = expand_home("stage.data", self.data)
        self.analogies = expand_home("stage.analogies", self.analogies)
        for name in ("words", "min_count", "window", "negatives"):
            check_at_least(f"stage.{name}", getattr(self, name), 1)
        if not 0 < self.subsample <= 1:
            raise ValueError(
                f"stage.subsample={self.subsample:g} must be above 0 and at most 1, which thins "
                "nothing; try stage.subsample=1e-3"
            )
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"stage.validation_fraction={self.validation_fraction:g} must lie between 0 and 1; "
                "try stage.validation_fraction=0.1"
            )

    def check_job(self, job: JobConfig) -> None:
        """Check that the model is one of word vectors, too."""
        super().check_job(job)
        word_vectors(job)


def word_vectors(job: JobConfig) -> WordVectorsConfig:
    """The model of a job. Raises ValueError for another family."""
    model = job.role("model").model
    if not isinstance(model, WordVectorsConfig):
        raise ValueError(
            f"model.family={model.family} has no vectors of words; try model=skipgram or model=cbow"
        )
    return model
