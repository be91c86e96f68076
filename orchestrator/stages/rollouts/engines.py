"""Rollout engines in processes of their own, as the ranks of a run see them.

Rank 0 starts them, as a service: one that dies is replaced alone, gets the weights that were sent
last, and is asked again. What is asked is cut by the numbers of the answers, so that an answer is
written in the same company, and to the same bit, whoever writes it and however many ranks ask.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import cycle
from typing import Any, Protocol, TypeVar

from cluster.service import Joined, Placement, Service, service
from models.configs import GPTConfig
from orchestrator.config import JobConfig
from orchestrator.stages.rollouts.asking import Wanted
from orchestrator.stages.rollouts.engine_settings import VLLM
from orchestrator.stages.rollouts.section import RolloutConfig
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.loop import Metrics
from orchestrator.training.patience import STEP
from orchestrator.training.roles import Role
from orchestrator.training.rollout import Rollout, as_rollout
from orchestrator.training.rollout_engine import (
    Asked,
    EngineSettings,
    RolloutEngine,
    Weights,
    Written,
    gathered_weights,
    precision_of,
)
from orchestrator.training.vllm_engine import VllmEngine, VllmSettings

LOOK_S = 1.0
Result = TypeVar("Result")
Answers = dict[int, tuple[list[int], list[float]]]
"""Tokens and their log-probabilities, by the number of the answer."""


class Writer(Protocol):
    """An engine of any kind."""

    def load(self, weights: Weights) -> None:
        """Take over weights."""

    def write(self, asked: Asked) -> tuple[Written, float]:
        """Answers to prompts, and the seconds that they took."""
        ...

    def close(self) -> None:
        """Let go of what it holds outside of its process."""


@contextmanager
def rollout_engines(config: JobConfig, run: Run, policy: Role, end: int) -> Iterator["Engines"]:
    """The engines of a run, while the block runs. Every rank calls it."""
    stage, resources = config.section(RolloutConfig), config.resources
    if distributed.rank() != 0:
        yield Engines(None, RolloutEngine, stage, run, end)
        return
    kind, settings = _kind_of(config, policy)
    if resources.launcher == "inline":
        here = Here([kind(settings, index) for index in range(stage.engines)])
        try:
            yield Engines(here, kind, stage, run, end)
        finally:
            here.close()
        return
    if kind is VllmEngine:
        run.event("engine", message=f"starting {stage.engines} x vLLM, which takes minutes")
    placement = Placement(stage.engines, resources.cpus_per_worker, resources.gpus_per_worker)
    with service(
        kind,
        settings,
        placement,
        log_folder=run.folder / "logs" / "engines",
        say=lambda line: run.event("engine", message=line),
        session=Joined(),
    ) as replicas:
        yield Engines(replicas, kind, stage, run, end)


def _kind_of(config: JobConfig, policy: Role) -> tuple[Any, EngineSettings | VllmSettings]:
    """The class of the engines, and what one of them is made from."""
    stage = config.section(RolloutConfig)
    model, precision = policy.config.model, precision_of(policy.engine)
    if stage.engine_kind != VLLM:
        return RolloutEngine, EngineSettings(model, precision, config.resources.device)
    assert stage.engine_python is not None  # the settings were checked
    rows = -(-max(config.batch.step, stage.validation_prompts) // stage.engines)
    longest = stage.prompt_tokens + stage.answer_tokens
    assert isinstance(model, GPTConfig)  # the driver has checked it
    device = config.resources.device
    return VllmEngine, VllmSettings(stage.engine_python, model, precision, longest, rows, device)


class Here:
    """Engines in this process, for a debugger, with the methods of a service that are called."""

    def __init__(self, engines: Sequence[Writer]) -> None:
        """Of these."""
        self._engines = engines

    def broadcast(self, method: Callable[[Any, Any], Any], arrays: Any) -> None:
        """Call a method of each of them."""
        for engine in self._engines:
            method(engine, arrays)

    def map(self, method: Callable[[Any, Asked], Result], asked: Sequence[Asked]) -> list[Result]:
        """Call a method with each argument; results in order."""
        return [method(*each) for each in zip(cycle(self._engines), asked, strict=False)]

    def close(self) -> None:
        """Let go of them."""
        for engine in self._engines:
            engine.close()


class Engines:
    """Every rank calls every method, in one order."""

    def __init__(
        self,
        replicas: Service[Writer] | Here | None,
        kind: type[Writer],
        stage: RolloutConfig,
        run: Run,
        end: int,
    ) -> None:
        """Nothing is asked yet.

        Args:
            replicas: the engines, on rank 0.
            kind: their class, there.
            stage: the settings.
            run: of this rank.
            end: the token that ends an answer.
        """
        self._replicas, self._kind = replicas, kind
        self._stage, self._run, self._end = stage, run, end
        self._thread = ThreadPoolExecutor(1, "rollouts")
        self._numbers: list[int] = []
        self._begun: Future[list[tuple[Written, float]]] | None = None  # on rank 0
        self._answers: Answers | None = None  # known already, on rank 0
        self._synced: int | None = None  # updates of the weights that the engines have
        self._waited = self._worked = 0.0  # seconds since the last `idle`, on rank 0
        self.busy = False
        """Whether answers are begun, and not taken."""

    def sync(self, policy: Role, updates: int) -> None:
        """Send the weights as they are after so many updates, unless they are there.

        Raises:
            WeightsDiffer: on rank 0, naming the tensor.
        """
        if self._synced == updates:
            return
        begun = time.monotonic()
        self._settle()
        weights = gathered_weights(policy.engine)
        if self._replicas is not None:
            self._replicas.broadcast(self._kind.load, weights)
        self._synced = updates
        self._waited += time.monotonic() - begun

    def forget(self) -> None:
        """The next `sync` sends weights, whatever was sent: those of another step are in place."""
        self._synced = None

    def begin(self, questions: Sequence[Wanted]) -> None:
        """Ask for answers; this returns at once."""
        every = distributed.gather_on_rank_0(list(questions))
        self.busy = True
        if every is None:
            return
        rows = sorted(own for part in every for own in part)
        self._numbers, self._answers = [own.number for own in rows], None
        each = -(-len(rows) // self._stage.engines)
        parts = [rows[start : start + each] for start in range(0, len(rows), each)]
        asked = [
            Asked(
                [own.prompt for own in part],
                [own.seed for own in part],
                self._stage.answer_tokens,
                self._stage.temperature,
                self._end,
            )
            for part in parts
        ]
        assert self._replicas is not None
        self._begun = self._thread.submit(self._replicas.map, self._kind.write, asked)

    def take(self, questions: Sequence[Wanted]) -> Rollout:
        """The answers that were begun; the questions are this rank's of then."""
        begun = time.monotonic()
        self._settle()
        answers = distributed.broadcast_object(self._answers)
        assert answers is not None
        self._waited += time.monotonic() - begun
        self.busy = False
        written = [answers[own.number] for own in questions]
        prompts = [own.prompt for own in questions]
        return as_rollout(prompts, written, self._end, self._run.device)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Ask for something else while the block runs; what was begun is kept."""
        self._settle()
        kept = self._answers, self.busy
        yield
        self._answers, self.busy = kept

    def _settle(self) -> None:
        """Wait for what was begun, on rank 0."""
        if self._begun is None:
            return
        while not wait([self._begun], LOOK_S).done:
            self._run.heart.beat(STEP)
        found = self._begun.result()
        self._begun = None
        written = [own for part, _ in found for own in part]
        self._answers = dict(zip(self._numbers, written, strict=True))
        self._worked += sum(seconds for _, seconds in found)

    @property
    def state(self) -> Answers | None:
        """The answers that were begun and not taken, for a checkpoint, on rank 0."""
        self._settle()
        return self._answers if self.busy else None

    def go_on(self, answers: Answers | None) -> None:
        """Have these answers, of a checkpoint, as begun."""
        if answers is not None:
            self.busy = True
            self._answers = {int(number): own for number, own in answers.items()}

    def idle(self, seconds: float) -> Metrics:
        """Shares of this time in which ranks waited for engines, and engines for ranks."""
        waited, worked = distributed.sum_over_ranks(
            [0.0, 0.0] if self._replicas is None else [self._waited, self._worked],
            self._run.device,
        )
        self._waited = self._worked = 0.0
        return {
            "train/trainer_idle": min(waited / seconds, 1.0),
            "train/engines_idle": max(1 - worked / self._stage.engines / seconds, 0.0),
        }
