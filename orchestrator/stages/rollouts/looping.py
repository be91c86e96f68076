"""The loop of a run whose steps are rollouts, each followed by the updates by it."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.stages.examples.resuming import FACTS, account
from orchestrator.stages.examples.training import ExampleTraining
from orchestrator.stages.rollouts.clock import StepClock
from orchestrator.stages.rollouts.engines import Engines
from orchestrator.stages.rollouts.pretraining import Text
from orchestrator.stages.rollouts.prompts import Questions
from orchestrator.stages.rollouts.section import RolloutConfig
from orchestrator.stages.rollouts.text import PTX
from orchestrator.training import distributed
from orchestrator.training.averaging import MovingAverage
from orchestrator.training.loop import Metrics, Schedule, Trained, once_an_epoch
from orchestrator.training.own_work import OwnWork
from orchestrator.training.patience import END, STEP
from orchestrator.training.roles import Role

UPDATES = "updates"  # what a checkpoint says of the policy's optimizer
KLS = "kls"  # and KL of the last steps, by which the next may be the last one
BEGUN = "begun"  # and answers to the next step's prompts, if they were written before


class RolloutLoop(ExampleTraining[Questions]):
    """Takes the steps of a run, evaluates and saves where that is due; a kind of run adds them."""

    unit = "answers"
    settings: RolloutConfig
    own_work: OwnWork
    clock: StepClock
    updates_done = 0
    kls: deque[float]
    """Of policy and reference in the last steps, nats per token."""
    average: MovingAverage | None = None
    """Of the policy's weights."""
    text: Text | None = None
    """Learned beside answers."""
    engines: Engines | None = None
    """Those that write the answers. None: the policy itself."""

    @property
    def copies(self) -> int:
        """Answers to each prompt."""
        return self.settings.copies

    def take(self, step: int, rate: float) -> Metrics:
        """A rollout and the updates by it, at this learning rate. Every rank calls it."""
        raise NotImplementedError

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
            wishes = [checkpoints.should_stop(), late]
            stop, overdue = distributed.sum_over_ranks(wishes, device)
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
        about = {**self.about, UPDATES: self.updates_done, KLS: list(self.kls), **self.state}
        if self.settings.off_policy_steps and self.engines is not None:
            about[BEGUN] = self.engines.state
        if self.text is not None:
            about[PTX] = self.text.commit()
        self.checkpoints.save(
            step,
            [*self.trained_roles, *([] if self.average is None else [self.average])],
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
