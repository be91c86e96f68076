"""A run in which a policy learns from its own answers: its models, a step's parts, its evaluation.

A step, on every rank: `ask` lets the policy answer prompts, `judge` has the other models and the
reward look at the answers, the stage turns that into advantages, and `update` takes optimizer
steps. A checkpoint is made between steps, and what is drawn follows from seed and number of an
answer alone: who goes on from it draws the same answers.
"""

from collections import deque
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data import Tokenizer, open_published
from orchestrator.config import JobConfig, RoleConfig
from orchestrator.record.checkpoints import Checkpoint
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.stages.examples.resuming import FACTS, start_position
from orchestrator.stages.language.roles import language_role
from orchestrator.stages.result import Result
from orchestrator.stages.rewards import RULES
from orchestrator.stages.rollouts import judging, keeping, recording
from orchestrator.stages.rollouts.asking import Asking, Wanted, asking, wanted
from orchestrator.stages.rollouts.clock import StepClock
from orchestrator.stages.rollouts.driving import SAME, flops_per_answer, rollout_role
from orchestrator.stages.rollouts.engines import rollout_engines
from orchestrator.stages.rollouts.looping import BEGUN, KLS, UPDATES, RolloutLoop
from orchestrator.stages.rollouts.measuring import measure
from orchestrator.stages.rollouts.outcome import Measured, gain_metrics, tables
from orchestrator.stages.rollouts.pretraining import Text
from orchestrator.stages.rollouts.prompts import PublishedPrompts, Questions, open_split
from orchestrator.stages.rollouts.section import REWARD, RolloutConfig
from orchestrator.stages.rollouts.updating import (
    Asked,
    Experience,
    Updates,
    mean_over_tokens,
)
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.averaging import EMA, MovingAverage
from orchestrator.training.checkpoint import open_role
from orchestrator.training.kl import kl_estimate
from orchestrator.training.loop import Metrics, Trained
from orchestrator.training.own_work import OwnWork
from orchestrator.training.roles import Role, build_role
from orchestrator.training.rollout import Rollout, sample, step_ids, token_logprobs

BEFORE = "before"  # what a checkpoint says of the policy before training


