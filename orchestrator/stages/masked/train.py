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
from orchestrator.stages.masked.fillings import draw_fillings
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
PICTURE = "fillings.png"


def masked(config: JobConfig, inputs: Published, run: Run) -> Result:
    """Train, evaluate, save, and fill masks with what was saved. Every rank calls it."""
    prepared = open_published(inputs, run.cache)
    training, outcome = train(MaskedTraining, config, prepared, run)
    filled = training.fill() if distributed.rank() == 0 and not outcome.stopped else ()
    if filled and run.pictures:
        run.event("artifact", path=PICTURE)
    measured = (training.comparison(),) if "validation/loss" in training.latest else ()
    return Result(
        stopped=outcome.stopped,
        reason=training.checkpoints.reason(outcome),
        tokens_per_second=outcome.weight / max(outcome.training_seconds, 1e-9),
        tables=(*measured, *filled),
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


class MaskedTraining(Training):
    """A pretraining run whose model tells masked tokens."""

    def __post_init__(self) -> None:
        """Prepare to mask, then as pretraining does."""
        self.masking = masking(self.config, self.prepared.tokenizer)
        super().__post_init__()

    def objective(self) -> Objective[Any]:
        """The loss of each masked token."""
        return masked_token

    def shown(self, batches: list[Batch]) -> list[Batch]:
        """The micro-batches of a step with their masks."""
        return [self.masking(batch) for batch in batches]

    def evaluate(self, step: int) -> Metrics:
        """Loss and accuracy on the masked tokens of the validation split. Every rank calls it.

        They are compared with the best that fixed frequencies can do: those of these very tokens.
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
        sums = torch.tensor(distributed.sum_over_ranks(counts.tolist(), self.run.device))
        shares = sums[sums > 0] / sums.sum()
        own["validation/perplexity"] = perplexity(own["validation/loss"])
        own["validation/frequencies_loss"] = float(-(shares * shares.log()).sum())
        own["validation/frequencies_accuracy"] = float(shares.max())
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
            yield from map(self.masking, rows)

    def comparison(self) -> Table:
        """How well masked tokens are told, beside fixed frequencies and a blind guess."""
        own, V = self.checkpoints.measured(self.latest), self.prepared.tokenizer.vocab_size
        rows = [
            ("this model", own["validation/loss"], own["validation/accuracy"]),
            (
                "the best fixed frequencies",
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

    def fill(self) -> tuple[Table, ...]:
        """What the saved weights put in the masks of the prompts. Only one rank calls it."""
        saved, prompts = self.checkpoints.given, self.stage.prompts
        if saved is None or not prompts:
            return ()
        self.run.heart.beat(SAMPLING)
        model, tokenizer = cast(Bert, checkpoint.load_model(saved)).eval(), self.prepared.tokenizer
        found = [
            (prompt, filling)
            for prompt in prompts
            for filling in fill(model, tokenizer, masked_row(tokenizer, prompt), FILLINGS)[0]
        ]
        if self.run.pictures:
            draw_fillings(found).savefig(self.run.folder / PICTURE, dpi=110)
        rows = []
        for prompt, own in found:
            pairs = zip(own.tokens, own.chances, strict=True)
            rows.append((prompt, ", ".join(f"{t.strip()} {c:.0%}" for t, c in pairs)))
        return (Table("fillings", ("text", "likeliest for <mask>"), tuple(rows)),)
