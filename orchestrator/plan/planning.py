"""What a job will do, worked out before it starts: batches, tokens, epochs, sizes, disk.

Everything that can be refused is refused here, with exit code 2 and nothing started.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.nodes import Devices
from data import Prepared, Stream, prepare
from data.config import SINGLE
from data.drift import GateReport
from data.messages import size
from data.shards import ShardSet
from data.tokenizer import vocab_size
from models import cost
from orchestrator.config import JobConfig, TrainingConfig
from orchestrator.plan.devices import check_fits
from orchestrator.stages.language.drift import check_drift
from orchestrator.stages.language.resuming import find_start, initial_state, resumed_state
from orchestrator.stages.language.tokenizing import tokenizing
from orchestrator.stages.pretrain.stage import PretrainConfig

STATE_BYTES_PER_PARAMETER = 3 * 4  # weight, exp_avg, exp_avg_sq; fp32 on disk


class DiskTooSmall(ValueError):
    """The checkpoints of the job do not fit where they go."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a worker's share of the training state; activations and buffers not counted."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """All three."""
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True)
class Plan:
    """The arithmetic of a job. What is None was not looked at."""

    config: JobConfig
    parameters: int
    flops: float
    """Of the whole job: forward and backward (models/cost.py)."""
    train_tokens: int | None = None
    """Tokens of one epoch."""
    validation_tokens: int | None = None
    repetitions: Mapping[str, float] | None = None
    """Epochs of each dataset in the whole job."""
    drift: Mapping[str, GateReport] | None = None
    """Comparison of each dataset with that of `data.drift.reference`."""
    padding: float = 0.0
    """Share of the tokens of a step that are no targets, because of the packing."""
    free_bytes: int | None = None
    """Of the disk that the checkpoints go to."""
    devices: Devices | None = None
    """What the machine or cluster has."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens predicted in one optimizer step, over all ranks."""
        return (
            self.config.section(TrainingConfig).global_batch_size * self.config.data.sequence_length
        )

    @property
    def tokens(self) -> int:
        """Tokens predicted in the whole job."""
        return self.tokens_per_step * self.config.section(TrainingConfig).steps

    @property
    def checkpoint_bytes(self) -> int:
        """Size of one checkpoint."""
        return self.parameters * STATE_BYTES_PER_PARAMETER

    @property
    def most_checkpoints(self) -> int:
        """Checkpoints on the disk at once: the next is written before the oldest goes."""
        stage = self.config.section(TrainingConfig)
        return min(-(-stage.steps // stage.checkpoint_every), stage.checkpoints_kept + 1)

    @property
    def memory(self) -> Memory:
        """State of one worker: Rajbhandari et al. 2020, figure 1.

        bf16 under DeepSpeed: 2 bytes of weight and 2 of gradient per parameter, and 12 for the
        fp32 weight and AdamW's two moments. Without: 4, 4 and 8, and under ZeRO 1 to 3, where the
        optimizer holds a copy of its share of the weights, 12. A stage divides by the workers.
        """
        engine, workers = self.config.engine, self.config.resources.workers
        stage = engine.zero_stage if engine.name == "deepspeed" else 0
        half = engine.name == "deepspeed" and engine.precision == "bf16"
        weights = gradients = 2 if half else 4
        optimizer = 12 if half or stage else 8
        return Memory(
            weights * self.parameters / (workers if stage >= 3 else 1),
            gradients * self.parameters / (workers if stage >= 2 else 1),
            optimizer * self.parameters / (workers if stage >= 1 else 1),
        )

    def lines(self) -> list[str]:
        """The plan as short lines of text."""
        config, stage = self.config, self.config.section(TrainingConfig)
        workers, sequences = config.resources.workers, stage.global_batch_size * stage.steps
        epochs = "" if self.repetitions is None else f" = {self._epochs()}"
        lines = [
            f"model       {config.model.family}, {self.parameters:,} parameters",
            f"data        {self._data()}",
            f"step        {counted(config.batch.micro, 'sequence')} x "
            f"{counted(config.batch.accumulation_steps, 'micro-step')} x "
            f"{counted(workers, 'worker')} = "
            f"{counted(stage.global_batch_size, 'sequence')} of "
            f"{counted(config.data.sequence_length, 'token')} = {self.tokens_per_step:,} tokens",
            f"job         {counted(stage.steps, 'step')} = {sequences:,} sequences = "
            f"{self.tokens:,} tokens{epochs}; {self.flops:.3g} floating-point operations",
            f"workers     {self._workers()}",
            f"memory      {self._memory()}",
            f"checkpoints {self._checkpoints()}",
        ]
        for name, report in (self.drift or {}).items():
            lines.append(f"drift       {name}: {report.lines()[0].removeprefix('drift: ')}")
            lines += [f"            {finding.words}" for finding in report.findings]
        if self.devices is not None and self.devices.note:
            lines.append(f"note        {self.devices.note}")
        return lines

    def _data(self) -> str:
        data = self.config.data
        name = " + ".join(
            f"{own.source} {own.path}" if own.path else own.source
            for own in data.sources().values()
        )
        if self.train_tokens is None:
            return f"{name}, not read yet"
        train, validation = f"{self.train_tokens:,} train", f"{self.validation_tokens:,} validation"
        padding = f", {self.padding:.2%} padding" if self.padding else ""
        return f"{name}: {train} and {validation} tokens{padding}"

    def _epochs(self) -> str:
        assert self.repetitions is not None
        if len(self.repetitions) == 1:
            return f"{next(iter(self.repetitions.values())):.3g} epochs"
        each = (f"{name} {epochs:.3g}" for name, epochs in self.repetitions.items())
        return f"epochs: {', '.join(each)}"

    def _workers(self) -> str:
        resources, engine = self.config.resources, self.config.engine
        kind = "GPU" if resources.gpus_per_worker else "CPU"
        cores = counted(resources.cpus_per_worker, "core")
        name = f"DeepSpeed ZeRO {engine.zero_stage}" if engine.name == "deepspeed" else "PyTorch"
        line = f"{resources.workers} x {kind} with {cores}, {name}, {engine.precision}"
        here = self.devices
        if here is None:
            return line
        return f"{line}; {here.where} has {counted(here.gpus, 'GPU')}, {counted(here.cpus, 'core')}"

    def _memory(self) -> str:
        memory, engine = self.memory, self.config.engine
        host = [
            name
            for name, offloaded in (
                ("optimizer", engine.offload_optimizer),
                ("weights", engine.offload_parameters),
            )
            if offloaded
        ]
        where = f", {' and '.join(host)} in host memory" if host else ""
        return (
            f"{size(memory.total)} per worker: weights {size(memory.weights)}, gradients "
            f"{size(memory.gradients)}, optimizer {size(memory.optimizer)}{where}; "
            "activations and buffers come on top"
        )

    def _checkpoints(self) -> str:
        stage, most = self.config.section(TrainingConfig), self.most_checkpoints
        interval = counted(stage.checkpoint_every, "step")
        each = f"{size(self.checkpoint_bytes)} each, every {interval}"
        at_once = f"at most {most} at once = {size(most * self.checkpoint_bytes)}"
        free = "" if self.free_bytes is None else f"; {size(self.free_bytes)} free"
        return f"{each}, {at_once}{free}"


def make_plan(config: JobConfig, prepared: Prepared | None) -> Plan:
    """Work out what the job will do; looks at no device and no disk.

    Args:
        config: the job.
        prepared: its corpus; None leaves out what depends on it.

    Raises:
        ValueError: the vocabulary does not fit the model, or the sequence the corpus.
    """
    vocabulary = prepared.tokenizer.vocab_size if prepared else vocab_size(config.tokenizer)
    rows = config.model.vocab_size
    if rows is not None and rows < vocabulary:
        raise ValueError(
            f"model.vocab_size={rows} must be at least the {vocabulary} tokens of the tokenizer; "
            "try model.vocab_size=null, which takes the tokenizer's"
        )
    rows = rows or vocabulary
    stage, T = config.section(TrainingConfig), config.data.sequence_length
    per_token = cost.flops_per_token(config.model, T, rows)
    return Plan(
        config,
        parameters=cost.parameters(config.model, rows),
        flops=per_token * stage.steps * stage.global_batch_size * T,
        train_tokens=_tokens(prepared.train_sets) if prepared else None,
        validation_tokens=_tokens(prepared.validation_sets) if prepared else None,
    )


def validate(config: JobConfig, say: Callable[[str], None]) -> tuple[Plan, Prepared]:
    """Check all that can be checked before anything starts; prepares the data (cached).

    The cheap refusals come first, before minutes of tokenizing.

    Raises:
        ValueError: the job can't work; the message says what to type instead.
    """
    rough = make_plan(config, None)
    check_records(config)
    start = find_start(config)
    if start is not None:  # `outputs/latest` will soon mean the new run
        config = replace(config, resume=str(start.path.resolve()))
    free = check_outputs(Path(config.outputs))
    check_disk(rough, free)
    devices = check_fits(config.resources)
    with tokenizing(config.resources, say) as run:
        prepared = prepare(config.data, config.tokenizer, say, run)
    stream = Stream.open(prepared.train_sets, config.data)
    state = initial_state(config, stream)
    if start is not None:
        state = resumed_state(start, config, prepared, stream)
    rows = state.cursor_of_step(config.section(TrainingConfig).steps) // stream.row_tokens
    repetitions = stream.mixture.repetitions(rows)
    check_repetition(config, repetitions)
    plan = replace(
        make_plan(config, prepared),
        free_bytes=free,
        devices=devices,
        repetitions=repetitions,
        drift=check_drift(config, prepared),
        padding=1 - sum(own.efficiency for own in stream.rows.values()) / len(stream.rows),
    )
    check_prompts(config, prepared)
    return plan, prepared


def check_records(config: JobConfig) -> None:
    """Raise ValueError for data that pretraining can't learn from."""
    for name, source in config.data.sources().items():
        if source.records == "preferences":
            where = "data" if name == SINGLE else f"data.datasets.{name}"
            raise ValueError(
                f"{where}.records=preferences are pairs of a good and a bad answer, and "
                f"stage={config.stage.name} would learn both; try {where}.records=conversations "
                "with the good ones, or look at them with `orchestrate data inspect`"
            )


def check_repetition(config: JobConfig, repetitions: Mapping[str, float]) -> None:
    """Raise ValueError if the job sees a dataset more often than `data.max_repetition` allows."""
    most = config.data.max_repetition
    for name, epochs in repetitions.items():
        if most is not None and epochs > most:
            steps = config.section(TrainingConfig).steps
            raise ValueError(
                f"data.max_repetition={most:g}, but stage.steps={steps} see dataset {name} "
                f"{epochs:.3g} times; try stage.steps={int(steps * most / epochs)}, a smaller "
                f"weight, more text, or data.max_repetition={epochs:.3g}"
            )


def _tokens(sets: Mapping[str, ShardSet]) -> int:
    return sum(own.tokens for own in sets.values())


def check_prompts(config: JobConfig, prepared: Prepared) -> None:
    """Raise ValueError for a prompt that leaves no room to write."""
    T = config.data.sequence_length
    for prompt in (
        config.section(PretrainConfig).prompts
        if config.section(PretrainConfig).sample_tokens
        else ()
    ):
        length = 1 + len(prepared.tokenizer.encode(prompt))
        if length >= T:
            raise ValueError(
                f"stage.prompts: {prompt[:20]!r}... is {length} tokens with the end of text before "
                f"it, and must be shorter than data.sequence_length={T}; shorten it, or set "
                "stage.sample_tokens=0"
            )


def check_outputs(folder: Path) -> int:
    """Free bytes where run folders go. Raises ValueError unless they can be created there."""
    folders = [folder.absolute(), *folder.absolute().parents]
    existing = next(path for path in folders if path.exists())
    if not existing.is_dir():
        raise ValueError(f"outputs={folder}: {existing} is a file; try outputs=ANOTHER_FOLDER")
    try:
        with tempfile.TemporaryFile(dir=existing):  # permissions alone tell root too little
            pass
    except OSError as error:
        raise ValueError(
            f"outputs={folder}: {existing} can't be written to ({error.strerror}); "
            "try outputs=FOLDER"
        ) from None
    return shutil.disk_usage(existing).free


def check_disk(plan: Plan, free: int) -> None:
    """Raise DiskTooSmall unless the checkpoints fit into `free` bytes."""
    stage, needed = (
        plan.config.section(TrainingConfig),
        plan.most_checkpoints * plan.checkpoint_bytes,
    )
    if needed <= free:
        return
    fewer = "stage.checkpoints_kept=1 or " if stage.checkpoints_kept > 1 else ""
    raise DiskTooSmall(
        f"outputs={plan.config.outputs} needs {size(needed)} for checkpoints, {size(free)} are "
        f"free: {size(plan.checkpoint_bytes)} each, at most {plan.most_checkpoints} at once with "
        f"stage.checkpoints_kept={stage.checkpoints_kept}; try {fewer}outputs=FOLDER on another "
        "disk"
    )


def counted(count: int, what: str) -> str:
    """A number of things for a reader: 1 step, 2,000 steps."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")
