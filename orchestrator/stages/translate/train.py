"""Translation on every rank: train, measure which held-out texts come out exactly, save.

B pairs of a micro-batch, S source tokens, T target tokens, V vocabulary.
"""

from functools import partial

import torch
from torch import Tensor

from data import Tokenizer
from models.configs import reads_tokens
from models.cost import flops_per_sample
from orchestrator.config import JobConfig
from orchestrator.record.checkpoints import Checkpoint
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.stages.examples.feeding import evaluation
from orchestrator.stages.examples.published import open_splits
from orchestrator.stages.examples.resuming import start_position
from orchestrator.stages.examples.training import ExampleTraining
from orchestrator.stages.language.roles import language_role
from orchestrator.stages.result import Result
from orchestrator.stages.run import Run
from orchestrator.stages.translate import pronoun, scoring
from orchestrator.stages.translate.driver import SAME
from orchestrator.stages.translate.pairs import ARRAYS, Batch, PublishedPairs, Split
from orchestrator.stages.translate.stage import TranslateConfig
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.loop import Metrics, evaluate
from orchestrator.training.objectives import Objective, Summed
from orchestrator.training.patience import SAMPLING


def translate(config: JobConfig, inputs: PublishedPairs, run: Run) -> Result:
    """Train, evaluate, save, and translate with what was saved. Every rank calls it."""
    training = Training(config, inputs, run)
    outcome = training.fit()
    saved = training.checkpoints.given
    scored: tuple[scoring.Scores, ...] = ()
    if not outcome.stopped and saved is not None:
        run.heart.beat(SAMPLING)
        if distributed.rank() == 0:  # the others have nothing to do for it
            texts = inputs.texts(run.cache)
            stage = training.translate_config
            found = scoring.score(saved, texts, stage.beams, stage.length_penalty)
            run.log(outcome.step, found.metrics)
            languages = stage.languages
            if run.pictures and scoring.draw(saved, found, run.folder / scoring.PICTURE, languages):
                run.event("artifact", path=scoring.PICTURE)
            if run.pictures and pronoun.draw_pronoun(saved, texts, run.folder / pronoun.PICTURE):
                run.event("artifact", path=pronoun.PICTURE)
            scored = (found,)
    example = next(text for text, _, _ in inputs.texts(run.cache) if "'" not in text)
    return Result(
        stopped=outcome.stopped,
        reason=training.checkpoints.reason(outcome),
        tokens_per_second=outcome.weight / max(outcome.training_seconds, 1e-9),
        tables=tuple(table for own in scored for table in (own.table, own.examples)),
        next=(("translate", f"orchestrate generate {{run}} --prompt '{example}'"),),
    )


def inputs_of(engine: Engine, batch: Batch) -> list[Tensor]:
    """Source (B, S), its mask, target (B, T+1) and loss mask (B, T), on the engine's device."""
    arrays = (batch.source, batch.source_mask, batch.target, batch.loss_mask)
    return [torch.from_numpy(array).to(engine.device) for array in arrays]


def target_loss(engine: Engine, batch: Batch, *, smoothing: float) -> Summed:
    """The objective: the smoothed loss of each target token."""
    source, source_mask, target, loss_mask = inputs_of(engine, batch)
    return Summed(
        engine.forward(
            source,
            target[:, :-1],
            source_mask,
            targets=target[:, 1:],
            loss_mask=loss_mask,
            label_smoothing=smoothing,
        )
    )


class Training(ExampleTraining[Batch]):
    """A run on pairs of texts."""

    unit = "tokens"

    def __init__(self, config: JobConfig, published: PublishedPairs, run: Run) -> None:
        """Open the pairs, make the model, and go to where the run goes on."""
        self.published = published
        self.translate_config = config.section(TranslateConfig)
        self.tokenizer = published.folder(run.cache) / TOKENIZER
        tokenizer = Tokenizer.load(self.tokenizer)
        role = language_role(config, published.vocab_size)
        start, end = reads_tokens(role.model).target_start, tokenizer.end_of_text
        train, self.validation = open_splits(
            Split, ARRAYS, published, run.cache, end=end, start=end if start is None else start
        )
        flops = flops_per_sample(role.model, round(published.tokens))
        about = {"languages": self.translate_config.languages}
        super().__init__(config, run, role, train, published.fingerprint, about, flops)

    def objective(self) -> Objective[Batch]:
        """The loss of each target token, with smoothed labels."""
        return partial(target_loss, smoothing=self.translate_config.label_smoothing)

    def position_of(self, start: Checkpoint) -> int:
        """Where the run goes on. Raises ValueError for another model or other pairs."""
        model = language_role(self.config, self.published.vocab_size).model
        return start_position(start, self.config, model, self.fingerprint, SAME)

    def evaluate(self, step: int) -> Metrics:
        """Loss, and which held-out texts come out exactly. Every rank calls it.

        A text is exact where each target token is the likeliest behind those before it: then, and
        only then, taking the likeliest token each time writes the whole of it. So no text need be
        written, and a model in shards can be measured, too.
        """
        kinds = len(self.published.kinds)
        counts = torch.zeros(2, kinds, dtype=torch.int64, device=self.run.device)

        def measured(engine: Engine, batch: Batch) -> Summed:
            source, source_mask, target, loss_mask = inputs_of(engine, batch)
            logits = engine.forward(source, target[:, :-1], source_mask)  # (B, T, V)
            targets, own = target[:, 1:], torch.from_numpy(batch.kinds).to(engine.device)
            right = ((logits.argmax(-1) == targets) | ~loss_mask).all(1)  # (B,)
            real = loss_mask.any(1)
            for row, chosen in enumerate((real, real & right)):
                counts[row].add_(own[chosen].bincount(minlength=kinds))
            losses = torch.nn.functional.cross_entropy(
                logits[loss_mask].float(), targets[loss_mask], reduction="sum"
            )
            return Summed(losses)

        shares = evaluation(
            self.validation, self.config.batch.micro, distributed.rank(), distributed.world_size()
        )
        totals = evaluate(self.model.engine, measured, shares, self.run.heart)
        sums = distributed.sum_over_ranks(counts.flatten().tolist(), self.run.device)
        seen, exact = sums[:kinds], sums[kinds:]
        metrics = totals.metrics("validation") | {"validation/accuracy": sum(exact) / sum(seen)}
        if kinds > 1:
            metrics |= {
                f"validation/{kind}/accuracy": right / all_
                for kind, right, all_ in zip(self.published.kinds, exact, seen, strict=True)
                if all_
            }
        self.record(step, metrics)
        return metrics
