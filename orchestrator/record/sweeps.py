"""The files in the folder of a sweep, which verbs/sweep/ writes and the record reads."""

from pathlib import Path

TABLE = "trials.jsonl"
"""Its trials, a row for whatever happens to one."""
ASKED = "sweep.json"
"""What was asked for. (That of `run --multirun` lists its jobs.)"""
REPORT = "report.json"
"""How it ended."""
BEST = "best.yaml"
"""The overrides of the best trial."""
PICTURES = ("parallel_coordinates.png", "curves.png")
EXPERIMENTS = "conf/experiment"
"""The best trial as an experiment."""
LOG = "logs/workers.log"
"""Output of the processes that carry trials out."""


def is_sweep(folder: Path) -> bool:
    """Whether it is the folder of `orchestrate sweep`."""
    return (folder / TABLE).is_file()
