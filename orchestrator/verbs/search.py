"""`orchestrate search`: the lines of a file that are nearest to a query, by vectors of a model.

A line becomes the mean of the final vectors of its tokens, or of the vectors of its words if the
run has trained word vectors. Reads the checkpoint alone: no Ray, no DeepSpeed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from data.messages import counted
from orchestrator.terminal import printable, say

COUNT = 5


def main(argv: Sequence[str]) -> int:
    """Print the nearest lines; returns the exit code. Raises ValueError for a wrong request."""
    options = parser().parse_args(argv)
    if options.count < 1:
        raise ValueError(f"--count={options.count} must be at least 1; try --count={COUNT}")
    lines = read_lines(Path(options.file))

    from orchestrator.stages.pooling import open_encoder, similarities

    encode = open_encoder(Path(options.run), options.role)
    query = encode([options.query])[0]
    if not query.any():
        raise ValueError(
            f"no word of {options.query!r} has a vector in {options.run}; use words of its text"
        )
    cosines = similarities(query, encode(lines))
    for place in (-cosines).argsort(kind="stable")[: options.count]:
        say(f"{cosines[place]:6.3f}  {printable(lines[place])}", hang=8)
    return 0


def read_lines(file: Path) -> list[str]:
    """The lines of a file that hold something.

    Raises:
        ValueError: it can't be read, or there is none.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--file={file} can't be read: {error}; give a text file with a sentence per line"
        ) from None
    if not any(lines):
        raise ValueError(f"--file={file} has {counted(len(lines), 'line')}, and none with text")
    return [line for line in lines if line]


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate search", description=__doc__)
    new.add_argument("run", help="run folder (its newest checkpoint) or checkpoint")
    new.add_argument("query", help="text that the lines are to be like")
    new.add_argument("--file", required=True, help="text file with a sentence or document per line")
    new.add_argument("--count", type=int, default=COUNT, help="lines to print [%(default)s]")
    new.add_argument("--role", help="which model; needed where the checkpoint has several")
    return new
