"""Verifying checkpoints with the work shared by all ranks."""

from pathlib import Path

from orchestrator.record.checkpoints.finding import (
    check_content,
    check_sizes,
    newest_of,
    published,
)
from orchestrator.record.checkpoints.manifest import Checkpoint, CheckpointError, read
from orchestrator.training import distributed


def verify_shared(path: Path) -> Checkpoint:
    """As `verify`, each file by one of the ranks. Every rank calls it, and learns the same."""
    problem, checkpoint = None, None
    try:
        checkpoint = read(path)
        check_sizes(checkpoint)
        check_content(checkpoint, distributed.rank(), distributed.world_size())
    except CheckpointError as error:
        problem = str(error)
    problems = [said for said in distributed.gather_objects(problem) if said is not None]
    if problems or checkpoint is None:
        raise CheckpointError(problems[0])
    return checkpoint


def newest_valid_shared(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """As `newest_valid`, the work shared by all ranks. Every rank calls it."""
    return newest_of(distributed.broadcast_object(published(root)), verify_shared)
