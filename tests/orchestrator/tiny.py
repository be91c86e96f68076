"""A tiny job and made-up data for tests of the training code."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cluster.heart import Heart
from data import Batch, DataConfig
from models.configs import GPTConfig
from orchestrator.config import (
    EngineConfig,
    JobConfig,
    OptimConfig,
    ResourcesConfig,
    TrainingConfig,
)
from orchestrator.stages.language.objective import next_token
from orchestrator.stages.pretrain.stage import PretrainConfig
from orchestrator.training import distributed, engine
from orchestrator.training.loop import Schedule, Spent, Trained, every, fit
from orchestrator.training.optim import learning_rate

VOCAB, T = 61, 16


def job(
    engine_name: str = "zero0",
    world_size: int = 1,
    accumulation: int = 1,
    *,
    dropout: float = 0.0,
    gradient_clip: float | None = 1.0,
    **engine: Any,
) -> JobConfig:
    """8 sequences per step, cut as asked."""
    stage = None if engine_name == "torch" else int(engine_name.removeprefix("zero"))
    return JobConfig(
        stage=PretrainConfig(
            steps=20, global_batch_size=8, micro_batch_size=8 // world_size // accumulation
        ),
        model=GPTConfig(
            vocab_size=VOCAB,
            max_positions=T,
            layers=2,
            width=32,
            heads=2,
            norm="rmsnorm",
            positions="rotary",
            activation="swiglu",
            bias=False,
            dropout=dropout,
        ),
        data=DataConfig(sequence_length=T),
        optim=OptimConfig(learning_rate=1e-2, warmup_steps=5, gradient_clip=gradient_clip),
        engine=EngineConfig(
            name="torch" if engine_name == "torch" else "deepspeed", zero_stage=stage, **engine
        ),
        resources=ResourcesConfig(workers=world_size),
    )


def build(config: JobConfig) -> engine.Engine:
    """The engine around a model whose weights depend on the seed alone."""
    return engine.build(
        config.model,
        config.engine,
        config.optim,
        device=torch.device("cpu"),
        seed=config.seed,
        micro_batch=config.batch.micro,
        accumulation_steps=config.batch.accumulation_steps,
    )


def batches(config: JobConfig, position: int = 0) -> Iterator[list[Batch]]:
    """This rank's micro-batches of made-up rows with ragged numbers of valid tokens."""
    size, micro = config.section(TrainingConfig).global_batch_size, config.batch.micro
    rank, world_size = distributed.rank(), distributed.world_size()
    while True:
        groups = np.arange(position, position + size).reshape(-1, micro)
        yield [rows(group) for group in groups[rank::world_size]]
        position += size


def rows(positions: np.ndarray) -> Batch:
    """Row i counts up from i; only its first (i % T) + 1 targets count."""
    start = positions[:, None]
    tokens = (start + np.arange(T + 1) * (1 + start % 7)) % VOCAB
    mask = np.arange(T)[None, :] <= start % T
    return Batch(tokens.astype(np.int64), mask, positions)


def train(config: JobConfig, steps: int = 20, **hooks: Any) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of the first steps."""
    losses, norms = [], []

    def log(step: int, metrics: dict[str, float]) -> None:
        losses.append(metrics["train/loss"])
        norms.append(metrics["train/gradient_norm"])

    run(config, build(config), steps, log=log, **hooks)
    return losses, norms


def run(
    config: JobConfig, trainer: engine.Engine, steps: int, *, start: int = 0, **hooks: Any
) -> Trained:
    """`fit` with what a test does not care about filled in."""
    schedule = Schedule(
        steps, every(None), every(None), lambda step: learning_rate(config.optim, step, 20)
    )
    nothing = {
        "trained": lambda batches: None,
        "log": lambda step, metrics: None,
        "evaluate": lambda step: {},
        "save": lambda step: None,
        "before_update": lambda: None,
        "should_stop": lambda: False,
        "heart": Heart(),
    }
    return fit(
        trainer,
        hooks.pop("objective", next_token),
        hooks.pop("batches", None)
        or batches(config, start * config.section(TrainingConfig).global_batch_size),
        replace(schedule, **hooks.pop("schedule", {})),
        start_step=start,
        spent=Spent(),
        flops_per_step=hooks.pop("flops_per_step", 0.0),
        seed=config.seed,
        unit="tokens",
        **(nothing | hooks),
    )
