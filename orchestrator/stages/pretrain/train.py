"""Pretraining: next-token prediction over a stream of documents, from random weights."""

from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from data import Loader, Prepared, Published, Stream, evaluation_rows, open_published
from data.feed.ledger import Ledger
from models.configs import ModelConfig, language
from models.cost import flops_per_token
from orchestrator.config import JobConfig
from orchestrator.stages.language.objective import next_token
from orchestrator.stages.language.resuming import initial_state, resumed_state
from orchestrator.stages.language.sampling import sample
from orchestrator.stages.language.scoring import bits_per_byte, comparison, perplexity
from orchestrator.stages.pretrain.stage import PretrainConfig
from orchestrator.stages.result import Result
from orchestrator.stages.run import Run
from orchestrator.training import checkpoint, distributed, engine
from orchestrator.training.checkpoint import Checkpoint, Retention, SavedRole
from orchestrator.training.engine import Engine
from orchestrator.training.hardware import peak_flops
from orchestrator.training.loop import Metrics, Schedule, evaluate, fit
from orchestrator.training.optim import learning_rate


def pretrain(config: JobConfig, inputs: Published, run: Run) -> Result:
    """Train, evaluate, save, and sample from what was saved. Every rank calls it."""
    stage = config.section(PretrainConfig)
    prepared = open_published(inputs, run.cache)
    model_config = language(config.model)
    vocab_size = model_config.vocab_size or prepared.tokenizer.vocab_size
    model_config = replace(model_config, vocab_size=vocab_size)
    trainer = engine.build(
        model_config,
        config.engine,
        config.optim,
        device=run.device,
        seed=config.seed,
        micro_batch=config.batch.micro,
        accumulation_steps=config.batch.accumulation_steps,
    )
    stream = Stream.open(prepared.train_sets, config.data)
    training = Training(config, run, prepared, stream, model_config, trainer)
    start = training.restore()
    run.event("training", device=_device_name(run.device), from_step=start.step if start else 0)
    data = config.data
    loader = Loader(stream, data.sequence_length, isolate_documents=data.isolate_documents)
    steps = loader.stream(
        training.ledger.state.cursor,
        stage.global_batch_size,
        config.batch.micro,
        distributed.rank(),
        distributed.world_size(),
    )
    with closing(steps) as batches:
        outcome = fit(
            trainer,
            next_token,
            batches,
            Schedule(
                stage.steps,
                stage.evaluate_every,
                stage.checkpoint_every,
                lambda step: learning_rate(config.optim, step, stage.steps),
            ),
            start_step=start.step if start else 0,
            seed=config.seed,
            unit="tokens",
            trained=training.ledger.add,
            log=training.log,
            evaluate=training.evaluate,
            save=training.save,
            should_stop=run.should_stop,
        )
    newest, texts = training.newest, []
    if distributed.rank() == 0 and newest is not None and not outcome.stopped:
        texts = sample(
            newest,
            prepared.tokenizer,
            stage.prompts if stage.sample_tokens else (),
            new_tokens=stage.sample_tokens,
            most_tokens=config.data.sequence_length,
            seed=config.seed,
        )
    return Result(
        steps=outcome.step,
        stopped=outcome.stopped,
        checkpoint=str(newest.path) if newest else None,
        metrics=training.latest,
        tokens=int(outcome.weight),
        tokens_per_second=outcome.weight / max(outcome.training_seconds, 1e-9),
        samples=tuple(texts),
        tables=(comparison(training.latest["validation/bits_per_byte"], prepared.baselines),)
        if "validation/bits_per_byte" in training.latest
        else (),
        next=(("write text", "orchestrate generate {run} --prompt 'Return the'"),),
    )


