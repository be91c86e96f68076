"""What a stage gives back at its end; read by the driver, so nothing here imports torch."""

from dataclasses import dataclass, field


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
    """What a stage reports at its end; rank 0's becomes part of result.json."""

    steps: int
    stopped: bool = False
    """Whether it left early because it was asked to."""
    checkpoint: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of each metric."""
    tokens: int | None = None
    """Trained on. None: the stage does not count in tokens."""
    tokens_per_second: float | None = None
    """Over optimizer steps alone: without start-up, evaluations and checkpoints."""
    samples: tuple[str, ...] = ()
    """Texts written by the model, for samples.txt."""
    tables: tuple[Table, ...] = ()
    next: tuple[tuple[str, str], ...] = ()
    """What to type next: a label, and a command in which {run} is the run folder."""
