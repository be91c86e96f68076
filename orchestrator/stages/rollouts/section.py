"""The settings of a stage in which a policy learns from its own answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from data.files import expand_home
from models.configs import CausalConfig, HFConfig, language
from orchestrator.config.changes import Change
from orchestrator.config.checks import check_at_least, check_choice, nearest_multiples
from orchestrator.config.stage import BatchSizes, TrainingConfig
from orchestrator.stages.rewards import RULES
from orchestrator.stages.rollouts.engine_settings import OURS, EnginesConfig

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig
    from orchestrator.config.resources import ResourcesConfig

REWARD = "reward"  # the role of a model that tells what answers are worth
OWN = ("data", "chat_template", "prompt_tokens", "validation_fraction")
ESTIMATORS = ("k1", "k2", "k3")  # those of training/kl.py
AGGREGATIONS = ("token", "sequence", "constant")  # those of training/policy_loss.py
COEFFICIENTS = {"kl_coefficient": 0.1, "entropy_coefficient": 0.01, "ptx_coefficient": 0.5}
"""With what to try instead of a number that can't be."""


@dataclass
class RolloutConfig(EnginesConfig, TrainingConfig):
    """A step lets the policy answer prompts, and learns from the rewards of the answers."""

    reads: ClassVar[tuple[str, ...]] = (*TrainingConfig.reads, "tokenizer", "data")
    roles: ClassVar[tuple[str, ...]] = ("model", "reference", REWARD)
    frozen: ClassVar[tuple[str, ...]] = ("reference", REWARD)
    optional: ClassVar[tuple[str, ...]] = (REWARD,)
    audited: ClassVar[str] = "orchestrator.stages.rollouts.auditing:audit"
    """MODULE:FUNCTION that checks such a job, with what each rank gets."""
    valued: ClassVar[tuple[str, ...]] = (REWARD,)
    """Roles with a value head."""
    changes: ClassVar[Mapping[str, Change]] = {
        **TrainingConfig.changes,
        **dict.fromkeys(OWN, Change.ACCOUNTED),
        **dict.fromkeys(
            (
                *("rule", "answer_tokens", "temperature", "epochs", "mini_batches", "clip_low"),
                *("clip_high", "aggregation", "kl_coefficient", "kl_estimator"),
                *("entropy_coefficient", "off_policy_steps", "importance_limit"),
                "engine_kind",
                *("ptx_coefficient", "ema_decay"),
            ),
            Change.MATHEMATICS,
        ),
        **dict.fromkeys(
            ("kl_limit", "validation_prompts", "engines", "engine_python"), Change.FREE
        ),
    }
    measures: ClassVar[Mapping[str, str]] = {
        "validation/reward": "higher",
        "validation/kl": "lower",
    }

    data: str | None = None
    """A table whose rows are conversations in a column "messages" (FILE.jsonl, FILE.parquet ...,
    also as a glob); or hf:NAME. What stands before the last answer is the prompt, and that answer
    what rules compare with. None: questions about functions of Python."""
    chat_template: str | None = None
    """A file with a Jinja template, or a tokenizer_config.json that has one. None: that of
    stage=sft."""
    prompt_tokens: int = 160
    """Most tokens of a prompt. A longer one is left out, and counted."""
    answer_tokens: int = 32
    """Most tokens of an answer, with the one that ends it; it is cut off there."""
    validation_fraction: float = 0.05
    """Part of the functions, or of the first questions, that is never trained on, by a hash. Of the
    built-in questions a wording of each kind is held out, too."""
    validation_prompts: int = 256
    """Most held-out prompts of an evaluation."""
    rule: str = "sentence"
    """The true reward, from 0 to 1: exact, contains, word_f1, from_prompt, length, no_repetition,
    sentence, full_stop (orchestrator/stages/rewards/rules.py). With a model that tells rewards,
    roles.reward.model.weights=RUN, that is what is learned from, and the rule only told."""
    steps: int = 120
    """Rollouts of the whole run; each is followed by stage.epochs x stage.mini_batches optimizer
    steps."""
    global_batch_size: int = 64
    """Answers per step, over all ranks."""
    micro_batch_size: int | None = None
    """Answers in one forward pass on one rank. None: a rank's whole share of a mini-batch."""
    epochs: int = 1
    """How often a step learns from each answer."""
    mini_batches: int = 1
    """Optimizer steps in which each answer is seen once."""
    temperature: float = 1.4
    """What logits are divided by, where answers are drawn and where they are learned from. Above 1
    a model that is sure of its answers tries others, too."""
    clip_low: float = 0.2
    """How far the probability of a token may fall, as a ratio, before its gradient ends."""
    clip_high: float = 0.2
    """How far it may rise; above clip_low, rare tokens are learned more easily (DAPO: 0.28)."""
    aggregation: str = "token"
    """What an answer counts in the loss: token, each token the same; sequence, each answer the
    same; constant, each answer by its length / answer_tokens."""
    kl_coefficient: float = 0.1
    """What a nat of KL between policy and reference costs, at each token."""
    kl_estimator: str = "k3"
    """How KL is estimated: k1, k2 or k3 (orchestrator/training/kl.py)."""
    kl_limit: float | None = 1.0
    """Nats per token of an answer between policy and reference, a mean of 5 steps, above which the
    run ends. None: it never does for that."""
    entropy_coefficient: float = 0.0
    """What a nat of entropy of the policy is worth, at each token."""
    ptx_coefficient: float = 0.0
    """What a nat of loss on text of the section `data` costs, the mean over its tokens: each
    optimizer step learns as many rows of it as answers (PPO-ptx), so that the policy does not
    forget it. 0: none is read."""
    ema_decay: float | None = None
    """What a moving average of the policy's weights keeps of itself in an optimizer step, such as
    0.992. Checkpoints have it as the role ema; it is measured at the end, too. None: there is none.
    """
    evaluate_every: int | None = 20
    checkpoint_every: int | None = 20

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.data = expand_home("stage.data", self.data)
        self.chat_template = expand_home("stage.chat_template", self.chat_template)
        if (python := expand_home("stage.engine_python", self.engine_python)) is not None:
            self.engine_python = str(Path(python).absolute())  # workers have another folder
        for name in (
            *("prompt_tokens", "answer_tokens", "validation_prompts", "epochs", "mini_batches"),
        ):
            check_at_least(f"stage.{name}", getattr(self, name), 1)
        check_choice("stage.rule", self.rule, RULES)
        check_choice("stage.aggregation", self.aggregation, AGGREGATIONS)
        check_choice("stage.kl_estimator", self.kl_estimator, ESTIMATORS)
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"stage.validation_fraction={self.validation_fraction} must lie between 0 and 1; "
                "try stage.validation_fraction=0.05"
            )
        check_above_0("temperature", self.temperature, 1.0)
        check_above_0("importance_limit", self.importance_limit, 2.0)
        self.check_engines()
        check_above_0("clip_low", self.clip_low, 0.2)
        check_above_0("clip_high", self.clip_high, 0.2)
        if self.clip_low >= 1:
            raise ValueError(
                f"stage.clip_low={self.clip_low} must be below 1, for a ratio is above 0; try "
                "stage.clip_low=0.2"
            )
        if self.kl_limit is not None:
            check_above_0("kl_limit", self.kl_limit, 1.0)
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(
                f"stage.ema_decay={self.ema_decay} must lie between 0 and 1; try "
                "stage.ema_decay=0.992"
            )
        for name, example in COEFFICIENTS.items():
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(
                    f"stage.{name}={value} must be at least 0 and finite; try "
                    f"stage.{name}={example}"
                )

    @property
    def compared_by(self) -> str:
        """The metric that tells which step is better."""
        return self.best_metric or "validation/reward"

    @property
    def updates(self) -> int:
        """Optimizer steps of a step."""
        return self.epochs * self.mini_batches

    @property
    def rows_of_text(self) -> int:
        """In an optimizer step, over all ranks: as many as answers."""
        return self.global_batch_size // self.mini_batches

    @property
    def copies(self) -> int:
        """Answers to each prompt."""
        return 1

    def batch(self, workers: int) -> BatchSizes:
        """How a step's answers, and those of each of its optimizer steps, are cut."""
        each = self.global_batch_size // self.mini_batches // workers
        micro = self.micro_batch_size or each
        return BatchSizes(self.global_batch_size, micro, each // micro)

    def allows(self, workers: int) -> bool:
        """Whether all workers can have the same share of each mini-batch."""
        return self.global_batch_size % self._unit(workers) == 0

    def unread(self, job: JobConfig) -> dict[str, str]:
        """Settings of a tokenizer, which the weights bring along."""
        found = super().unread(job)
        if job.tokenizer.kind != "file":
            found["tokenizer"] = "model.weights brings its own"
        if not self.corrects:
            found["stage.importance_limit"] = (
                "it is for stage.off_policy_steps=1 and stage.engine_kind=vllm"
            )
        if self.engine_kind == OURS:
            found["stage.engine_python"] = "it is for stage.engine_kind=vllm"
        if self.ptx_coefficient:
            found["data.drift"] = "nobody compares the text that stage.ptx_coefficient adds"
        else:
            found["data"] = "it is for stage.ptx_coefficient, which is 0"
        return found

    def check_job(self, job: JobConfig) -> None:
        """Check that the models write, have room, begin as something and have no dropout."""
        super().check_job(job)
        room = self.prompt_tokens + self.answer_tokens
        if REWARD in job.roles and "weights" not in job.roles[REWARD].model:
            raise ValueError(
                "roles.reward is a model that tells what answers are worth; add "
                "roles.reward.model.weights=RUN, a run of stage=reward"
            )
        self._check_text(job)
        for name in job.role_names:
            model = language(job.role(name).model)
            if model.weights is None:
                raise ValueError(
                    f"stage={self.name} goes on from a model that answers; add model.weights=RUN, "
                    "a run of stage=sft"
                )
            if not model.writes or not isinstance(model, CausalConfig | HFConfig):
                raise ValueError(f"model.family={model.family} writes no text; try model=gpt_tiny")
            if model.max_positions < room:
                raise ValueError(
                    f"stage.prompt_tokens + stage.answer_tokens = {self.prompt_tokens} + "
                    f"{self.answer_tokens} = {room} is more than model.max_positions="
                    f"{model.max_positions}; try stage.prompt_tokens="
                    f"{max(model.max_positions - self.answer_tokens, 1)}"
                )
            if getattr(model, "dropout", 0):
                raise ValueError(
                    f"model.dropout={getattr(model, 'dropout')} would make the policy that learns "  # noqa: B009
                    "another one than that which has written the answers; set model.dropout=0"
                )

    def _check_text(self, job: JobConfig) -> None:
        """Check that the policy can read the rows of text beside answers."""
        model, length = language(job.role(self.roles[0]).model), job.data.sequence_length
        if not self.ptx_coefficient:
            return
        if length > model.max_positions:
            raise ValueError(
                f"data.sequence_length={length}, of the rows of stage.ptx_coefficient="
                f"{self.ptx_coefficient}, is longer than model.max_positions="
                f"{model.max_positions}; try data.sequence_length={model.max_positions}"
            )
        if job.data.isolate_documents and not isinstance(model, CausalConfig):
            raise ValueError(
                f"model.family={model.family} can't keep the documents of a row apart; set "
                "data.isolate_documents=false"
            )

    def _unit(self, workers: int) -> int:
        return self.mini_batches * (self.micro_batch_size or 1) * workers

    def _check_batch(self, resources: ResourcesConfig) -> None:
        batch, workers = self.global_batch_size, resources.most
        if any(self.allows(size) for size in range(resources.least, workers + 1)):
            return
        unit = self._unit(workers)
        micro = "stage.micro_batch_size x " if self.micro_batch_size else ""
        by = f"{self.micro_batch_size} x " if self.micro_batch_size else ""
        raise ValueError(
            f"stage.global_batch_size={batch} must be a multiple of {micro}stage.mini_batches x "
            f"resources.workers = {by}{self.mini_batches} x {workers} = {unit}; nearest: "
            f"{nearest_multiples(batch, unit)}"
        )


def check_above_0(name: str, value: float, example: float) -> None:
    """Raise ValueError unless a setting of the stage is above 0 and finite."""
    if not 0 < value < math.inf:
        raise ValueError(
            f"stage.{name}={value} must be greater than 0 and finite; try stage.{name}={example}"
        )
