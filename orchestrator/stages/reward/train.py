"""A reward model on every rank: measure, learn from ranked answers, measure again, save.

B examples of a micro-batch, K answers of each at most, R answers in all, T tokens.
"""

import numpy as np
import torch
from torch import Tensor

from data import Tokenizer
from models.cost import flops_per_sample
from orchestrator.config import JobConfig
from orchestrator.record.checkpoints import Checkpoint
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.stages.examples.feeding import evaluation
from orchestrator.stages.examples.published import open_splits
from orchestrator.stages.examples.resuming import FACTS, start_position
from orchestrator.stages.examples.training import ExampleTraining
from orchestrator.stages.language.roles import value_role
from orchestrator.stages.result import Result, Table
from orchestrator.stages.reward import scoring
from orchestrator.stages.reward.driver import SAME
from orchestrator.stages.reward.rankings import ARRAYS, Batch, PublishedRankings, Split
from orchestrator.stages.reward.stage import RewardConfig
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.loop import Metrics, evaluate
from orchestrator.training.objectives import Objective, Summed
from orchestrator.training.rankings import (
    bradley_terry,
    centring,
    last_values,
    pairs_of,
    plackett_luce,
    squared_error,
)

BEFORE = "before"  # what a checkpoint says of the model before training
PICTURE = "calibration.png"


def reward(config: JobConfig, inputs: PublishedRankings, run: Run) -> Result:
    """Measure, train, save, and tell what got better. Every rank calls it."""
    training = Training(config, inputs, run)
    training.look_before()
    outcome = training.fit()
    return Result(
        stopped=outcome.stopped,
        reason=training.checkpoints.reason(outcome),
        tables=() if outcome.stopped else training.tables(),
    )


def rewards_of(engine: Engine, batch: Batch) -> Tensor:
    """The rewards (R,) of the answers of a micro-batch, each at the token that ends it."""
    tokens, lengths = (
        torch.from_numpy(array).to(engine.device) for array in (batch.tokens, batch.lengths)
    )
    return last_values(engine.forward(tokens), lengths)


def loss_of(rewards: Tensor, batch: Batch, stage: RewardConfig) -> Summed:
    """The loss of each example, and the share of its pairs that are told apart.

    Args:
        rewards: (R,) of the answers of the batch.
        batch: the examples.
        stage: says which loss.
    """
    places, targets, margins, counted = (
        torch.from_numpy(array).to(rewards.device)
        for array in (batch.places, batch.targets, batch.margins, batch.counted)
    )
    there = places >= 0
    table = rewards[places.clamp(min=0)]  # (B, K)
    if not stage.ordered:
        return Summed((squared_error(table, there, targets) * counted).sum())
    if stage.loss == "plackett_luce":
        losses = plackett_luce(table, there)
    else:
        losses = bradley_terry(table, there, margins)
    losses = losses + stage.centring * centring(table, there)
    pairs = pairs_of(there)
    right = (table[:, :, None] > table[:, None, :]) & pairs
    accuracy = right.sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)
    return Summed((losses * counted).sum(), {"accuracy": (accuracy * counted).sum().detach()})


class Training(ExampleTraining[Batch]):
    """A run on ranked answers."""

    def __init__(self, config: JobConfig, published: PublishedRankings, run: Run) -> None:
        """Open the examples, make the model, and go to where the run goes on."""
        self.reward = config.section(RewardConfig)
        self.tokenizer = published.folder(run.cache) / TOKENIZER
        self.words = Tokenizer.load(self.tokenizer)
        train, self.validation = open_splits(
            Split, ARRAYS, published, run.cache, filling=self.words.end_of_text
        )
        self.held_out = scoring.HeldOut.of(self.validation, config.seed, self.reward.ordered)
        role = value_role(config, published.vocab_size)
        flops = flops_per_sample(role.model, round(published.tokens))
        about = {"chat_template": published.template}
        super().__init__(config, run, role, train, published.fingerprint, about, flops)

    def objective(self) -> Objective[Batch]:
        """The loss of each example."""
        return lambda engine, batch: loss_of(rewards_of(engine, batch), batch, self.reward)

    def position_of(self, start: Checkpoint) -> int:
        """Where the run goes on. Raises ValueError for another model or other examples."""
        return start_position(start, self.config, self.role.model, self.fingerprint, SAME)

    def look_before(self) -> None:
        """Measure the model before its first step, or read what was measured then."""
        start = self.checkpoints.start
        before = self.evaluate(0) if start is None else start.facts[FACTS][BEFORE]
        self.about = {**self.about, BEFORE: before}

    def evaluate(self, step: int) -> Metrics:
        """Measure the held-out answers, and record that. Every rank calls it."""
        metrics = self.measure()
        self.record(step, metrics)
        return metrics

    def measure(self) -> Metrics:
        """Rewards, loss and pairs told apart of the held-out answers. Every rank calls it."""
        found = np.zeros(len(self.validation.ends))

        def noted_loss(engine: Engine, batch: Batch) -> Summed:
            rewards = rewards_of(engine, batch)
            real = batch.places[batch.counted]  # what fills a batch up comes again
            own = real[real >= 0]
            found[batch.rows[own]] = rewards.double().cpu().numpy()[own]
            return loss_of(rewards, batch, self.reward)

        ranks = distributed.rank(), distributed.world_size()
        shares = evaluation(self.validation, self.config.batch.micro, *ranks)
        totals = evaluate(self.model.engine, noted_loss, shares, self.run.heart)
        self.rewards = distributed.sum_array(found, self.run.device)
        loss = {"validation/loss": totals.metrics("validation")["validation/loss"]}
        return loss | self.held_out.metrics(self.rewards)

    def tables(self) -> tuple[Table, ...]:
        """What got better since before the first step. Every rank calls it."""
        self.checkpoints.restore_best(self.model)
        before, after = self.about[BEFORE], self.measure()
        if self.reward.ordered and self.run.pictures:
            if distributed.rank() == 0:
                scoring.save_picture(self.held_out.margins(self.rewards), self.run.folder / PICTURE)
            self.run.event("artifact", path=PICTURE)
        examples = scoring.examples(self.validation, self.rewards, self.words)
        return self.held_out.table(before, after), examples
