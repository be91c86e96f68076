"""Pretraining on every rank: next-token prediction over a stream of documents."""

import gc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from data import Loader, Prepared, Published, Stream, evaluation_rows, open_published
from data.feed.ledger import Ledger
from data.feed.loader import Batch
from data.files import write_text_atomic
from models.cost import flops_per_token
from orchestrator.config import JobConfig
from orchestrator.stages.checkpoints import Checkpoints
from orchestrator.stages.language import positions
from orchestrator.stages.language.objective import next_token
from orchestrator.stages.language.positions import LossByPosition
from orchestrator.stages.language.preparing import dataset_names
from orchestrator.stages.language.resuming import initial_state, resumed_state
from orchestrator.stages.language.roles import language_role
from orchestrator.stages.language.sampling import sample, sample_in_training
from orchestrator.stages.language.scoring import bits_per_byte, comparison, notices, perplexity
from orchestrator.stages.language.stage import LanguageTrainingConfig
from orchestrator.stages.pretrain.bad_steps import keep, steps_left_out, without
from orchestrator.stages.pretrain.replay import observe
from orchestrator.stages.pretrain.stage import PretrainConfig
from orchestrator.stages.result import SEPARATOR, Result
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.bad_loss import BadLoss
from orchestrator.training.hardware import device_name, peak_flops
from orchestrator.training.loop import Metrics, Schedule, Trained, evaluate, every, fit
from orchestrator.training.objectives import Objective
from orchestrator.training.optim import learning_rate
from orchestrator.training.patience import SAMPLING

SAMPLES = "samples"  # folder of what was written at evaluations


def pretrain(config: JobConfig, inputs: Published, run: Run) -> Result:
    """Train, evaluate, save, and sample from what was saved. Every rank calls it."""
    prepared = open_published(inputs, run.cache)
    if config.section(PretrainConfig).replay is not None:
        return Training(config, prepared, run).replay()
    training, outcome = train(Training, config, prepared, run)
    texts = training.sample() if distributed.rank() == 0 and not outcome.stopped else []
    ours = training.checkpoints.measured(training.latest).get("validation/bits_per_byte")
    if training.by_position is not None:
        positions.record(run, training.by_position)
    return Result(
        stopped=outcome.stopped,
        reason=training.checkpoints.reason(outcome),
        tokens_per_second=outcome.weight / max(outcome.training_seconds, 1e-9),
        notices=() if ours is None else notices(ours, training.prepared.baselines),
        samples=tuple(texts),
        tables=() if ours is None else (comparison(ours, training.prepared.baselines),),
        next=(("write text", "orchestrate generate {run} --prompt 'Return the'"),),
    )


Kind = TypeVar("Kind", bound="Training")


def train(
    kind: "type[Kind]", config: JobConfig, prepared: Prepared, run: Run
) -> "tuple[Kind, Trained]":
    """Train to the end; a bad step is left out, once between two checkpoints, if that is asked for.

    Every rank calls it. Weights and data are then as the last checkpoint has them, or as at the
    start, in engines that are made anew.
    """
    went_back_to: int | None = None
    recorded = 0
    while True:
        training = kind(config, prepared, run, recorded=recorded)
        try:
            return training, training.fit()
        except BadLoss as bad:
            newest = training.checkpoints.newest
            from_step = 0 if newest is None else newest.step
            skip = training.stage.on_bad_loss == "skip" and from_step != went_back_to
            path = training.keep(bad, left_out=skip)
            name = "rolled_back" if skip else "spike"
            run.event(name, step=bad.step, reason=str(bad), batch=path, from_step=from_step)
            if not skip:
                raise
            went_back_to, recorded = from_step, bad.step - 1
        del training
        gc.collect()  # before the next engine is made


