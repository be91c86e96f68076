"""A run in which a policy learns from its own answers: its parts, its loop, its evaluation.

A step, on every rank: `ask` lets the policy answer prompts, `judge` has the other models and the
reward look at the answers, the stage turns that into advantages, and `update` takes optimizer
steps. A checkpoint is made between steps, and what is drawn follows from seed and number of an
answer alone: who goes on from it draws the same answers.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import Tokenizer
from orchestrator.config import JobConfig, RoleConfig
from orchestrator.record.checkpoints import Checkpoint
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.stages.examples.resuming import FACTS, account, start_position
from orchestrator.stages.examples.training import ExampleTraining
from orchestrator.stages.language.roles import language_role
from orchestrator.stages.result import Result
from orchestrator.stages.rewards import RULES
from orchestrator.stages.rollouts import keeping
from orchestrator.stages.rollouts.asking import Asking, Wanted, asking, wanted
from orchestrator.stages.rollouts.clock import StepClock
from orchestrator.stages.rollouts.driving import SAME, flops_per_answer, rollout_role
from orchestrator.stages.rollouts.engines import Engines, rollout_engines
from orchestrator.stages.rollouts.measuring import measure
from orchestrator.stages.rollouts.outcome import Measured, tables
from orchestrator.stages.rollouts.prompts import PublishedPrompts, Questions, open_split
from orchestrator.stages.rollouts.section import RolloutConfig
from orchestrator.stages.rollouts.updating import (
    Asked,
    Experience,
    Updates,
    kl_of_an_answer,
    mean_over_tokens,
)
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.kl import kl_estimate
from orchestrator.training.loop import Metrics, Schedule, Trained, once_an_epoch
from orchestrator.training.own_work import OwnWork
from orchestrator.training.patience import END, STEP
from orchestrator.training.roles import Role, build_role
from orchestrator.training.rollout import Rollout, sample, token_logprobs

BEFORE, UPDATES = "before", "updates"  # what a checkpoint says of the policy, and of its optimizer
BEGUN = "begun"  # and answers to the next step's prompts, if they were written before


class RanAway(RuntimeError):
    """A policy is too far from its reference, or a reward is no number; raised on every rank."""


class RolloutTraining(ExampleTraining[Questions]):
    """A run of rollouts and updates; a stage adds what it makes of a judged rollout."""

    unit = "answers"
    copies = 1
    """Answers to each prompt."""
    reference: Role
    engines: Engines | None = None
    """Those that write the answers. None: the policy itself."""

    def __init__(self, config: JobConfig, published: PublishedPrompts, run: Run) -> None:
        """Open the prompts, make the models, and go to where the run goes on."""
        self.published, self.settings = published, config.section(RolloutConfig)
        self.tokenizer = published.folder(run.cache) / TOKENIZER
        self.tokens = Tokenizer.load(self.tokenizer)
        train, validation = (
            open_split(published, name, run.cache) for name in ("train", "validation")
        )
        self.validation = validation.spread(self.settings.validation_prompts)
        self.updates_done, self.clock = 0, StepClock()
        super().__init__(
            config, run, language_role(config, published.vocab_size), train, published.fingerprint,
            {"chat_template": published.template}, flops_per_answer(config, published),
        )  # fmt: skip
        self.own_work = OwnWork(run.device)
        self.update_policy = self.updates_of(self.model)

    def make(self, role: RoleConfig) -> None:
        """Make the policy, as it is where the run goes on, and the reference, as it always is."""
        start = self.checkpoints.start
        if start is not None:
            self.updates_done = start.facts[FACTS][UPDATES]
        self.model = self.trained_role("model", role)
        self.reference = self.frozen_role("reference")

    def trained_role(self, name: str, role: RoleConfig) -> Role:
        """A model that is updated, as it is where the run goes on."""
        return self.checkpoints.build(name, role, self.config, self.updates_done)

    def frozen_role(self, name: str) -> Role:
        """A model that stays as it was saved."""
        return build_role(
            name,
            rollout_role(self.config, self.published.vocab_size, name),
            device=self.run.device,
            seed=self.config.seed,
            micro_batch=self.config.batch.micro,
        )

    def updates_of(self, role: Role) -> Updates:
        """What takes the optimizer steps of a role."""
        before = self.checkpoints.before_update
        return Updates(role.engine, self.config.seed, before, self.own_work)

    def position_of(self, start: Checkpoint) -> int:
        """Where the run goes on. Raises ValueError for another model or other prompts."""
        return start_position(start, self.config, self.role.model, self.fingerprint, SAME)

    def take(self, step: int, rate: float) -> Metrics:
        """A rollout and the updates by it, at this learning rate. Every rank calls it."""
        raise NotImplementedError

    # The parts of a step

    def ask(self, step: int) -> Asked:
        """Let the policy answer this step's prompts."""
        asking = self.asking(self.position)
        with self.clock("rollout"):
            if self.engines is None:
                written = self.write(asking.questions, asking.copies, asking.numbers, "train")
            else:
                written = self.write_ahead(step, asking)
        rollout = written.at(torch.from_numpy(np.argsort(asking.order)).to(self.run.device))
        texts = [self.tokens.decode(row) for row in rollout.answers(self.tokens.end_of_text)]
        prompts = [asking.questions.texts[place] for place in asking.index]
        return Asked(asking.ids, prompts, rollout, texts)

    def asking(self, position: int) -> Asking:
        """What this rank asks at this position."""
        return asking(self.config, self.train, self.order, position, self.copies)

    def write_ahead(self, step: int, asked: Asking) -> Rollout:
        """A step's answers by engines, and the next one's begun, if that is off policy."""
        assert self.engines is not None
        wanted = self.wanted(asked.questions, asked.copies, asked.numbers, "train")
        if not self.engines.busy:
            self.engines.sync(self.model, self.updates_done)
            self.engines.begin(wanted)
        written = self.engines.take(wanted)
        if self.settings.off_policy_steps and step < self.settings.steps:
            self.engines.sync(self.model, self.updates_done)
            later = self.asking(self.position + self.config.batch.step // self.copies)
            self.engines.begin(self.wanted(later.questions, later.copies, later.numbers, "train"))
        return written

    def write(
        self, questions: Questions, copies: list[int], numbers: list[int], split: str
    ) -> Rollout:
        """Answers to prompts, each from the seed that its number and the split give."""
        wanted = self.wanted(questions, copies, numbers, split)
        if self.engines is not None:
            with self.engines.aside():
                self.engines.sync(self.model, self.updates_done)
                self.engines.begin(wanted)
                return self.engines.take(wanted)
        return sample(
            self.model,
            questions.tokens,
            copies,
            [own.seed for own in wanted],
            most_tokens=self.settings.answer_tokens,
            temperature=self.settings.temperature,
            end=self.tokens.end_of_text,
            micro=self.config.batch.micro,
        )

    def wanted(
        self, questions: Questions, copies: list[int], numbers: list[int], split: str
    ) -> list[Wanted]:
        """Answers that are to be written."""
        return wanted(questions.tokens, copies, numbers, f"{split} {self.config.seed}")

    def logprobs(self, role: Role, rollout: Rollout) -> Tensor:
        """What a model says of the tokens of answers, (B, T)."""
        temperature, micro = self.settings.temperature, self.config.batch.micro
        return token_logprobs(role.engine, rollout, temperature, micro)

    def judge(self, step: int, asked: Asked) -> Experience:
        """The rewards of answers and what policy and reference say of them; advantages are 0.

        Raises:
            RanAway: on every rank, naming the step.
        """
        rollout = asked.rollout
        with self.clock("scoring"):
            old, reference = (self.logprobs(own, rollout) for own in (self.model, self.reference))
        rewards = torch.tensor(self.rewards(asked), device=self.run.device)
        found = Experience(rollout, rewards, old, reference, torch.zeros_like(old))
        bad = [int(n) for n in asked.ids[~rewards.isfinite().cpu().numpy()]]
        if bad := sorted(n for own in distributed.gather_objects(bad) for n in own):
            raise RanAway(
                f"the reward of {len(bad)} answers of step {step} is no number, the first is that "
                f"of answer {bad[0]}; look at what gives it"
            )
        limit, kl = self.settings.kl_limit, mean_over_tokens(found.kl, rollout.mask)
        if limit is not None and not kl <= limit:
            raise RanAway(
                f"the policy of step {step} is {kl:.4g} nats a token away from its reference, "
                f"beyond stage.kl_limit={limit:g}; lower optim.learning_rate, or raise "
                f"stage.kl_coefficient={self.settings.kl_coefficient:g}"
            )
        return found

    def rewards(self, asked: Asked) -> list[float]:
        """Of each answer, by the rule."""
        rule = RULES[self.settings.rule]
        pairs = zip(asked.prompts, asked.texts, strict=True)
        return [rule(prompt, text, reference) for (prompt, reference), text in pairs]

    def told(self, step: int, asked: Asked, experience: Experience) -> Metrics:
        """Keep the answers of a step; what the record says of them. Every rank calls it."""
        rollout, mask, device = asked.rollout, asked.rollout.mask, self.run.device
        self.keep(step, asked, experience)
        apart = (experience.old - rollout.sampled).abs().exp()
        sums = (float(x.sum()) for x in (experience.rewards, mask, rollout.ended))
        found = distributed.sum_over_ranks([len(asked.ids), *sums], device)
        count, rewards, tokens, ended = found
        return {
            "train/reward": rewards / count,
            "train/kl": mean_over_tokens(experience.kl, mask),
            "train/kl_of_an_answer": kl_of_an_answer(experience),
            "train/answer_tokens": tokens / count,
            "train/ended": ended / count,
            "train/sampler_mismatch": mean_over_tokens(apart, mask),
        }

    def keep(self, step: int, asked: Asked, experience: Experience) -> None:
        """Put the answers of all ranks into the run folder. Every rank calls it."""
        rows = keeping.rows_of(asked, experience, self.tokens)
        every = distributed.gather_on_rank_0(rows)
        if every is not None:
            if self.run.fence is not None:
                self.run.fence.check()
            whole = sorted((row for own in every for row in own), key=itemgetter("answer_id"))
            keeping.write(self.run.folder, step, whole)

    # The loop around the steps

    @property
    def schedule(self) -> Schedule:
        """When what is due; an epoch is over when each prompt was asked once."""
        found = super().schedule
        if self.stage.evaluate_every is None:
            asked = self.config.batch.step // self.copies
            return replace(found, evaluate_at=once_an_epoch(len(self.train), asked))
        return found

    def loop(self, from_step: int) -> Trained:
        """Take the steps after this one; see `fit` in training/loop.py, whose order this keeps."""
        schedule, heart, checkpoints = self.schedule, self.run.heart, self.checkpoints
        batch, device = self.config.batch.step, self.run.device
        step = saved_step = from_step
        trained, seconds, saved_at, exhausted = 0.0, 0.0, time.monotonic(), False
        for step in range(from_step + 1, schedule.steps + 1):
            heart.beat(STEP, step)
            begun = time.perf_counter()
            minutes = schedule.save_minutes
            late = minutes is not None and time.monotonic() - saved_at >= 60 * minutes
            stop, overdue = distributed.sum_over_ranks([checkpoints.should_stop(), late], device)
            if stop:
                step -= 1
                break
            rate = schedule.learning_rate(step)
            metrics = self.take(step, rate)
            heart.worked(step, self.own_work.take())
            self.position += batch // self.copies
            self.updates_done += self.settings.updates
            took = time.perf_counter() - begun
            trained, seconds = trained + batch, seconds + took
            spent = checkpoints.spent
            spent.add(batch, self.flops_per_example * batch, took)
            if self.engines is not None:
                metrics |= self.engines.idle(took)
            self.log(
                step,
                metrics
                | {
                    "train/learning_rate": rate,
                    "train/answers_per_second": batch / took,
                    "train/answers": spent.weight,
                    "train/flops": spent.flops,
                    "train/seconds": spent.seconds,
                    **self.clock.take(took),
                },
            )
            due = schedule.save_at(step) or bool(overdue) or step == schedule.steps
            if schedule.evaluate_at(step) or step == schedule.steps:
                measured = self.evaluate(step)
                selection = checkpoints.selection
                if selection is not None:
                    best = selection.take(step, measured)
                    exhausted = selection.exhausted
                    due |= exhausted or (best and schedule.save_best)
            if due:
                self.save(step)
                saved_step, saved_at = step, time.monotonic()
            if exhausted:
                break
        if saved_step != step:
            self.save(step)
        heart.beat(END)
        early = step < schedule.steps
        return Trained(step, trained, seconds, early and not exhausted, early and exhausted)

    def save(self, step: int) -> None:
        """Begin to publish the checkpoint of this step. Every rank calls it."""
        about = {**self.about, UPDATES: self.updates_done, **self.state}
        if self.settings.off_policy_steps and self.engines is not None:
            about[BEGUN] = self.engines.state
        self.checkpoints.save(
            step,
            self.trained_roles,
            self.tokenizer,
            {FACTS: account(self.config, self.fingerprint, self.position, about)},
            self.latest,
            data_cursor=self.position,
        )

    @property
    def trained_roles(self) -> tuple[Role, ...]:
        """Those that a checkpoint keeps, the policy first."""
        return (self.model,)

    @property
    def state(self) -> Mapping[str, Any]:
        """What a checkpoint says besides, so that a run goes on as it would have."""
        return {}

    def carry_out(self) -> Result:
        """Measure, learn, save, and tell what got better. Every rank calls it."""
        if not self.settings.engines:
            self.look_before()
            return self.result(self.fit())
        end, start = self.tokens.end_of_text, self.checkpoints.start
        with rollout_engines(self.config, self.run, self.model, end) as self.engines:
            if start is not None and self.settings.off_policy_steps:
                self.engines.go_on(start.facts[FACTS].get(BEGUN))
            self.look_before()
            return self.result(self.fit())

    def look_before(self) -> None:
        """Measure the policy before its first step, or read what was measured then."""
        start = self.checkpoints.start
        before = self.measure().plain if start is None else start.facts[FACTS][BEFORE]
        self.about = {**self.about, BEFORE: before}
        if start is None:
            self.record(0, Measured(**before).metrics)

    def evaluate(self, step: int) -> Metrics:
        """Measure the policy on held-out prompts, and record that. Every rank calls it."""
        self.measured = self.measure()
        self.record(step, self.measured.metrics)
        path = keeping.file_of(self.run.folder, step).relative_to(self.run.folder)
        self.run.event("artifact", path=str(path), artifact_path=keeping.FOLDER)
        return self.measured.metrics

    def measure(self) -> Measured:
        """An answer to each held-out prompt, always from the same seeds. Every rank calls it."""

        def write(asked: Questions) -> Rollout:
            numbers = asked.sample_ids.tolist()
            return self.write(asked, [1] * len(numbers), numbers, "validation")

        def kl(found: Rollout) -> Tensor:
            ours, theirs = (self.logprobs(own, found) for own in (self.model, self.reference))
            return kl_estimate(ours, theirs, "k3") * found.mask

        return measure(
            self.validation, RULES[self.settings.rule], self.tokens,
            write=write, kl=kl, micro=self.config.batch.micro, heart=self.run.heart,
        )  # fmt: skip

    def result(self, outcome: Trained) -> Result:
        """What the run gives back. Every rank calls it."""
        reason = self.checkpoints.reason(outcome)
        if outcome.stopped:
            return Result(stopped=True, reason=reason)
        restored = self.checkpoints.restore_best(self.model)
        if restored and self.engines is not None:
            self.engines.forget()
        after = self.measure() if restored else self.measured
        found = tables(
            Measured(**self.about[BEFORE]),
            after,
            self.validation.texts,
            rule=self.settings.rule,
            kl_limit=self.settings.kl_limit,
            seed=self.config.seed,
        )
        return Result(reason=reason, tables=found)
