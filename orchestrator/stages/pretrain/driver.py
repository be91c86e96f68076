"""Pretraining in the process that starts the job: its arithmetic, its data, its record."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from data import Prepared, ShardSet, Stream, vocab_size
from data.drift.gate_report import GateReport
from data.messages import counted
from models import cost
from orchestrator.config import JobConfig
from orchestrator.stages.language.drift import check_drift
from orchestrator.stages.language.preparing import (
    check_records,
    check_repetition,
    check_same_tokenizer,
    describe,
    make_data,
)
from orchestrator.stages.language.recording import record_data
from orchestrator.stages.language.resuming import initial_state, resumed_state
from orchestrator.stages.language.roles import language_role
from orchestrator.stages.pretrain.stage import PretrainConfig
from orchestrator.stages.stage import Outline, Ready, RoleOutline, Say, Score, Shown

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

TRAINING = (
    Shown("train/loss", "loss {:.3f}"),
    Shown("train/tokens_per_second", "{:,.0f} tokens/s", rate=True),
    Shown("train/mfu", "MFU {:.1%}"),
)
EVALUATION = (
    Shown("validation/loss", "validation loss {:.3f}"),
    Shown("validation/bits_per_byte", "{:.3f} bits/byte"),
)


def outline(config: JobConfig) -> Outline:
    """The job from its settings alone. Raises ValueError if the vocabulary does not fit."""
    check_records(config)
    check_same_tokenizer(config)
    return _outline(config, vocab_size(config.tokenizer), f"{describe(config.data)}, not read yet")


def prepare(config: JobConfig, start: "Checkpoint | None", say: Say) -> Ready:
    """Make the data; check that the job can learn from it and go on from `start`."""
    stage = config.section(PretrainConfig)
    prepared = make_data(config, say)
    check_same_tokenizer(config, prepared)
    stream = Stream.open(prepared.train_sets, config.data)
    state = initial_state(config, stream)
    if start is not None:
        state = resumed_state(start, config, prepared, stream)
    rows = state.cursor_of_step(stage.steps) // stream.row_tokens
    repetitions = stream.mixture.repetitions(rows)
    check_repetition(config, stage.steps, repetitions)
    drift = check_drift(config, prepared)
    check_prompts(config, prepared)
    padding = 1 - sum(own.efficiency for own in stream.rows.values()) / len(stream.rows)
    published = prepared.published()
    return Ready(
        _outline(
            config,
            prepared.tokenizer.vocab_size,
            _data_line(config, prepared, padding),
            repetitions,
            drift,
        ),
        inputs=published,
        record=partial(record_data, config=config, prepared=prepared, drift=drift),
        files=tuple(published.folders()),
    )


def check_prompts(config: JobConfig, prepared: Prepared) -> None:
    """Raise ValueError for a prompt that leaves no room to write."""
    T, stage = config.data.sequence_length, config.section(PretrainConfig)
    for prompt in stage.prompts if stage.sample_tokens else ():
        length = 1 + len(prepared.tokenizer.encode(prompt))
        if length >= T:
            raise ValueError(
                f"stage.prompts: {prompt[:20]!r}... is {length} tokens with the end of text before "
                f"it, and must be shorter than data.sequence_length={T}; shorten it, or set "
                "stage.sample_tokens=0"
            )


def _outline(
    config: JobConfig,
    vocabulary: int,
    data: str,
    repetitions: Mapping[str, float] | None = None,
    drift: Mapping[str, GateReport] | None = None,
) -> Outline:
    stage, T, batch = config.section(PretrainConfig), config.data.sequence_length, config.batch
    role = language_role(config, vocabulary)
    parameters = cost.parameters(role.model)
    per_step, sequences = batch.step * T, batch.step * stage.steps
    flops = cost.flops_per_token(role.model, T) * sequences * T
    epochs = "" if repetitions is None else f" = {_epochs(repetitions)}"
    lines = {
        "model": f"{role.model.family}, {parameters:,} parameters",
        "data": data,
        "step": f"{counted(batch.micro, 'sequence')} x "
        f"{counted(batch.accumulation_steps, 'micro-step')} x "
        f"{counted(config.resources.workers, 'worker')} = {counted(batch.step, 'sequence')} of "
        f"{counted(T, 'token')} = {per_step:,} tokens",
        "job": f"{counted(stage.steps, 'step')} = {sequences:,} sequences = "
        f"{sequences * T:,} tokens{epochs}; {flops:.3g} floating-point operations",
    }
    if drift:
        lines["drift"] = "\n".join(_drift_lines(drift))
    return Outline(
        stage.steps,
        lines,
        {"model": RoleOutline(role, parameters, cost.largest_layer(role.model))},
        TRAINING,
        EVALUATION,
        tokens_per_step=per_step,
        flops=flops,
        score=Score("validation/bits_per_byte"),
    )


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


def _epochs(repetitions: Mapping[str, float]) -> str:
    if len(repetitions) == 1:
        return f"{next(iter(repetitions.values())):.3g} epochs"
    each = (f"{name} {epochs:.3g}" for name, epochs in repetitions.items())
    return f"epochs: {', '.join(each)}"


def _drift_lines(drift: Mapping[str, GateReport]) -> list[str]:
    lines = []
    for name, report in drift.items():
        found = report.lines()[0].removeprefix("drift: ") if report.checked else report.notes[0]
        lines.append(f"{name}: {found}")
        lines += [finding.words for finding in report.findings]
    return lines
