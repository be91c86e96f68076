"""What a stage gives back at its end; read by the driver, so nothing here imports torch."""

from dataclasses import dataclass

SEPARATOR = "\n\n---\n\n"  # between the texts of a file of samples


@dataclass(frozen=True)
class Table:
    """A table at the end of a job: on the screen, in the run folder, in MLflow."""

    name: str
    """Of its file."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: int | None = None
    """The row that is this run's own."""


@dataclass(frozen=True)
class Result:
    """What a stage reports at its end; rank 0's counts.

    Steps, tokens, metrics and checkpoints are not in it: the record has them.
    """

    stopped: bool = False
    """Whether it left early because it was asked to."""
    reason: str | None = None
    """Why it ended before its last step by itself, if it did."""
    tokens_per_second: float | None = None
    """Over optimizer steps alone: without start-up, evaluations and checkpoints."""
    notices: tuple[str, ...] = ()
    """What the user should know of the outcome, each a sentence with what to try."""
    samples: tuple[str, ...] = ()
    """Texts written by the model, for samples.txt."""
    tables: tuple[Table, ...] = ()
    next: tuple[tuple[str, str], ...] = ()
    """What to type next: a label, and a command in which {run} is the run folder."""


def interval(right: int, number: int) -> tuple[float, float]:
    """Between which shares that of so many lies, at 95%, by Wilson 1927: at none and all, too."""
    from scipy.stats import binomtest

    found = binomtest(right, number).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def share(value: float, number: int) -> str:
    """A share of so many, with its interval."""
    low, high = interval(round(value * number), number)
    return f"{value:.1%} ({low:.1%} to {high:.1%})"
