"""Direct preference optimization on every rank: the policy learns, the reference stays as it was.

B pairs of a micro-batch, T tokens.
"""

from functools import partial

import torch
from torch import Tensor

from data import Tokenizer
from models.cost import flops_per_sample
from orchestrator.config import JobConfig, RoleConfig
from orchestrator.record.checkpoints import Checkpoint
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.stages.dpo.driver import SAME
from orchestrator.stages.dpo.pairs import ARRAYS, Batch, PublishedPreferences, Split
from orchestrator.stages.dpo.stage import DPOConfig
from orchestrator.stages.examples.feeding import evaluation
from orchestrator.stages.examples.published import open_splits
from orchestrator.stages.examples.resuming import FACTS, start_position
from orchestrator.stages.examples.training import ExampleTraining
from orchestrator.stages.language.roles import language_role
from orchestrator.stages.result import Result, Table
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.loop import Metrics, evaluate, evaluating
from orchestrator.training.objectives import Objective, Summed
from orchestrator.training.preferences import answer_logprobs, dpo, ipo
from orchestrator.training.roles import Role, build_role

BEFORE = "before"  # what a checkpoint says of the policy before training
SHOWN = {
    "loss": "loss",
    "margin": "margin over the reference, nats",
    "chosen_gain": "chosen answer against the reference, nats",
}


def optimize(config: JobConfig, inputs: PublishedPreferences, run: Run) -> Result:
    """Measure, train, save, and tell what got better. Every rank calls it."""
    training = Training(config, inputs, run)
    training.look_before()
    outcome = training.fit()
    return Result(
        stopped=outcome.stopped,
        reason=training.checkpoints.reason(outcome),
        tables=() if outcome.stopped else (training.table(),),
    )


def logprobs(engine: Engine, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log-probabilities of both answers of each pair and their tokens, (B, 2) each."""
    rows = torch.from_numpy(batch.tokens).to(engine.device)  # (2B, T+1)
    mask = torch.from_numpy(batch.answers).to(engine.device)  # (2B, T)
    losses = engine.forward(rows[:, :-1], targets=rows[:, 1:])  # (2B, T)
    return answer_logprobs(losses, mask).view(-1, 2), mask.sum(1).view(-1, 2)


def preference_loss(engine: Engine, batch: Batch, *, reference: Engine, stage: DPOConfig) -> Summed:
    """The objective: the loss of each pair.

    `accuracy` is the share of pairs whose chosen answer the policy has come to prefer more than the
    reference does, `above` that of pairs whose chosen answer is the likelier one.
    """
    with evaluating(reference):
        theirs, _ = logprobs(reference, batch)
    ours, lengths = logprobs(engine, batch)
    gains = ours - theirs  # (B, 2)
    margin = gains[:, 0] - gains[:, 1]
    if stage.loss == "dpo":
        losses = dpo(margin, stage.beta, stage.label_smoothing)
    else:
        per_token = gains / lengths
        losses = ipo(per_token[:, 0] - per_token[:, 1], stage.beta)
    counted = torch.from_numpy(batch.counted).to(engine.device)
    means = {
        "accuracy": (margin > 0) & counted,
        "above": (ours[:, 0] > ours[:, 1]) & counted,
        "margin": margin.detach() * counted,
        "chosen_gain": gains[:, 0].detach() * counted,
    }
    return Summed((losses * counted).sum(), {name: own.sum() for name, own in means.items()})


class Training(ExampleTraining[Batch]):
    """A run on preference pairs."""

    unit = "pairs"
    reference: Role

    def __init__(self, config: JobConfig, published: PublishedPreferences, run: Run) -> None:
        """Open the pairs, make both models, and go to where the run goes on."""
        self.published, self.dpo = published, config.section(DPOConfig)
        self.tokenizer = published.folder(run.cache) / TOKENIZER
        end = Tokenizer.load(self.tokenizer).end_of_text
        train, self.validation = open_splits(Split, ARRAYS, published, run.cache, filling=end)
        role = language_role(config, published.vocab_size)
        flops = flops_per_sample(role.model, round(2 * published.tokens))
        about = {"chat_template": published.template}
        super().__init__(config, run, role, train, published.fingerprint, about, flops)

    def make(self, role: RoleConfig) -> None:
        """Make the policy, as it is where the run goes on, and the reference, as it always is."""
        super().make(role)
        self.reference = build_role(
            "reference",
            language_role(self.config, self.published.vocab_size, "reference"),
            device=self.run.device,
            seed=self.config.seed,
            micro_batch=2 * self.config.batch.micro,
        )

    def objective(self) -> Objective[Batch]:
        """The loss of each pair."""
        return partial(preference_loss, reference=self.reference.engine, stage=self.dpo)

    def position_of(self, start: Checkpoint) -> int:
        """Where the run goes on. Raises ValueError for another model or other pairs."""
        return start_position(start, self.config, self.role.model, self.fingerprint, SAME)

    def look_before(self) -> None:
        """Measure the policy before its first step, or read what was measured then."""
        start = self.checkpoints.start
        before = self.evaluate(0) if start is None else start.facts[FACTS][BEFORE]
        self.about = {**self.about, BEFORE: before}

    def evaluate(self, step: int) -> Metrics:
        """Measure the held-out pairs, and record that. Every rank calls it."""
        metrics = self.measure()
        self.record(step, metrics)
        return metrics

    def measure(self) -> Metrics:
        """Loss, margin and pairs told apart over the held-out pairs. Every rank calls it."""
        ranks = distributed.rank(), distributed.world_size()
        shares = evaluation(self.validation, self.config.batch.micro, *ranks)
        totals = evaluate(self.model.engine, self.objective(), shares, self.run.heart)
        return totals.metrics("validation")

    def table(self) -> Table:
        """What got better since before the first step. Every rank calls it."""
        self.checkpoints.restore_best(self.model)
        before, after, number = self.about[BEFORE], self.measure(), len(self.validation)
        likelier = (_share(own["validation/above"], number) for own in (before, after))
        rows = [("chosen answer likelier", *likelier)]
        for name, label in SHOWN.items():
            values = (f"{own[f'validation/{name}']:.3f}" for own in (before, after))
            rows.append((label, *values))
        columns = (f"{number:,} held-out pairs", "before", "after")
        return Table("preferences_before_and_after", columns, tuple(rows), bold=0)


def _share(value: float, number: int) -> str:
    """A share with its interval by Wilson 1927."""
    from scipy.stats import binomtest

    found = binomtest(round(value * number), number).proportion_ci(method="wilson")
    return f"{value:.1%} ({found.low:.1%} to {found.high:.1%})"
