"""A rollout engine: a whole model beside the trainer, which answers with the weights it is given.

Weights go there after each update. Both sides hash each tensor, the engine what it will compute
with; nothing that was computed with other weights outlives a `load`, for `write` keeps nothing.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.configs import ModelConfig
from models.decoding import Row, Sampling, TextModel, write_rows
from orchestrator.config import EngineConfig
from orchestrator.training import distributed, engine
from orchestrator.training.engine import Engine, whole_weights
from orchestrator.training.hostmemory import keep_freed_memory

Written = list[tuple[list[int], list[float]]]
"""New tokens of each answer, and the log-probability of each."""
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16"}


class WeightsDiffer(RuntimeError):
    """An engine holds other weights than the trainer has sent."""


@dataclass(frozen=True)
class Weights:
    """All tensors of a model, as bytes."""

    arrays: dict[str, NDArray[np.uint8]]
    """By the name of the parameter, flat, in the dtype of the model."""
    digests: dict[str, str]
    """Of each tensor, on the side that sends it."""


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is made from; it pickles."""

    model: ModelConfig
    precision: str
    """Of its weights, those of the trainer: fp32 or bf16."""
    device: str
    """cpu or cuda."""


@dataclass(frozen=True)
class Asked:
    """Prompts for an engine."""

    prompts: Sequence[Sequence[int]]
    """Tokens of each."""
    seeds: Sequence[int]
    """Of the draws of each answer."""
    most_tokens: int
    temperature: float
    end: int
    """The token that ends an answer."""


class RolloutEngine:
    """Holds a model, and answers. It lives in a process of its own, in a world of one rank."""

    def __init__(self, settings: EngineSettings, index: int) -> None:
        """Make the model; its weights come with `load`."""
        keep_freed_memory()
        self.index = index
        self.engine = engine.build(
            settings.model,
            EngineConfig(name="torch", precision=settings.precision),
            None,
            device=distributed.device_of(settings.device),
        )

    def load(self, weights: Weights) -> None:
        """Take over weights.

        Raises:
            WeightsDiffer: naming the tensor that is not here what it is there.
        """
        own = dict(self.engine.model.named_parameters())
        lacking = own.keys() ^ weights.arrays.keys()
        for name in sorted(lacking):
            raise WeightsDiffer(f"rollout engine {self.index}: {name} is on one side only")
        for name, parameter in own.items():
            with torch.no_grad():
                sent = torch.from_numpy(weights.arrays[name].copy()).view(parameter.dtype)
                parameter.copy_(sent.view(parameter.shape))
            found = digest(as_bytes(parameter))
            if found != weights.digests[name]:
                raise WeightsDiffer(
                    f"rollout engine {self.index}: the weights of {name} are not those that were "
                    f"sent: {found} here, {weights.digests[name]} there"
                )

    def write(self, asked: Asked) -> tuple[Written, float]:
        """Answers to prompts, and the seconds that they took."""
        begun = time.perf_counter()
        pairs = zip(asked.prompts, asked.seeds, strict=True)
        rows = [Row(prompt, seed, asked.most_tokens) for prompt, seed in pairs]
        model = cast(TextModel, self.engine.model)
        write_rows(model, rows, Sampling(temperature=asked.temperature), stop_tokens=(asked.end,))
        return [(row.tokens, row.logprobs) for row in rows], time.perf_counter() - begun

    def close(self) -> None:
        """Nothing: it holds no other process."""


def gathered_weights(trained: Engine) -> Weights | None:
    """The weights of a model in training, on rank 0; None on the others. Every rank calls it.

    Under ZeRO 3 a rank besides rank 0 never holds more than one tensor whole.
    """
    arrays = {}
    for name, tensor in whole_weights(trained.model):
        if distributed.rank() == 0:
            arrays[name] = as_bytes(tensor)
    if distributed.rank() != 0:
        return None
    return Weights(arrays, {name: digest(own) for name, own in arrays.items()})


def precision_of(trained: Engine) -> str:
    """That of the weights of a model in training."""
    return PRECISIONS[next(trained.model.parameters()).dtype]


def as_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """A copy of a tensor's numbers, flat."""
    found: Any = tensor.detach().flatten().cpu().view(torch.uint8).numpy().copy()
    return cast(NDArray[np.uint8], found)


def digest(array: NDArray[np.uint8]) -> str:
    """Of the numbers of a tensor."""
    return hashlib.blake2b(cast(Any, array), digest_size=16).hexdigest()
