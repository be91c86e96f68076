"""A step of a run done again in this process, under observation; for a debugger, too.

Training goes on from the checkpoint to the step before, without evaluations or checkpoints; the
order of samples, dropout and learning rate are those of the run. Of the step itself everything is
computed but the update of the weights.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from data.feed.loader import Batch
from orchestrator.stages.language.objective import next_token
from orchestrator.stages.result import Table
from orchestrator.training.engine import Engine
from orchestrator.training.loop import backward


@dataclass
class Observed:
    """What was seen of a step."""

    loss: float = 0.0
    """Mean over the targets of the step."""
    squares: dict[str, float] = field(default_factory=dict)
    """Squared norm of the gradient of each parameter."""
    first_bad_output: str | None = None
    """The first module, in the order of the forward passes, whose output is not finite."""
    first_bad_gradient: str | None = None
    """The first parameter, in the order of the backward passes, whose gradient is not finite."""
    bad_samples: list[int] = field(default_factory=list)
    """Sequences of the micro-batches whose loss is not finite."""

    def table(self) -> Table:
        """Gradient norm per tensor."""
        norms = {name: math.sqrt(square) for name, square in self.squares.items()}
        rows = tuple((name, f"{norm:.4g}") for name, norm in norms.items())
        whole = math.sqrt(sum(self.squares.values()))
        return Table("replay", ("tensor", "gradient norm"), (*rows, ("all", f"{whole:.4g}")))

    def notices(self, step: int) -> tuple[str, ...]:
        """What was found, in sentences."""
        told = [f"step {step} has a loss of {self.loss:.6g}"]
        for what, found in (
            ("module with an output that is not finite", self.first_bad_output),
            ("tensor with a gradient that is not finite", self.first_bad_gradient),
            ("sequences whose loss is not finite", self.bad_samples),
        ):
            first = "" if isinstance(found, list) else "the first "
            told.append(f"{first}{what}: {found}" if found else f"no {what}")
        return tuple(told)


def observe(engine: Engine, batches: Sequence[Batch], seed: int) -> Observed:
    """Forward and backward passes of one step on one rank; the weights stay as they are.

    Args:
        engine: holds the model as it was before the step.
        batches: the micro-batches of the step.
        seed: of dropout.
    """
    seen, weight = Observed(), float(sum(batch.weight for batch in batches))
    with ExitStack() as hooks:
        for name, module in engine.model.named_modules():
            handle = module.register_forward_hook(_note_output(seen, name or "the model"))
            hooks.callback(handle.remove)
        sums: dict[str, Tensor] = {}
        for name, parameter in engine.model.named_parameters():
            if parameter.requires_grad:
                note: Any = parameter.register_hook  # torch has no types for it
                hooks.callback(note(_note_gradient(seen, sums, name)).remove)
        for batch in batches:
            summed = backward(engine, next_token, batch, weight, seed)
            seen.loss += float(summed.loss) / weight
            if not math.isfinite(float(summed.loss)):
                seen.bad_samples += batch.sample_ids.tolist()
    names = [name for name, _ in engine.model.named_parameters()]
    seen.squares = {name: float(sums[name].square().sum()) for name in names if name in sums}
    return seen


def _note_output(seen: Observed, name: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if seen.first_bad_output is None and not all(_finite(own) for own in _tensors(output)):
            seen.first_bad_output = name

    return hook


def _note_gradient(seen: Observed, sums: dict[str, Tensor], name: str) -> Any:
    def hook(gradient: Tensor) -> None:
        if seen.first_bad_gradient is None and not _finite(gradient):
            seen.first_bad_gradient = name
        part = gradient.detach().double()
        sums[name] = sums[name] + part if name in sums else part

    return hook


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for own in output:
            yield from _tensors(own)


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
