"""What the benchmarks share: run a job as a user would, read its journal, print medians."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SKIPPED = 5  # first steps of a run: caches and allocators are still cold


def run_job(outputs: Path, *overrides: str) -> Path:
    """The run folder of `orchestrate run` with these overrides."""
    command = [sys.executable, "-m", "orchestrator", "run", f"outputs={outputs}", *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return (outputs / "latest").resolve()


def event_of(folder: Path, kind: str) -> dict[str, Any]:
    """The first event of a kind."""
    events = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    return next(event for event in events if event["event"] == kind)


def throughput(folder: Path) -> float:
    """Tokens per second of wall time between steps: computing, logging and whatever slows them."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    steps = [line for line in lines if "train/loss" in line["metrics"]][SKIPPED:]
    rates = [
        (end["metrics"]["train/tokens"] - begin["metrics"]["train/tokens"])
        / (end["time_ms"] - begin["time_ms"])
        for begin, end in pairwise(steps)
    ]
    return 1000 * statistics.median(rates)


def spread(values: Sequence[float]) -> str:
    """Median and range, as text."""
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the runs of a benchmark, removed at its end."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        yield Path(folder)
