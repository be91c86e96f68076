"""Pretraining on masked tokens on every rank: the run of pretraining with another objective.

B sequences of a micro-batch, T tokens, V vocabulary.
"""

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from data import Published, evaluation_rows, open_published
from data.feed.loader import Batch
from models.bert import Bert
from orchestrator.config import JobConfig
from orchestrator.stages.language.filling import fill, masked_row
from orchestrator.stages.language.scoring import perplexity
from orchestrator.stages.masked import sides
from orchestrator.stages.masked.masking import MaskedBatch, masking
from orchestrator.stages.pretrain.train import Training, train
from orchestrator.stages.result import Result, Table
from orchestrator.stages.run import Run
from orchestrator.training import checkpoint, distributed
from orchestrator.training.engine import Engine
from orchestrator.training.loop import Metrics, evaluate
from orchestrator.training.objectives import Objective, Summed
from orchestrator.training.patience import SAMPLING

FILLINGS = 5  # shown of each mask


def masked(config: JobConfig, inputs: Published, run: Run) -> Result:
    """Train, evaluate, save, and fill masks with what was saved. Every rank calls it."""
    prepared = open_published(inputs, run.cache)
    training, outcome = train(MaskedTraining, config, prepared, run)
    looked = training.look() if distributed.rank() == 0 and not outcome.stopped else ()
    measured = (training.comparison(),) if "validation/loss" in training.latest else ()
    return Result(
        stopped=outcome.stopped,
        reason=training.checkpoints.reason(outcome),
        tokens_per_second=outcome.weight / max(outcome.training_seconds, 1e-9),
        tables=(*measured, *looked),
        next=(("fill a mask", "orchestrate generate {run} --prompt 'Return the <mask>.'"),),
    )


def inputs_of(engine: Engine, batch: MaskedBatch) -> tuple[Tensor, dict[str, Tensor | None]]:
    """What the model sees (B, T), and what it is to tell, on the engine's device."""
    assert batch.targets is not None
    names = {
        "documents": batch.documents,
        "targets": batch.targets,
        "loss_mask": batch.loss_mask,
    }
    moved = {
        name: None if array is None else torch.from_numpy(array).to(engine.device)
        for name, array in names.items()
    }
    return torch.from_numpy(batch.tokens).to(engine.device), moved


def masked_token(engine: Engine, batch: MaskedBatch) -> Summed:
    """The objective: the negative log-likelihood of each token that is to be told."""
    tokens, named = inputs_of(engine, batch)
    return Summed(engine.forward(tokens, **named))


def by_frequencies(wanted: Tensor, shares: Tensor) -> tuple[float, float]:
    """Loss, in nats, and share right of telling tokens by fixed shares (V,) alone.

    wanted (V,) counts how often each token was to be told.
    """
    weights = wanted.double() / wanted.sum()
    return float(-(weights * shares.log()).sum()), float(weights[shares.argmax()])


class MaskedTraining(Training):
    """A pretraining run whose model tells masked tokens."""

    def __post_init__(self) -> None:
        """Prepare to mask, then as pretraining does."""
        self.masking = masking(self.config, self.prepared.tokenizer)
        self.frequencies = sides.training_frequencies(
            self.prepared.train_sets.values(), self.prepared.tokenizer.vocab_size
        )
        super().__post_init__()

    def objective(self) -> Objective[Any]:
        """The loss of each masked token."""
        return masked_token

    def shown(self, batches: list[Batch]) -> list[Batch]:
        """The micro-batches of a step with their masks."""
        return [self.masking(batch) for batch in batches]

    def evaluate(self, step: int) -> Metrics:
        """Loss and accuracy on the masked tokens of the validation split. Every rank calls it.

        They are compared with what the frequencies of the tokens in the training text tell, which
        look at no context.
        """
        V = self.prepared.tokenizer.vocab_size
        counts = torch.zeros(V, dtype=torch.int64)

        def measured(engine: Engine, batch: MaskedBatch) -> Summed:
            tokens, named = inputs_of(engine, batch)
            logits = engine.forward(tokens, documents=named["documents"])  # (B, T, V)
            mask, targets = named["loss_mask"], named["targets"]
            assert mask is not None
            assert targets is not None
            chosen, wanted = logits[mask].float(), targets[mask]
            counts.add_(wanted.cpu().bincount(minlength=V))
            loss = torch.nn.functional.cross_entropy(chosen, wanted, reduction="sum")
            return Summed(loss, means={"accuracy": (chosen.argmax(-1) == wanted).sum()})

        totals = evaluate(self.model.engine, measured, self._rows(), self.run.heart)
        own = totals.metrics("validation")
        wanted = distributed.sum_over_ranks(counts.tolist(), self.run.device)
        loss, accuracy = by_frequencies(torch.tensor(wanted), self.frequencies)
        own["validation/perplexity"] = perplexity(own["validation/loss"])
        own["validation/frequencies_loss"] = loss
        own["validation/frequencies_accuracy"] = accuracy
        self.record(step, own)
        return own

    def _rows(self) -> Iterator[MaskedBatch]:
        """This rank's share of the validation split of each dataset, masked."""
        for validation in self.prepared.validation_sets.values():
            rows = evaluation_rows(
                validation,
                self.config.data.sequence_length,
                distributed.rank(),
                distributed.world_size(),
                self.config.batch.micro,
                isolate_documents=self.config.data.isolate_documents,
            )
            yield from (self.masking(row, all_masked=True) for row in rows)

    def comparison(self) -> Table:
        """How well masked tokens are told, beside the training frequencies and a blind guess."""
        own, V = self.checkpoints.measured(self.latest), self.prepared.tokenizer.vocab_size
        rows = [
            ("this model", own["validation/loss"], own["validation/accuracy"]),
            (
                "their frequencies in training",
                own["validation/frequencies_loss"],
                own["validation/frequencies_accuracy"],
            ),
            ("a blind guess", math.log(V), 1 / V),
        ]
        return Table(
            "masked_tokens",
            ("masked tokens told by", "nats per token", "perplexity", "right"),
            tuple(
                (name, f"{loss:.3f}", f"{perplexity(loss):,.1f}", f"{right:.2%}")
                for name, loss, right in rows
            ),
            bold=0,
        )

    def look(self) -> tuple[Table, ...]:
        """What the saved weights put in the masks of the prompts, and make of either side.

        Only one rank calls it; it leaves a picture in the run folder.
        """
        saved, tokenizer = self.checkpoints.given, self.prepared.tokenizer
        if saved is None:
            return ()
        assert tokenizer.mask is not None  # `masking` has checked
        self.run.heart.beat(SAMPLING)
        model = cast(Bert, checkpoint.load_model(saved)).eval()
        fillings = [
            (prompt, one)
            for prompt in self.stage.prompts
            for one in fill(model, tokenizer, masked_row(tokenizer, prompt), FILLINGS)[0]
        ]
        rows = sides.places(
            self.prepared.validation_sets.values(),
            self.config.data.sequence_length,
            tokenizer.end_of_text,
        )
        found = sides.measure(model, rows, tokenizer.mask) if len(rows) else None
        if found is None and not fillings:
            return ()
        if self.run.pictures:
            sides.draw(found, fillings, self.run.folder / sides.PICTURE)
            self.run.event("artifact", path=sides.PICTURE)
        tables = () if found is None else (found.table(),)
        if fillings:
            told = tuple((prompt, one.text) for prompt, one in fillings)
            tables = (*tables, Table("fillings", ("text", "likeliest for <mask>"), told))
        return tables
