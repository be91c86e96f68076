"""Direct preference optimization on every rank: the policy learns, the reference stays as it was.

B pairs of a micro-batch, T tokens.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from data import Tokenizer
from models.cost import flops_per_sample
from orchestrator.config import JobConfig, RoleConfig
from orchestrator.record.checkpoints import Checkpoint
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.stages.dpo import scoring
from orchestrator.stages.dpo.driver import SAME
from orchestrator.stages.dpo.pairs import ARRAYS, Batch, PublishedPreferences, Split
from orchestrator.stages.dpo.reference import Reference, live, logprobs, looked_up, precomputed
from orchestrator.stages.dpo.stage import DPOConfig
from orchestrator.stages.examples.feeding import evaluation
from orchestrator.stages.examples.published import open_splits
from orchestrator.stages.examples.resuming import FACTS, start_position
from orchestrator.stages.examples.training import ExampleTraining
from orchestrator.stages.language.roles import language_role
from orchestrator.stages.result import Result, Table, share
from orchestrator.stages.rewards import RULES
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.loop import Metrics, evaluate, evaluating
from orchestrator.training.objectives import Objective, Summed
from orchestrator.training.patience import EVALUATION, SAMPLING
from orchestrator.training.preferences import dpo, ipo, kto, orpo, simpo
from orchestrator.training.roles import Role, build_role

BEFORE, ANSWERS = "before", "answers"  # what a checkpoint says of the policy before training
SHOWN = {
    "loss": "loss",
    "margin": "margin, nats",
    "chosen_gain": "chosen answer against the reference, nats",
}


def optimize(config: JobConfig, inputs: PublishedPreferences, run: Run) -> Result:
    """Measure, train, save, and tell what got better. Every rank calls it."""
    training = Training(config, inputs, run)
    training.look_before()
    outcome = training.fit()
    tables, notices = ((), ()) if outcome.stopped else training.outcome()
    return Result(
        stopped=outcome.stopped,
        reason=training.checkpoints.reason(outcome),
        tables=tables,
        notices=notices,
    )


def preference_loss(
    engine: Engine, batch: Batch, *, reference: Reference | None, stage: DPOConfig
) -> Summed:
    """The objective: the loss of each pair.

    `accuracy` is the share of pairs whose chosen answer the policy has come to prefer more than the
    reference does, or prefers per token where there is no reference; `above` that of pairs whose
    chosen answer is the likelier one.
    """
    assert stage.beta is not None  # filled in
    ours, lengths = logprobs(engine, batch)
    counted = torch.from_numpy(batch.counted).to(engine.device)
    means = {"above": ours[:, 0] > ours[:, 1]}
    if reference is None:
        per_token = ours / lengths
        margin = per_token[:, 0] - per_token[:, 1]
        if stage.loss == "simpo":
            losses = simpo(ours, lengths, stage.beta, stage.gap)
        else:
            losses = orpo(ours, lengths, stage.beta)
    else:
        gains = ours - reference(batch)  # (B, 2)
        margin = gains[:, 0] - gains[:, 1]
        means["chosen_gain"] = gains[:, 0].detach()
        if stage.loss == "dpo":
            losses = dpo(margin, stage.beta, stage.label_smoothing)
        elif stage.loss == "kto":
            assert batch.kl is not None
            losses = kto(gains, gains.new_tensor(batch.kl), stage.beta)
        else:
            per_token = gains / lengths
            losses = ipo(per_token[:, 0] - per_token[:, 1], stage.beta)
    means |= {"accuracy": margin > 0, "margin": margin.detach()}
    return Summed(
        (losses * counted).sum(), {name: (own * counted).sum() for name, own in means.items()}
    )


def with_kl(engine: Engine, reference: Reference, batches: list[Batch]) -> list[Batch]:
    """Micro-batches with how far the policy is from the reference. Every rank calls it.

    The mean over all of them and all ranks, so that the loss of a step does not depend on how it
    is cut; each rank makes as many passes, also one none of whose pairs counts.
    """
    total = 0.0
    with evaluating(engine):
        for batch in batches:
            assert batch.strangers is not None
            ours, _ = logprobs(engine, batch.strangers)
            gains = (ours - reference(batch.strangers)).double().sum(1) / 2  # (B,)
            total += float((gains * torch.from_numpy(batch.counted).to(engine.device)).sum())
    weight = float(sum(batch.weight for batch in batches))
    total, weight = distributed.sum_over_ranks([total, weight], engine.device)
    kl = max(total / max(weight, 1.0), 0.0)
    return [replace(batch, kl=kl) for batch in batches]


class Training(ExampleTraining[Batch]):
    """A run on preference pairs."""

    unit = "pairs"
    frozen: Role | None = None
    """The reference, where it is live."""

    def __init__(self, config: JobConfig, published: PublishedPreferences, run: Run) -> None:
        """Open the pairs, make both models, and go to where the run goes on."""
        self.published, self.dpo = published, config.section(DPOConfig)
        self.tokenizer = published.folder(run.cache) / TOKENIZER
        self.words, most = Tokenizer.load(self.tokenizer), self.dpo.sequence_length
        splits = open_splits(
            Split,
            ARRAYS,
            published,
            run.cache,
            filling=self.words.end_of_text,
            most_tokens=most,
            with_strangers=self.dpo.loss == "kto",
        )
        if published.reference is not None:
            role = language_role(config, published.vocab_size, "reference")
            place, weights = published.reference
            splits = precomputed(
                splits,
                [published.fingerprint, weights],
                replace(role, model=replace(role.model, weights=place)),
                config.seed,
                config.batch.micro,
                run,
            )
        train, self.validation = splits
        texts = published.held_out(run.cache)
        self.questions = scoring.Questions.of(self.validation, texts, self.dpo.answered, most)
        role = language_role(config, published.vocab_size)
        flops = flops_per_sample(role.model, round(2 * published.tokens))
        about = {"chat_template": published.template}
        super().__init__(config, run, role, train, published.fingerprint, about, flops)

    def make(self, role: RoleConfig) -> None:
        """Make the policy, as it is where the run goes on, and a live reference, as ever."""
        super().make(role)
        self.reference: Reference | None = looked_up(self.run.device) if self.dpo.compares else None
        if self.dpo.live:
            self.frozen = build_role(
                "reference",
                language_role(self.config, self.published.vocab_size, "reference"),
                device=self.run.device,
                seed=self.config.seed,
                micro_batch=2 * self.config.batch.micro,
            )
            self.reference = live(self.frozen.engine)

    def objective(self) -> Objective[Batch]:
        """The loss of each pair."""
        return partial(preference_loss, reference=self.reference, stage=self.dpo)

    def batches(self) -> Iterator[list[Batch]]:
        """The micro-batches of each step, with what the loss needs of them together."""
        for step in super().batches():
            yield self.joined(step)

    def joined(self, batches: list[Batch]) -> list[Batch]:
        """Micro-batches whose loss is one mean, with what it needs of all of them."""
        if self.dpo.loss != "kto":
            return batches
        assert self.reference is not None
        return with_kl(self.model.engine, self.reference, batches)

    def position_of(self, start: Checkpoint) -> int:
        """Where the run goes on. Raises ValueError for another model or other pairs."""
        return start_position(start, self.config, self.role.model, self.fingerprint, SAME)

    def look_before(self) -> None:
        """Measure the policy before its first step, or read what was measured then."""
        start = self.checkpoints.start
        if start is not None:
            before = start.facts[FACTS][BEFORE]
        else:
            before = self.evaluate(0) | {ANSWERS: self.answers()}
        self.about = {**self.about, BEFORE: before}

    def evaluate(self, step: int) -> Metrics:
        """Measure the held-out pairs, and record that. Every rank calls it."""
        metrics = self.measure()
        self.record(step, metrics)
        return metrics

    def measure(self) -> Metrics:
        """Loss, margin and pairs told apart over the held-out pairs. Every rank calls it."""
        self.run.heart.beat(EVALUATION)
        ranks = distributed.rank(), distributed.world_size()
        shares = self.joined(list(evaluation(self.validation, self.config.batch.micro, *ranks)))
        totals = evaluate(self.model.engine, self.objective(), shares, self.run.heart)
        return totals.metrics("validation")

    def answers(self) -> list[list[int]]:
        """What the policy answers to the held-out questions, in tokens. Every rank calls it."""
        self.run.heart.beat(SAMPLING)
        return scoring.answer(self.model.engine, self.questions, self.config.seed)

    def outcome(self) -> tuple[tuple[Table, ...], tuple[str, ...]]:
        """What got better since before the first step, and what to know of it. Every rank calls
        it.
        """
        self.checkpoints.restore_best(self.model)
        before, after, number = self.about[BEFORE], self.measure(), len(self.validation)
        likelier = (share(own["validation/above"], number) for own in (before, after))
        rows = [("chosen answer likelier", *likelier)]
        for name, label in SHOWN.items():
            if f"validation/{name}" in after:
                values = (f"{own[f'validation/{name}']:.3f}" for own in (before, after))
                rows.append((label, *values))
        columns = (f"{number:,} held-out pairs", "before", "after")
        table = Table("preferences_before_and_after", columns, tuple(rows), bold=0)
        if not self.questions.prompts:
            return (table,), ()
        answered, notices = self._answered(before[ANSWERS], self.answers())
        return (table, *answered), notices

    def _answered(
        self, before: list[list[int]], after: list[list[int]]
    ) -> tuple[tuple[Table, ...], tuple[str, ...]]:
        """The policy's own answers: reward, distance from the reference, and a few of them."""
        seed, own = self.config.seed, self.questions
        texts = [scoring.texts(answers, self.words) for answers in (before, after)]
        rows: list[tuple[str, ...]] = []
        metrics: Metrics = {}
        if self.dpo.data is None:
            old, new = (scoring.rewards(RULES[self.dpo.rule], own, given) for given in texts)
            shown = (scoring.told(scoring.interval(values, seed)) for values in (old, new))
            rows.append((f"reward by {self.dpo.rule}", *shown))
            gain = scoring.interval(new - old, seed)
            rows.append(("its gain", "", scoring.told(gain, "{:+.3f}")))
            names = ("reward_gain", "reward_gain_low", "reward_gain_high")
            metrics = {"answers/reward": float(new.mean())}
            metrics |= {f"answers/{name}": x for name, x in zip(names, gain, strict=True)}
        notices: tuple[str, ...] = ()
        if self.frozen is not None:
            apart = scoring.divergences(self.model.engine, self.frozen.engine, own, after)
            found = scoring.interval(apart, seed)
            rows.append(("distance from the reference (KL), nats", "", scoring.told(found)))
            metrics["answers/kl"] = found[0]
            most = self.dpo.kl_limit
            if most is not None and found[0] > most:
                notices = (
                    f"the policy ended {found[0]:.1f} nats per answer from the reference, beyond "
                    f"stage.kl_limit={most}; try a larger stage.beta, or fewer stage.steps",
                )
        self.record(self.stage.steps, metrics)
        columns = (f"{len(after)} answers to held-out questions", "before", "after")
        tables = [scoring.examples(own, *texts)]
        if rows:
            tables.insert(0, Table("answers_before_and_after", columns, tuple(rows), bold=0))
        return tuple(tables), notices
