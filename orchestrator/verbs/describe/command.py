"""`orchestrate describe`: the shapes, sizes and costs of a model; builds no weights.

The model is that of a job: overrides as for `orchestrate run`, such as model=gpt_10m,
model.width=64 or model.weights=FOLDER.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.configs import ModelConfig
    from models.describing import Description, Row
    from orchestrator.config import JobConfig

OVERRIDE = re.compile(r"^[+~]{0,2}[A-Za-z_][\w./@]*=")
GAP = "  "

Compose = Callable[[Sequence[str]], "JobConfig"]


def main(argv: Sequence[str], compose: Compose) -> int:
    """Print the description; returns the exit code. Raises ValueError for a wrong request."""
    overrides = [word for word in argv if OVERRIDE.match(word)]
    options = parser().parse_args([word for word in argv if not OVERRIDE.match(word)])

    from models.describing import describe
    from orchestrator.verbs.describe.drawing import drawn
    from orchestrator.verbs.describe.picture import svg

    config = compose(overrides)
    roles = list(config.role_names)
    if options.role is not None and options.role not in roles:
        raise ValueError(f"--role={options.role}: this job has {', '.join(roles) or 'none'}")
    name = options.role or next(iter(roles), "model")
    model, batch, length = _sizes(config, name)
    found = describe(model, batch, length)
    lines = [
        *_summary(model, found),
        "",
        *drawn(found),
        "",
        *_table("parameter", found.parameters),
        "",
        *_table("what a forward pass makes", found.activations),
        "",
        *_costs(model, found),
        "",
        *_memory(config, name, model),
    ]
    print("\n".join(lines))
    if options.svg is not None:
        file = Path(options.svg)
        if not file.parent.is_dir():
            raise ValueError(f"--svg={file}: there is no folder {file.parent}")
        file.write_text(svg(found), encoding="utf-8")
        print(f"\ndrawn in {file}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(
        prog="orchestrate describe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="orchestrate describe [overrides] [--svg FILE] [--role ROLE]",
    )
    new.add_argument("--svg", metavar="FILE", help="draw the model there, too")
    new.add_argument("--role", help="which model of a stage with several [the first]")
    return new


def _sizes(config: "JobConfig", role: str) -> "tuple[ModelConfig, int, int]":
    """The model of a role with its vocabulary, and the samples and tokens of a micro-batch."""
    from data import vocab_size
    from models.configs import TokenModelConfig
    from orchestrator.stages import STAGES

    model = config.role(role).model
    batch = config.batch.micro
    if isinstance(model, TokenModelConfig):
        if model.vocab_size is None:
            model = replace(model, vocab_size=vocab_size(config.tokenizer))
        return model, batch, min(config.data.sequence_length, model.max_positions)
    if role not in (known := STAGES[config.stage.name].driver.outline(config).roles):
        raise ValueError(f"{role} is no model of stage={config.stage.name}")
    return known[role].config.model, batch, 1


def _summary(model: "ModelConfig", found: "Description") -> list[str]:
    from models.cost import parameters
    from models.describing import WORDS

    text = "V" in found.letters
    sizes = [
        f"{letter} {value:,} {WORDS[letter]}"
        for letter, value in found.letters.items()
        if text or letter != "T"
    ]
    return [f"{model.family}: {parameters(model):,} parameters", ", ".join(sizes)]


def _table(title: str, rows: "Sequence[Row]") -> list[str]:
    """Rows with their shapes in letters and in numbers, and how many numbers that is."""
    cells = [(title, "shape", "", "numbers", "layers")]
    for row in rows:
        shape = f"({', '.join(map(str, row.shape))})"
        layers = f"x {row.repeated}" if row.repeated > 1 else ""
        cells.append((row.name, row.symbols, shape, f"{row.numbers:,}", layers))
    return _aligned(cells, right=(3,))


def _costs(model: "ModelConfig", found: "Description") -> list[str]:
    """Operations of the matrix products, per token where there are tokens."""
    from models import cost

    batch, length = found.letters["B"], found.letters["T"]
    own = cost.flops(model, length)
    whole = own.training / length
    forward = found.forward_flops / batch / length
    unit = "token" if "V" in found.letters else "sample"
    kept = cost.cache_numbers(model, length)
    rows = [
        (f"floating-point operations per {unit}", ""),
        ("forward, counted", f"{forward:,.0f}"),
        ("backward", f"{whole - forward:,.0f}"),
        ("together, by formula (models/formulas)", f"{whole:,.0f}"),
        ("6 N, the usual approximation", f"{cost.flops_6n(model):,.0f}"),
    ]
    if own.attention:
        rows.append(("of the whole, attention", f"{3 * own.attention / length:,.0f}"))
    if own.blocks:
        rows.append(("activation checkpointing adds", f"{own.blocks / length:,.0f}"))
    if kept is not None:
        rows.append(("numbers kept of a text while it is written", f"{kept:,}"))
    return _aligned(rows, right=(1,))


def _memory(config: "JobConfig", name: str, model: "ModelConfig") -> list[str]:
    """Bytes per worker of weights, gradients and optimizer, for each ZeRO stage."""
    from data.messages import size
    from models.configs import ByHandConfig
    from orchestrator.config import OptimConfig
    from orchestrator.plan.memory import memory_of
    from orchestrator.stages import RoleOutline

    role, workers = config.role(name), config.workers
    optim, by_hand = role.optim or OptimConfig(), isinstance(model, ByHandConfig)
    precision = "fp32 in numpy" if by_hand else role.engine.precision
    title = f"bytes per worker, of {workers}; {precision}, {optim.name}"
    cells: list[tuple[str, ...]] = [(title, "weights", "gradients", "optimizer", "together")]
    alone = replace(role.engine, offload_optimizer=False, offload_parameters=False)
    engines = {"by hand": role.engine} if by_hand else {
        f"ZeRO {stage}": replace(alone, name="deepspeed", zero_stage=stage) for stage in range(4)
    }  # fmt: skip
    for shown, engine in engines.items():
        own = replace(role, model=model, engine=engine, optim=optim)
        outline = RoleOutline.of(own)
        held = memory_of(outline, workers)
        each = (held.weights, held.gradients, held.optimizer, held.total)
        cells.append((shown, *map(size, each)))
    return _aligned(cells, right=(1, 2, 3, 4))


def _aligned(cells: Sequence[tuple[str, ...]], right: Iterable[int]) -> list[str]:
    """Cells in columns."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        GAP.join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