@dataclass
class Training:
    """What the loop calls back: log, evaluate, save; and where it starts."""

    config: JobConfig
    run: Run
    prepared: Prepared
    stream: Stream
    model_config: ModelConfig
    engine: Engine
    latest: Metrics = field(default_factory=dict)
    """The last value of each metric."""
    newest: Checkpoint | None = None
    """The last checkpoint saved or restored."""

    def __post_init__(self) -> None:
        """Look up what MFU needs; begin to count what is trained on and what is kept."""
        self.retention = Retention(self._root, self.config.section(PretrainConfig).checkpoints_kept)
        self._peak = peak_flops(self.engine.device, self.config.engine.precision)
        self._flops = flops_per_token(self.model_config, self.config.data.sequence_length)
        self.ledger = Ledger(self.stream, initial_state(self.config, self.stream))

    def log(self, step: int, metrics: Metrics) -> None:
        """Record the metrics of an optimizer step."""
        if self._peak is not None:
            rate = metrics["train/tokens_per_second"] / distributed.world_size()
            metrics["train/mfu"] = rate * self._flops / self._peak
        self.latest |= metrics
        self.run.log(step, metrics)

    def evaluate(self, step: int) -> None:
        """Loss on the whole validation split of each dataset. Every rank calls it."""
        nats, tokens, size = 0.0, 0, 0
        metrics: Metrics = {}
        for name, validation in self.prepared.validation_sets.items():
            rows = evaluation_rows(
                validation,
                self.config.data.sequence_length,
                distributed.rank(),
                distributed.world_size(),
                self.config.batch.micro,
                isolate_documents=self.config.data.isolate_documents,
            )
            own = evaluate(self.engine, next_token, rows)
            own_nats, own_tokens = own.loss, int(own.weight)
            own_size = validation.manifest.bytes
            if len(self.prepared.validation_sets) > 1:
                bits = bits_per_byte(own_nats, own_size)
                metrics[f"validation/{name}/bits_per_byte"] = bits
            nats, tokens, size = nats + own_nats, tokens + own_tokens, size + own_size
        metrics |= {
            "validation/loss": nats / tokens,
            "validation/perplexity": perplexity(nats / tokens),
            "validation/bits_per_byte": bits_per_byte(nats, size),
        }
        self.latest |= metrics
        self.run.log(step, metrics)

    def save(self, step: int) -> None:
        """Publish the checkpoint of this step. Every rank calls it."""
        sums = [own for rank in distributed.gather_objects(self.ledger.sums) for own in rank]
        damage = [own for rank in distributed.gather_objects(self.stream.damage) for own in rank]
        known = len(self.ledger.state.exclusions)
        state = self.ledger.commit(sums, damage)
        self.newest = done = checkpoint.save(
            self._root,
            step,
            {"model": SavedRole(self.engine.state, self.model_config, self.config.optim.name)},
            self.prepared.tokenizer_path,
            {
                "tokenizer_fingerprint": self.prepared.tokenizer.fingerprint,
                "data_fingerprint": self.prepared.fingerprint,
                "data": state.to_dict(),
            },
        )
        if distributed.rank() == 0:
            self.retention.after(done)
        for left_out in state.exclusions[known:]:
            self.run.event("data_skipped", **asdict(left_out))
        self.run.event(
            "checkpoint",
            step=step,
            path=str(done.path),
            bytes=done.bytes,
            manifest_sha256=done.manifest_sha256,
            data_cursor=state.cursor,
            data_multiset=state.multiset.hex,
            data_skipped_sequences=state.skipped.sequences,
            metrics={k: v for k, v in self.latest.items() if k.startswith("validation/")},
        )

    def restore(self) -> Checkpoint | None:
        """Load the newest valid checkpoint of this run, else of the run to resume, if any.

        Raises ValueError if it belongs to another model, tokenizer or stream of data.
        """
        start, rejected = checkpoint.newest_valid_shared(self._root)
        for reason in rejected:
            self.run.event("checkpoint_rejected", reason=reason)
        if start is not None:
            self.retention.trust(start)
        elif self.config.resume is not None:
            start = checkpoint.read(Path(self.config.resume))  # the driver has verified it
        else:
            return None
        state = resumed_state(start, self.config, self.prepared, self.stream)
        self.ledger = Ledger(self.stream, state)
        self.stream.exclude(state.exclusions)
        self.engine.load_state(checkpoint.open_role(start), start.step)
        self.run.event("resumed", step=start.step, path=str(start.path))
        self.newest = start
        return start

    @property
    def _root(self) -> Path:
        return self.run.folder / "checkpoints"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