@dataclass
class Training:
    """The parts of a pretraining run: model, data, checkpoints; and what the loop calls back."""

    config: JobConfig
    prepared: Prepared
    run: Run
    latest: Metrics = field(default_factory=dict)
    """The last value of each metric."""
    by_position: NDArray[np.float64] | None = None
    """(2, T): nats and tokens of the last evaluation, place by place."""
    recorded: int = 0
    """Steps that are on record already, and are done again."""

    def __post_init__(self) -> None:
        """Make the model, open the data, and go to where the run goes on.

        Raises ValueError if the checkpoint belongs to another model, tokenizer or stream of data.
        """
        config, run = self.config, self.run
        self.stage = config.section(LanguageTrainingConfig)
        role = language_role(config, self.prepared.tokenizer.vocab_size)
        self.checkpoints = Checkpoints(run, config)
        self.stream = Stream.open(self.prepared.train_sets, config.data)
        state, start = initial_state(config, self.stream), self.checkpoints.start
        if start is not None:
            state = resumed_state(start, config, self.prepared, self.stream)
            self.stream.exclude(state.exclusions)
        self.ledger = Ledger(self.stream, state)
        self.model = self.checkpoints.build("model", role, config)
        if not self.recorded:
            self.checkpoints.resumed()
            self.run.event(
                "training", device=device_name(run.device), from_step=self.checkpoints.from_step
            )
        self._left_out = steps_left_out(run.folder)
        self._peak = peak_flops(run.device, role.engine.precision)
        self._flops = flops_per_token(role.model, config.data.sequence_length)

    def fit(self) -> Trained:
        """Train to the last step, or until a stop."""
        stage = self.stage
        schedule = Schedule(
            stage.steps,
            every(stage.evaluate_every),
            every(stage.checkpoint_every),
            self._rate,
            stage.checkpoint_every_minutes,
            stage.keep_best,
        )
        with self._steps() as batches, self.checkpoints:
            return self._fit(batches, schedule)

    def _fit(
        self, batches: Iterator[list[Batch]], schedule: Schedule, *, quiet: bool = False
    ) -> Trained:
        """Train by a schedule; if `quiet`, nothing is evaluated or saved."""
        batch, length = self.config.batch, self.config.data.sequence_length
        return fit(
            self.model.engine,
            self.objective(),
            batches,
            schedule,
            start_step=self.checkpoints.from_step,
            spent=self.checkpoints.spent,
            flops_per_step=self._flops * batch.step * length,
            seed=self.config.seed,
            unit="tokens",
            trained=self.ledger.add,
            log=self.log,
            evaluate=(lambda step: {}) if quiet else self.evaluate,
            save=(lambda step: None) if quiet else self.save,
            before_update=self.checkpoints.before_update,
            should_stop=self.checkpoints.should_stop,
            heart=self.run.heart,
            selection=None if quiet else self.checkpoints.selection,
            spike_sigmas=None if quiet else self.stage.spike_sigmas,
            left_out=self._left_out,
        )

    @contextmanager
    def _steps(self) -> Iterator[Iterator[list[Batch]]]:
        """This rank's micro-batches of each step from where the run goes on."""
        config = self.config
        length, isolate = config.data.sequence_length, config.data.isolate_documents
        steps = Loader(self.stream, length, isolate_documents=isolate).stream(
            self.ledger.state.cursor,
            config.batch.step,
            config.batch.micro,
            distributed.rank(),
            distributed.world_size(),
        )
        first, end_of_text = self.checkpoints.from_step + 1, self.stream.end_of_text
        with closing(steps) as batches:
            yield map(self.shown, without(self._left_out, batches, first, end_of_text))

    def objective(self) -> Objective[Any]:
        """What is minimised."""
        return next_token

    def shown(self, batches: list[Batch]) -> list[Batch]:
        """The micro-batches of a step as the model sees them."""
        return batches

    def _rate(self, step: int) -> float:
        optim = self.model.config.optim
        assert optim is not None  # the role is trained
        return learning_rate(optim, step, self.stage.steps)

    def keep(self, bad: BadLoss, *, left_out: bool) -> str:
        """Save the batch of a bad step; returns where it is described. Every rank calls it."""
        return keep(self.run.folder, bad, self.stream, self.prepared.tokenizer, left_out=left_out)

    def replay(self) -> Result:
        """Look at the step `stage.replay` alone, after those that lead there."""
        step = self.config.section(PretrainConfig).replay
        assert step is not None
        with self._steps() as batches:
            self._fit(batches, Schedule(step - 1, every(None), every(None), self._rate), quiet=True)
            seen = observe(self.model.engine, next(batches), self.config.seed)
        return Result(tables=(seen.table(),), notices=seen.notices(step))

    def log(self, step: int, metrics: Metrics) -> None:
        """Record the metrics of an optimizer step."""
        if self._peak is not None:
            # Of all tokens that are computed, whichever of them count.
            tokens = self.config.batch.step * self.config.data.sequence_length
            rate = tokens / metrics["train/step_seconds"] / distributed.world_size()
            metrics["train/mfu"] = rate * self._flops / self._peak
        self.record(step, metrics)

    def evaluate(self, step: int) -> Metrics:
        """Loss on the whole validation split of each dataset. Every rank calls it."""
        nats, tokens, size = 0.0, 0, 0
        metrics: Metrics = {}
        places = LossByPosition(self.config.data.sequence_length, self.run.device)
        for name, validation in self.prepared.validation_sets.items():
            rows = evaluation_rows(
                validation,
                self.config.data.sequence_length,
                distributed.rank(),
                distributed.world_size(),
                self.config.batch.micro,
                isolate_documents=self.config.data.isolate_documents,
            )
            own = evaluate(self.model.engine, places.objective, rows, self.run.heart)
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
        self.record(step, metrics)
        self.by_position = places.over_ranks()
        if self.config.section(PretrainConfig).sample_at_evaluations:
            self.show_samples(step)
        return metrics

    def record(self, step: int, metrics: Metrics) -> None:
        """Record metrics, unless an attempt before has, and keep the last value of each."""
        self.latest |= metrics
        if step > self.recorded:
            self.run.log(step, metrics)

    def show_samples(self, step: int) -> None:
        """Put on record what the weights in training write. Every rank calls it."""
        self.run.heart.beat(SAMPLING)
        texts = sample_in_training(self.model.engine, **self._sampling())
        path = self.run.folder / SAMPLES / f"step_{step:08d}.txt"
        if distributed.rank() == 0:
            path.parent.mkdir(exist_ok=True)
            write_text_atomic(path, SEPARATOR.join(texts))
        self.run.event("sampled", step=step, texts=texts)
        self.run.event("artifact", path=f"{SAMPLES}/{path.name}", artifact_path=SAMPLES)

    def save(self, step: int) -> None:
        """Begin to publish the checkpoint of this step. Every rank calls it."""
        sums = [own for rank in distributed.gather_objects(self.ledger.sums) for own in rank]
        damage = [own for rank in distributed.gather_objects(self.stream.damage) for own in rank]
        known = len(self.ledger.state.exclusions)
        state = self.ledger.commit(sums, damage)
        names = dataset_names(self.config.data)
        for left_out in state.exclusions[known:]:
            self.run.event(
                "data_skipped", **asdict(left_out) | {"dataset": names[left_out.dataset]}
            )
        self.checkpoints.save(
            step,
            [self.model],
            self.prepared.tokenizer_path,
            {
                "tokenizer_fingerprint": self.prepared.tokenizer.fingerprint,
                "data_fingerprint": self.prepared.fingerprint,
                "data": state.to_dict(),
            },
            self.latest,
            data_cursor=state.cursor,
            data_multiset=state.multiset.hex,
            data_skipped_sequences=state.skipped.sequences,
        )

    def sample(self) -> list[str]:
        """What the saved weights, the best if kept, write after each prompt. One rank calls it."""
        saved = self.checkpoints.given
        if saved is None or self.config.section(PretrainConfig).sample_tokens == 0:
            return []
        return sample(saved, **self._sampling())

    def _sampling(self) -> dict[str, Any]:
        """What is written, whichever weights do it."""
        return {
            "tokenizer": self.prepared.tokenizer,
            "prompts": self.stage.prompts,
            "new_tokens": self.config.section(PretrainConfig).sample_tokens,
            "most_tokens": self.config.data.sequence_length,
            "seed": self.config.seed,
        }
