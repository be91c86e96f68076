"""What a job will do, worked out before it starts: batches, tokens, epochs, sizes, disk.

Everything that can be refused is refused here, with exit code 2 and nothing started.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data import Prepared, prepare
from data.tokenizer import vocab_size
from models import cost
from orchestrator.config import JobConfig

STATE_BYTES_PER_PARAMETER = 3 * 4  # weight, exp_avg, exp_avg_sq; fp32 on disk


@dataclass(frozen=True)
class Plan:
    """The arithmetic of a job."""

    config: JobConfig
    parameters: int
    checkpoint_bytes: int
    free_bytes: int
    flops: float
    """Of the whole job: forward and backward (models/cost.py)."""
    train_tokens: int | None
    """Tokens of one epoch; None where the data was not looked at."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens predicted in one optimizer step, over all ranks."""
        return self.config.pretrain.global_batch_size * self.config.data.sequence_length

    @property
    def tokens(self) -> int:
        """Tokens predicted in the whole job."""
        return self.tokens_per_step * self.config.pretrain.steps

    @property
    def epochs(self) -> float | None:
        """How often the job goes through the train split."""
        return self.tokens / self.train_tokens if self.train_tokens else None

    def lines(self) -> list[str]:
        """The plan as short lines of text."""
        config, stage = self.config, self.config.pretrain
        workers, accumulation = config.resources.workers, config.accumulation_steps
        epochs = (
            f", {self.epochs:.2f} epochs of {self.train_tokens:,} tokens" if self.epochs else ""
        )
        device = "GPU" if config.resources.gpus_per_worker else "CPU"
        engine = config.engine.name
        if engine == "deepspeed":
            engine = f"DeepSpeed ZeRO {config.engine.zero_stage}"
        return [
            f"model      {config.model.family}, {self.parameters:,} parameters",
            f"workers    {workers} x {device}, {config.resources.cpus_per_worker} cores each; "
            f"{engine}, {config.engine.precision}",
            f"step       {config.micro_batch_size} sequences x {accumulation} micro-steps x "
            f"{workers} workers = {stage.global_batch_size} sequences = "
            f"{self.tokens_per_step:,} tokens",
            f"job        {stage.steps:,} steps = {self.tokens:,} tokens{epochs}; "
            f"{self.flops:.3g} FLOPs",
            f"checkpoint {size(self.checkpoint_bytes)} each, {stage.checkpoints_kept} kept; "
            f"{size(self.free_bytes)} free",
        ]


def make_plan(config: JobConfig, prepared: Prepared | None) -> Plan:
    """Work out what the job will do. Raises ValueError where it cannot work."""
    vocabulary = prepared.tokenizer.vocab_size if prepared else vocab_size(config.tokenizer)
    rows = config.model.vocab_size
    if rows is not None and rows < vocabulary:
        raise ValueError(
            f"model.vocab_size={rows} is less than the {vocabulary} tokens of the tokenizer; "
            "try model.vocab_size=null, which takes the tokenizer's"
        )
    rows = rows or vocabulary
    parameters = cost.parameters(config.model, rows)
    free = check_outputs(Path(config.outputs))
    plan = Plan(
        config=config,
        parameters=parameters,
        checkpoint_bytes=parameters * STATE_BYTES_PER_PARAMETER,
        free_bytes=free,
        flops=cost.flops_per_token(config.model, config.data.sequence_length, rows)
        * config.pretrain.steps
        * config.pretrain.global_batch_size
        * config.data.sequence_length,
        train_tokens=prepared.train.tokens if prepared else None,
    )
    kept = min(config.pretrain.checkpoints_kept, config.pretrain.steps)
    needed = plan.checkpoint_bytes * (kept + 1)  # the next is written before the oldest goes
    if needed > free:
        raise ValueError(
            f"checkpoints need {size(needed)} in outputs={config.outputs}: {size(plan.checkpoint_bytes)}"
            f" each, {kept} kept and 1 being written; {size(free)} are free; "
            "try stage.checkpoints_kept=1 or outputs=FOLDER on another disk"
        )
    return plan


def validate(config: JobConfig, say: Callable[[str], None]) -> tuple[Plan, Prepared]:
    """Prepare the data (cached) and check all that can be checked before anything starts."""
    make_plan(config, None)  # cheap refusals before minutes of tokenizing
    prepared = prepare(config.data, config.tokenizer, say)
    return make_plan(config, prepared), prepared


def check_outputs(folder: Path) -> int:
    """Free bytes where run folders go. Raises ValueError unless they can be created there."""
    existing = next(
        path for path in [folder.absolute(), *folder.absolute().parents] if path.exists()
    )
    if not existing.is_dir():
        raise ValueError(f"outputs={folder}: {existing} is a file; try outputs=ANOTHER_FOLDER")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(
            f"outputs={folder}: {existing} is not writable for this user; try outputs=FOLDER"
        )
    return shutil.disk_usage(existing).free


def size(count: float) -> str:
    """Bytes for a reader: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
