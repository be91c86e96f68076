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
from orchestrator.stages.rewards import RULES

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig

OWN = ("data", "rule", "chat_template", "sequence_length", "validation_fraction")


@dataclass(frozen=True)
class Loss:
    """What a choice of `stage.loss` has."""

    beta: float
    """The default of its strength."""
    reference: bool = True
    """Whether it compares the policy with a frozen reference."""


LOSSES = {
    "dpo": Loss(0.1),
    "ipo": Loss(0.1),
    "kto": Loss(0.1),
    "simpo": Loss(2.0, reference=False),
    "orpo": Loss(0.1, reference=False),
}
REFERENCES = ("live", "precomputed")


@dataclass
class DPOConfig(TrainingConfig):
    """Training on pairs of answers; the reference is the frozen model of the same weights."""

    reads: ClassVar[tuple[str, ...]] = (*TrainingConfig.reads, "tokenizer")
    roles: ClassVar[tuple[str, ...]] = ("model", "reference")
    frozen: ClassVar[tuple[str, ...]] = ("reference",)
    changes: ClassVar[Mapping[str, Change]] = {
        **TrainingConfig.changes,
        **dict.fromkeys(OWN, Change.ACCOUNTED),
        **dict.fromkeys(("loss", "beta", "label_smoothing", "gap"), Change.MATHEMATICS),
        "reference": Change.FREE,
        **dict.fromkeys(("answered", "kl_limit"), Change.FREE),
    }
    measures: ClassVar[Mapping[str, str]] = {
        **TrainingConfig.measures,
        "validation/accuracy": "higher",
    }

    name: str = "dpo"
    data: str | None = None
    """A table with columns "chosen" and "rejected", texts with a column "prompt" or lists of
    messages (FILE.jsonl, FILE.parquet ..., also as a glob); or hf:NAME. None: questions about
    functions of Python with two answers, one of them often damaged, of which `rule` prefers one."""
    rule: str = "sentence"
    """What makes an answer to a built-in question better than another, a name in RULES
    (stages/rewards). By it the policy's own answers are measured before and after."""
    chat_template: str | None = None
    """A file with a Jinja template, or a tokenizer_config.json that has one. None: that of
    stage=sft."""
    sequence_length: int = 256
    """Most tokens of a question with an answer. A longer pair is left out, and counted."""
    validation_fraction: float = 0.05
    """Part of the functions, or of the questions, that is never trained on, chosen by a hash."""
    loss: str = "dpo"
    """dpo (Rafailov et al. 2023), ipo (Azar et al. 2023), kto (Ethayarajh et al. 2024); or, without
    a reference, simpo (Meng et al. 2024), orpo (Hong et al. 2024)."""
    beta: float | None = None
    """dpo, ipo, kto: how close the policy stays to the reference; the larger, the closer. simpo:
    how much a nat per token counts. orpo: weight of the odds beside the loss of the chosen answer.
    None: 0.1, for simpo 2."""
    gap: float = 1.0
    """simpo: by how much the chosen answer is to be ahead; its authors take beta / 2 or so."""
    label_smoothing: float = 0.0
    """For loss=dpo: probability that a pair is the wrong way round (conservative DPO)."""
    reference: str = "live"
    """live: the reference is in memory and computes in each step. precomputed: it computes once,
    before the first step, and is gone; what it said is kept in the cache."""
    answered: int = 48
    """Held-out questions that the policy answers before and after, which tells the reward by `rule`
    and the distance from the reference. 0: none."""
    kl_limit: float | None = None
    """Most nats per answer that the policy may end up from a live reference; beyond, the run says
    so. None: any."""
    steps: int = 60
    global_batch_size: int = 32
    evaluate_every: int | None = 20
    checkpoint_every: int | None = 30

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.data = expand_home("stage.data", self.data)
        self.chat_template = expand_home("stage.chat_template", self.chat_template)
        check_at_least("stage.sequence_length", self.sequence_length, 2)
        check_choice("stage.rule", self.rule, RULES)
        check_choice("stage.loss", self.loss, LOSSES)
        check_choice("stage.reference", self.reference, REFERENCES)
        check_at_least("stage.answered", self.answered, 0)
        self.beta = LOSSES[self.loss].beta if self.beta is None else self.beta
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

        if not 0 <= self.gap < math.inf:
            raise ValueError(f"stage.gap={self.gap} must be at least 0; try stage.gap=1")
        if self.kl_limit is not None and not 0 < self.kl_limit < math.inf:
            raise ValueError(
                f"stage.kl_limit={self.kl_limit} must be greater than 0; try 10, in nats"
            )

    @property
    def compares(self) -> bool:
        """Whether the loss compares the policy with a reference."""
        return LOSSES[self.loss].reference

    @property
    def live(self) -> bool:
        """Whether the reference is in memory all the time."""
        return self.compares and self.reference == "live"

    def unread(self, job: JobConfig) -> dict[str, str]:
        """Settings of another loss or data, and of the tokenizer, which the weights bring along."""
        found = super().unread(job)
        for name, loss in (("label_smoothing", "dpo"), ("gap", "simpo")):
            if self.loss != loss:
                found[f"stage.{name}"] = f"it is for stage.loss={loss}"
        if not self.compares:
            why = f"stage.loss={self.loss} has no reference"
            found |= {"stage.reference": why, "roles.reference": why}
        if not (self.live and self.answered):
            found["stage.kl_limit"] = "it is for a live reference, and for stage.answered above 0"
        if self.data is not None:
            found["stage.rule"] = "it is of the built-in data, and stage.data names other"
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
