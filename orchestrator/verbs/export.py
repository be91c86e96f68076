"""`orchestrate export`: the weights of a run or checkpoint in a folder for others.

The folder holds whole fp32 tensors in model.safetensors, the model config in model.json and the
tokenizer; no optimizer state. With --format hf it is a Hugging Face model: config.json, tensors
under the names of its architecture, and a tokenizer for transformers. `model.weights=FOLDER` starts
a job from either.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.terminal import say


def main(argv: Sequence[str]) -> int:
    """Write the folder; returns the exit code. Raises ValueError for a wrong request."""
    options = parser().parse_args(argv)

    from data.messages import size
    from orchestrator.training import checkpoint

    found = checkpoint.find_best(options.path)
    for line in checkpoint.told(found.path, found.passed_over):
        say(line, sys.stderr)
    checkpoint.hold(found.path)
    try:
        folder = checkpoint.export(found, Path(options.folder), options.role, options.format)
    except OSError as error:
        say(
            f"error: {options.folder} was not written: {error.strerror}; nothing is left of it",
            sys.stderr,
        )
        return 1
    written = sum(file.stat().st_size for file in folder.iterdir())
    say(f"{folder}: the weights of {found.path} after step {found.step}, {size(written)}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate export", description=__doc__)
    add_arguments(new)
    return new


def add_arguments(to: argparse.ArgumentParser) -> None:
    """The same for a verb that exports, too."""
    to.add_argument(
        "path", help="run folder (its best checkpoint if kept, else its newest), checkpoint, or URL"
    )
    to.add_argument("folder", help="to be made")
    to.add_argument("--role", help="whose weights; needed where the checkpoint has several")
    to.add_argument(
        "--format",
        choices=("orchestrate", "hf", "peft"),
        default="orchestrate",
        help="hf: a folder that transformers, and what reads the same, loads; peft: the updates of "
        "model.adapter=lora alone, as the package peft loads them [%(default)s]",
    )
