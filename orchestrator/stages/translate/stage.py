"""Translation as the job around it sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from data.files import expand_home
from models.configs import reads_tokens
from orchestrator.config.changes import Change
from orchestrator.config.checks import check_at_least
from orchestrator.config.stage import TrainingConfig

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig

COLUMNLESS = (".po", ".mo", ".tsv", ".tsv.gz", ".tsv.zst")


@dataclass
class TranslateConfig(TrainingConfig):
    """Training of an encoder-decoder on pairs of texts."""

    reads: ClassVar[tuple[str, ...]] = (*TrainingConfig.reads, "tokenizer")
    changes: ClassVar[Mapping[str, Change]] = {
        **TrainingConfig.changes,
        **dict.fromkeys(("data", "languages", "pairs", "validation_fraction"), Change.ACCOUNTED),
        "label_smoothing": Change.MATHEMATICS,
        **dict.fromkeys(("beams", "length_penalty"), Change.FREE),
    }
    measures: ClassVar[Mapping[str, str]] = {
        **TrainingConfig.measures,
        "validation/accuracy": "higher",
    }

    name: str = "translate"
    data: str | None = None
    """Files with pairs: gettext catalogues (.po, .mo), .tsv, a table, also as a glob; or hf:NAME,
    a Hugging Face dataset. None: dates, numbers, amounts, units and names of babel's locale data;
    from English to French sentences with pronouns, too."""
    languages: list[str] = field(default_factory=lambda: ["en", "fr"])
    """Source and target: locales of babel; of a table or dataset the columns, or the keys in its
    column "translation"."""
    pairs: int = 40_000
    """Pairs that are made of locale data, without those of all names and of pronouns."""
    validation_fraction: float = 0.05
    """Part of what is said that is never trained on in any form, chosen by a hash: days, amounts,
    nouns in sentences; source texts of files."""
    label_smoothing: float = 0.1
    """Part of each label that all tokens get alike (Szegedy et al. 2016)."""
    beams: int = 4
    """Beams of the search by which held-out texts are translated at the end."""
    length_penalty: float = 1.0
    """Power of the length by which a log-probability is divided to compare beams."""
    steps: int = 1200
    global_batch_size: int = 128
    evaluate_every: int | None = 200
    checkpoint_every: int | None = 600

    def __post_init__(self) -> None:
        """Check ranges, and what belongs together."""
        super().__post_init__()
        self.data = expand_home("stage.data", self.data)
        if len(self.languages) != 2 or self.languages[0] == self.languages[1]:
            raise ValueError(
                f"stage.languages={self.languages} must be two, source and target; try "
                "stage.languages=[en,fr]"
            )
        for name in ("pairs", "beams"):
            check_at_least(f"stage.{name}", getattr(self, name), 1)
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"stage.validation_fraction={self.validation_fraction} must lie between 0 and 1; "
                "try stage.validation_fraction=0.05"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"stage.label_smoothing={self.label_smoothing} must be at least 0 and below 1; try "
                "stage.label_smoothing=0.1"
            )
        if not abs(self.length_penalty) < 100:
            raise ValueError(
                f"stage.length_penalty={self.length_penalty} must lie between -100 and 100; try "
                "stage.length_penalty=1"
            )

    @property
    def both(self) -> tuple[str, str]:
        """Source and target."""
        source, target = self.languages
        return source, target

    def unread(self, job: JobConfig) -> dict[str, str]:
        """Settings of data that is not asked for."""
        found = {}
        if self.data is not None:
            found["stage.pairs"] = "it is of locale data, and stage.data is set"
            if self.data.endswith(COLUMNLESS):
                found["stage.languages"] = f"{self.data} has no columns with names"
        if job.role("model").model.weights is not None and job.tokenizer.kind != "file":
            found["tokenizer"] = "model.weights brings its own"
        if self.beams == 1:
            found["stage.length_penalty"] = "it compares beams, and stage.beams=1 has one"
        return found

    def check_job(self, job: JobConfig) -> None:
        """Check that the model is an encoder-decoder, too."""
        super().check_job(job)
        model = job.role("model").model
        if not reads_tokens(model).translates:
            raise ValueError(
                f"model.family={model.family} is no encoder-decoder, and stage=translate needs "
                "one; try model=transformer"
            )