class RolloutTraining(RolloutLoop):
    """A run of rollouts and updates; a stage adds what it makes of a judged rollout."""

    reference: Role

    def __init__(self, config: JobConfig, published: PublishedPrompts, run: Run) -> None:
        """Open the prompts, make the models, and go to where the run goes on."""
        self.published, self.settings = published, config.section(RolloutConfig)
        self.tokenizer = published.folder(run.cache) / TOKENIZER
        self.tokens = Tokenizer.load(self.tokenizer)
        train, validation = (
            open_split(published, name, run.cache) for name in ("train", "validation")
        )
        self.validation = validation.spread(self.settings.validation_prompts)
        self.clock = StepClock()
        super().__init__(
            config, run, language_role(config, published.vocab_size), train, published.fingerprint,
            {"chat_template": published.template}, flops_per_answer(config, published),
        )  # fmt: skip
        self.own_work = OwnWork(run.device)
        after = None if self.average is None else self.average.update
        self.update_policy = self.updates_of(self.model, after=after, text=self.text)

    def make(self, role: RoleConfig) -> None:
        """Make the policy, as it is where the run goes on, and the reference, as it always is."""
        start = self.checkpoints.start
        self.kls = deque(maxlen=judging.KL_STEPS)
        if start is not None:
            self.updates_done = start.facts[FACTS][UPDATES]
            self.kls.extend(start.facts[FACTS].get(KLS, ()))
        if self.published.text is not None:
            prepared = open_published(self.published.text, self.run.cache)
            self.text = Text(self.config, prepared, start)
        self.model = self.trained_role("model", role, passes=1 if self.text is None else 2)
        if self.settings.ema_decay is not None:
            begun = start is not None and EMA in start.roles
            saved = open_role(start, EMA) if start is not None and begun else None
            self.average = MovingAverage(self.model, self.settings.ema_decay, saved)
        self.reference = self.frozen_role("reference")
        given = REWARD in self.config.role_names
        self.reward_model = self.frozen_role(REWARD) if given else None

    def trained_role(self, name: str, role: RoleConfig, passes: int = 1) -> Role:
        """A model that is updated, as it is where the run goes on.

        An optimizer step takes so many passes for each micro-batch of answers.
        """
        steps = passes * self.config.batch.accumulation_steps
        return self.checkpoints.build(name, role, self.config, self.updates_done, steps)

    def frozen_role(self, name: str) -> Role:
        """A model that stays as it was saved."""
        return build_role(
            name,
            rollout_role(self.config, self.published.vocab_size, name),
            device=self.run.device,
            seed=self.config.seed,
            micro_batch=self.config.batch.micro,
        )

    def updates_of(self, role: Role, **more: Any) -> Updates:
        """What takes the optimizer steps of a role; `more` as `Updates` takes it."""
        before = self.checkpoints.before_update
        return Updates(role.engine, self.config.seed, self.own_work, before=before, **more)

    def position_of(self, start: Checkpoint) -> int:
        """Where the run goes on. Raises ValueError for another model or other prompts."""
        return start_position(start, self.config, self.role.model, self.fingerprint, SAME)

    # The parts of a step

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """(B,): those of this rank's answers among all of a step."""
        batch, mini_batches = self.config.batch, self.settings.mini_batches
        ranks = distributed.rank(), distributed.world_size()
        return step_ids(1, batch.step, mini_batches, batch.micro, *ranks)

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
            rewards = self.rewards(asked)
        if self.settings.corrects and not self.settings.off_policy_steps:
            apart = (old - rollout.sampled).abs().exp()
            judging.check_sampler(step, mean_over_tokens(apart, rollout.mask))
        judging.check_rewards(step, asked.ids, rewards)
        found = Experience(rollout, rewards, old, reference, torch.zeros_like(old))
        self.kls.append(mean_over_tokens(found.kl, rollout.mask))
        judging.check_distance(step, self.kls, self.settings)
        return found

    def rewards(self, asked: Asked) -> Tensor:
        """Of each answer, fp32 (B,)."""
        if self.reward_model is None:
            return self.true_rewards(asked)
        return judging.by_model(self.reward_model, asked.rollout, self.config.batch.micro)

    def true_rewards(self, asked: Asked) -> Tensor:
        """By the rule, of each answer, fp32 (B,)."""
        return judging.by_rule(RULES[self.settings.rule], asked, self.run.device)

    def told(self, step: int, asked: Asked, experience: Experience) -> Metrics:
        """Keep the answers of a step; what the record says of them. Every rank calls it."""
        every = distributed.gather_on_rank_0(keeping.rows_of(asked, experience, self.tokens))
        if every is not None:
            if self.run.fence is not None:
                self.run.fence.check()
            keeping.write(self.run.folder, step, [row for own in every for row in own])
        told = recording.metrics(experience)
        if self.text is not None:
            told["train/ptx_tokens"] = float(self.text.tokens)
        if self.reward_model is not None:
            told["train/true_reward"] = recording.mean_over_answers(self.true_rewards(asked))
        return told

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
        if distributed.rank() == 0:
            kept = keeping.file_of(self.run.folder, step)
            shown = keeping.write_shown(kept)
            for path in (kept, shown):
                place, name = keeping.FOLDER, f"{keeping.FOLDER}/{path.name}"
                self.run.event("artifact", path=name, artifact_path=place, table=path == shown)
        return self.measured.metrics

    def measure(self) -> Measured:
        """An answer to each held-out prompt, always from the same seeds. Every rank calls it."""

        def write(asked: Questions) -> Rollout:
            numbers = asked.sample_ids.tolist()
            return self.write(asked, [1] * len(numbers), numbers, "validation")

        def kl(found: Rollout) -> Tensor:
            ours, theirs = (self.logprobs(own, found) for own in (self.model, self.reference))
            return kl_estimate(ours, theirs, "k3") * found.mask

        scorer, micro = self.reward_model, self.config.batch.micro
        return measure(
            self.validation, RULES[self.settings.rule], self.tokens, write=write, kl=kl,
            learned=None if scorer is None else lambda own: judging.by_model(scorer, own, micro),
            micro=micro, heart=self.run.heart,
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
        before, averaged = Measured(**self.about[BEFORE]), self.measure_average(outcome.step)
        self.record(outcome.step, gain_metrics(before, after, self.config.seed))
        found = tables(
            before,
            after,
            self.validation.texts,
            rule=self.settings.rule,
            kl_limit=self.settings.kl_limit,
            seed=self.config.seed,
            averaged=averaged,
        )
        return Result(reason=reason, tables=found)

    def measure_average(self, step: int) -> Measured | None:
        """The averaged weights that were saved, in the place of the policy's; None: there are none.

        Every rank calls it, after training.
        """
        if self.average is None:
            return None
        self.checkpoints.take_over(self.model, EMA)
        if self.engines is not None:
            self.engines.forget()
        found = self.measure()
        names = {f"{EMA}/{name.rpartition('/')[2]}": x for name, x in found.metrics.items()}
        self.record(step, names)
        return found
