"""What every rank of an evaluation does: nats of every document, and intervals over documents."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.heart import Heart
from data import ShardSet, evaluation_rows, open_published
from orchestrator.config import JobConfig
from orchestrator.stages.evaluate.driver import Inputs
from orchestrator.stages.evaluate.stage import EvaluateConfig
from orchestrator.stages.language.preparing import dataset_names
from orchestrator.stages.language.scoring import bits_per_byte, perplexity
from orchestrator.stages.result import Result, Table
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.loop import evaluating
from orchestrator.training.patience import END, EVALUATION
from orchestrator.training.roles import build_role

Floats = NDArray[np.float64]
RESAMPLED_AT_ONCE = 1 << 24  # numbers in memory while intervals are worked out


@dataclass(frozen=True)
class Score:
    """Nats, tokens and bytes of each document of a split; each (documents,)."""

    nats: Floats
    tokens: Floats
    bytes: Floats

    def metrics(self) -> dict[str, float]:
        """Over all documents together."""
        loss = float(self.nats.sum() / self.tokens.sum())
        return {
            "loss": loss,
            "perplexity": perplexity(loss),
            "bits_per_byte": bits_per_byte(float(self.nats.sum()), int(self.bytes.sum())),
        }

    def interval(self, resamples: int, confidence: float, seed: int) -> tuple[float, float]:
        """Bits per byte between which `confidence` of resampled sets of documents lie.

        The percentile bootstrap (Efron 1979) over documents, since the tokens of one document
        depend on each other. A single document has no interval: both ends are its value.
        """
        from scipy.stats import bootstrap

        if len(self.nats) < 2:
            value = self.metrics()["bits_per_byte"]
            return value, value

        def ratio(nats: Any, size: Any, axis: int) -> Any:
            return nats.sum(axis) / size.sum(axis) / np.log(2)

        found = bootstrap(
            (self.nats, self.bytes),
            ratio,
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, RESAMPLED_AT_ONCE // len(self.nats)),
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        return float(found.low), float(found.high)


def evaluate(config: JobConfig, inputs: Inputs, run: Run) -> Result:
    """Score the checkpoint's model on each dataset and on all of them. Every rank calls it."""
    stage = config.section(EvaluateConfig)
    prepared = open_published(inputs.published, run.cache)
    model = build_role("model", inputs.role, device=run.device, seed=config.seed)
    run.event("training", device=str(run.device), from_step=0)
    scores = {
        name: score_documents(model.engine, getattr(own, stage.split), config, run.heart)
        for name, own in prepared.datasets.items()
    }
    run.heart.beat(END)
    if len(scores) > 1:
        scores["all"] = together(list(scores.values()))
    metrics: dict[str, float] = {}
    rows = []
    names = dataset_names(config.data)
    for name, score in scores.items():
        own = score.metrics()
        low, high = score.interval(stage.resamples, stage.confidence, config.seed)
        own |= {"bits_per_byte_low": low, "bits_per_byte_high": high}
        prefix = stage.split if name == "all" or len(scores) == 1 else f"{stage.split}/{name}"
        metrics |= {f"{prefix}/{key}": value for key, value in own.items()}
        rows.append(
            (
                names.get(name, name),
                f"{len(score.nats):,}",
                f"{score.tokens.sum():,.0f}",
                f"{own['loss']:.4f}",
                f"{own['perplexity']:.4g}",
                f"{own['bits_per_byte']:.3f}",
                f"{low:.3f} to {high:.3f}",
            )
        )
    run.log(inputs.checkpoint["step"], metrics)
    run.event("evaluated", **inputs.checkpoint, split=stage.split, metrics=metrics)
    interval = f"{100 * stage.confidence:g}%"
    columns = ("dataset", "documents", "tokens", "loss", "perplexity", "bits/byte", interval)
    return Result(tables=(Table("evaluation", columns, tuple(rows)),))


def score_documents(engine: Engine, shards: ShardSet, config: JobConfig, heart: Heart) -> Score:
    """Nats of every document of a split, over all ranks. Every rank calls it.

    A document starts after the end of text of the one before it, and its own end of text is
    counted as its last token.
    """
    T, device = config.data.sequence_length, engine.device
    rows = evaluation_rows(
        shards,
        T,
        distributed.rank(),
        distributed.world_size(),
        config.batch.micro,
        isolate_documents=config.data.isolate_documents,
    )
    nats = np.zeros(shards.documents)
    with evaluating(engine):
        for batch in rows:
            heart.beat(EVALUATION)
            tokens = torch.from_numpy(batch.tokens).to(device)  # (B, T+1)
            documents = None
            if batch.documents is not None:
                documents = torch.from_numpy(batch.documents).to(device)  # (B, T)
            losses = engine.forward(
                tokens[:, :-1], documents=documents, targets=tokens[:, 1:]
            )  # (B, T)
            kept = batch.loss_mask.ravel()
            places = (batch.sample_ids[:, None] * T + np.arange(T)).ravel()[kept]
            numbers, _ = shards.document_at(places)
            np.add.at(nats, numbers, losses.double().cpu().numpy().ravel()[kept])
    total = distributed.sum_array(nats, device)
    return Score(
        total, np.diff(shards.offsets).astype(float), shards.all_text_bytes().astype(float)
    )


def together(scores: list[Score]) -> Score:
    """All documents of several datasets."""
    return Score(
        np.concatenate([own.nats for own in scores]),
        np.concatenate([own.tokens for own in scores]),
        np.concatenate([own.bytes for own in scores]),
    )
