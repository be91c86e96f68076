"""The driver of a stage on a stream of text: its arithmetic, its data, its record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data import Prepared, ShardSet, Stream, Tokenizer, vocab_size
from data.ask.estimate import repetitions
from data.drift.gate_report import GateReport
from data.messages import counted
from data.tokenizer import load_or_train
from models import cost
from models.configs import ModelConfig, reads_tokens
from orchestrator.config import JobConfig
from orchestrator.stages.language.drift import check_drift, train_sets
from orchestrator.stages.language.preparing import (
    about,
    check_records,
    check_repetition,
    check_same_tokenizer,
    describe,
    estimated_line,
    find_data,
    make_data,
    rounded,
)
from orchestrator.stages.language.recording import record_data
from orchestrator.stages.language.resuming import initial_state, resumed_state
from orchestrator.stages.language.roles import language_role
from orchestrator.stages.language.stage import LanguageTrainingConfig
from orchestrator.stages.stage import Outline, Ready, RoleOutline, Say, Score, Shown, step_line

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

TRAINING = (
    Shown("train/loss", "train loss {:.3f}"),
    Shown("train/tokens_per_second", "{:,.0f} tokens/s", rate=True),
    Shown("train/step_seconds", "{:.3g} s/step", rate=True),
    Shown("train/mfu", "MFU {:.1%}", rate=True),
    Shown("train/data_wait_fraction", "data wait {:.0%}", rate=True),
)
Check = Callable[[JobConfig, Tokenizer, "Checkpoint | None"], None]


@dataclass(frozen=True)
class LanguageDriver:
    """A stage's part in the process that starts the job; its methods are those of a Driver."""

    evaluation: tuple[Shown, ...]
    """What the screen shows of an evaluation."""
    score: Score
    check: Check
    """Raises ValueError for what does not fit the tokenizer, or the checkpoint to resume if any."""

    def outline(self, config: JobConfig) -> Outline:
        """The job from its settings alone. Raises ValueError if the vocabulary does not fit."""
        check_records(config)
        check_same_tokenizer(config)
        return self._outline(
            config, vocab_size(config.tokenizer), f"{describe(config.data)}, not read yet"
        )

    def estimate(self, config: JobConfig, start: "Checkpoint | None") -> Outline:
        """The job with the data that has been made, else with about what its sources hold."""
        prepared = find_data(config)
        if prepared is not None:
            return self._ready(config, start, prepared).outline
        if (reference := config.data.drift.reference) is not None:
            train_sets(Path(reference))
        if config.tokenizer.kind != "bpe":
            self.check(config, load_or_train(config.tokenizer, lambda: iter(())), None)
        steps, found = config.section(LanguageTrainingConfig).steps, about(config)
        line = estimated_line(config, found, "train", "validation")
        outline = partial(self._outline, config, vocab_size(config.tokenizer), line)
        if found is None:
            return outline()
        row = config.data.row_length
        notes = [
            f"dataset {name} has about {rounded(own.train)} tokens, and a row takes {row}: it may "
            "be too small"
            for name, own in found.items()
            if own.train < row
        ]
        tokens = steps * config.batch.step * config.data.sequence_length
        epochs = repetitions(config.data, found, tokens)
        try:
            check_repetition(config, steps, epochs)
        except ValueError as error:  # the data may be more, or less
            notes.append(f"by this estimate {error}")
        return replace(outline(epochs, about=True), notes=tuple(notes))

    def prepare(self, config: JobConfig, start: "Checkpoint | None", say: Say) -> Ready:
        """Make the data; check that the job can learn from it and go on from `start`."""
        return self._ready(config, start, make_data(config, say))

    def _ready(self, config: JobConfig, start: "Checkpoint | None", prepared: Prepared) -> Ready:
        stage = config.section(LanguageTrainingConfig)
        check_same_tokenizer(config, prepared)
        stream = Stream.open(prepared.train_sets, config.data)
        state = initial_state(config, stream)
        if start is not None:
            state = resumed_state(start, config, prepared, stream)
        rows = state.cursor_of_step(stage.steps) // stream.row_tokens
        epochs = stream.mixture.repetitions(rows)
        check_repetition(config, stage.steps, epochs)
        drift = check_drift(config, prepared)
        self.check(config, prepared.tokenizer, start)
        padding = 1 - sum(own.efficiency for own in stream.rows.values()) / len(stream.rows)
        published = prepared.published()
        return Ready(
            self._outline(
                config,
                prepared.tokenizer.vocab_size,
                _data_line(config, prepared, padding),
                epochs,
                drift,
            ),
            inputs=published,
            record=partial(record_data, config=config, prepared=prepared, drift=drift),
            files=tuple(published.folders()),
        )

    def _outline(
        self,
        config: JobConfig,
        vocabulary: int,
        data: str,
        epochs: Mapping[str, float] | None = None,
        drift: Mapping[str, GateReport] | None = None,
        *,
        about: bool = False,
    ) -> Outline:
        stage, batch = config.section(LanguageTrainingConfig), config.batch
        T = config.data.sequence_length
        role = language_role(config, vocabulary)
        told = RoleOutline.of(role)
        per_step, sequences = batch.step * T, batch.step * stage.steps
        flops = cost.flops_per_token(role.model, T) * sequences * T
        seen = "" if epochs is None else f" = {_epochs(epochs, 'about ' * about)}"
        lines = {
            "model": f"{told.line}{_caution(role.model)}",
            "data": data,
            "step": f"{step_line(config, 'sequence')} of {counted(T, 'token')} = {per_step:,} "
            "tokens",
            "job": f"{counted(stage.steps, 'step')} = {sequences:,} sequences = "
            f"{sequences * T:,} tokens{seen}; {flops:.3g} floating-point operations",
        }
        if drift:
            lines["drift"] = "\n".join(_drift_lines(drift))
        return Outline(
            stage.steps,
            lines,
            {"model": told},
            TRAINING,
            self.evaluation,
            tokens_per_step=per_step,
            flops=flops,
            length=T,
            score=self.score,
        )


def _caution(model: ModelConfig) -> str:
    """What a reader of the loss must know of the model."""
    if not reads_tokens(model).sees_target:
        return ""
    return "; its mask sees the token it predicts, so a low loss means nothing"


def _data_line(config: JobConfig, prepared: Prepared, padding: float) -> str:
    train, validation = (
        f"{_tokens(sets):,} {split}"
        for split, sets in (
            ("train", prepared.train_sets),
            ("validation", prepared.validation_sets),
        )
    )
    padded = f", {padding:.2%} padding" if padding else ""
    return f"{describe(config.data)}: {train} and {validation} tokens{padded}"


def _tokens(sets: Mapping[str, ShardSet]) -> int:
    return sum(own.tokens for own in sets.values())


def _epochs(epochs: Mapping[str, float], about: str) -> str:
    if len(epochs) == 1:
        return f"{about}{next(iter(epochs.values())):.3g} epochs"
    each = (f"{name} {about}{own:.3g}" for name, own in epochs.items())
    return f"epochs: {', '.join(each)}"


def _drift_lines(drift: Mapping[str, GateReport]) -> list[str]:
    lines = []
    for name, report in drift.items():
        found = report.lines()[0].removeprefix("drift: ") if report.checked else report.notes[0]
        lines.append(f"{name}: {found}")
        lines += [finding.words for finding in report.findings]
    return lines
