"""`orchestrate scaling choose`: what a budget buys by a law, and the experiment that spends it."""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from models import cost
from models.configs import GPTConfig
from orchestrator.scaling import report
from orchestrator.scaling.choosing import (
    Choice,
    Interval,
    Smaller,
    choose,
    dialled,
    model_of,
    points_of,
    smaller,
)
from orchestrator.scaling.intervals import Draws
from orchestrator.terminal import columns, say

RATE = (3.239e-3, 1.395e-4)  # learning rate = first - second x ln N: Kaplan et al. 2020, D.1
WARMUP = 0.02  # of the steps


def carry_out(options: argparse.Namespace, draws: Draws) -> int:
    """Print the choice, and write it as an experiment if that was asked for.

    Raises:
        ValueError: there is no such budget, or what is to be written can't be.
    """
    choice = choose(draws, options.flops)
    sizes = list(smaller(draws, choice))
    far = report.beyond(draws.fit.points, options.flops)
    written = None if options.write is None else _write(options, draws, choice)
    if options.json:
        found = {
            **asdict(choice),
            "smaller": [asdict(size) for size in sizes],
            "extrapolates": far,
            "convention": draws.fit.points.count,
            "written": written,
        }
        print(json.dumps(found, indent=1))
        return 0
    for line in [*report.conventions(draws.fit.points), *_lines(choice), *_table(choice, sizes)]:
        say(line, hang=12)
    if far:
        say(f"WARNING     {far}", hang=12)
    for line in written or ():
        say(line, hang=12)
    return 0


def _lines(choice: Choice) -> list[str]:
    def told(own: Interval, digits: str = ".3g") -> str:
        return f"{own.value:{digits}} ({own.low:{digits}} to {own.high:{digits}})"

    return [
        f"budget      {choice.flops:.3g} FLOPs",
        f"parameters  {told(choice.parameters)}",
        f"tokens      {told(choice.tokens)}; {told(choice.per_parameter)} per parameter",
        f"loss        {told(choice.loss, '.4g')}, of a new run with its noise",
        "",
        "as good with fewer parameters, which are cheaper to serve:",
    ]


def _table(choice: Choice, sizes: Sequence[Smaller]) -> list[str]:
    rows = [("parameters", "tokens", "training FLOPs", "cheaper in all from")]
    for size in sizes:
        if size.tokens is None or size.flops is None:
            rows.append((f"{size.parameters:.3g}", "never as good", "", ""))
            continue
        pays = "" if size.pays_after is None else f"{size.pays_after:.3g} tokens served"
        times = f"{size.flops:.3g} (x {size.flops / choice.flops:.2f})"
        rows.append((f"{size.parameters:.3g}", f"{size.tokens:.3g}", times, pays))
    return columns(rows)


def check(options: argparse.Namespace) -> None:
    """Raise ValueError for an experiment that can't be written, before anything is fitted."""
    if options.write is None:
        return
    place = Path(options.write).expanduser()
    if place.parent.name != "experiment" or place.suffix != ".yaml":
        raise ValueError(
            f"--write={options.write} must be FOLDER/experiment/NAME.yaml, where Hydra looks for "
            f"it; try --write my_conf/experiment/{place.stem or 'chosen'}.yaml"
        )
    if options.parameters != "total":
        raise ValueError(
            "--write needs a law of all parameters: with --parameters non_embedding the size of "
            "the vocabulary decides what the model is"
        )
    for name in ("vocab_size", "sequence_length", "batch"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}={getattr(options, name)} must be over 0")
    if place.exists():
        raise ValueError(f"--write={place} exists; remove it or choose another name")


def _write(options: argparse.Namespace, draws: Draws, choice: Choice) -> list[str]:
    """Write the experiment; lines on what it is, and how to go on.

    The model is the nearest that can be built; the budget's other part goes into its tokens.
    """
    place = Path(options.write).expanduser()
    build = dialled if options.dial else model_of
    model = build(choice.parameters.value, options.vocab_size, options.sequence_length)
    size = cost.parameters(model)
    tokens = choice.parameters.value * choice.tokens.value / size
    each = options.batch * options.sequence_length
    steps = round(tokens / each)
    if steps < 1:
        raise ValueError(
            f"{tokens:.3g} tokens are less than a step of {options.batch} x "
            f"{options.sequence_length} = {each:,}; try a smaller --batch"
        )
    _, low, high = draws.predict(points_of(size, steps * each))
    text = f"""# @package _global_
# {choice.flops:.3g} FLOPs by a scaling law of {len(draws.fit.points)} runs: {size:,} parameters,
# {steps * each:,} tokens; validation loss {low[0]:.4g} to {high[0]:.4g}, 9 times in 10.
{_by_dial(model) if options.dial else _by_hand(model, steps)}
data:
  sequence_length: {options.sequence_length}
tokenizer:
  vocab_size: {options.vocab_size}
stage:
  steps: {steps}
  global_batch_size: {options.batch}
"""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("x") as file:
            file.write(text)
    except OSError as error:
        raise ValueError(f"--write={place} can't be written: {error.strerror}") from None
    return [
        f"written     {place}: {model.layers} layers of width {model.width}, {size:,} parameters; "
        f"{steps:,} steps of {each:,} tokens; loss {low[0]:.4g} to {high[0]:.4g}",
        f"check it:   orchestrate plan experiment={place.stem} -cd {place.parent.parent}",
    ]


def _by_dial(model: GPTConfig) -> str:
    return f"""defaults:
  - dial
  - _self_

model:
  layers: {model.layers}"""


def _by_hand(model: GPTConfig, steps: int) -> str:
    rate = RATE[0] - RATE[1] * math.log(cost.parameters(model))
    return f"""# Learning rate by size: Kaplan et al. 2020, D.1.
defaults:
  - override /model: gpt_tiny

model:
  layers: {model.layers}
  width: {model.width}
  heads: {model.heads}
  max_positions: {model.max_positions}
optim:
  learning_rate: {rate:.3g}
  warmup_steps: {round(WARMUP * steps)}"""
