"""Who carries out the units of work that make a job's data: this process, or workers of Ray."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cluster.nodes import local_devices
from cluster.pool import FolderNotSeen, Placement, Pool, PoolFailed, pool
from data.files import DataError, cache_root
from data.messages import Passing
from data.preparation.running import Runner, Say, inline
from orchestrator.config import ResourcesConfig

FEW = 4  # units (of about 64 MiB) that are done before Ray would have started


@contextmanager
def tokenizing(
    resources: ResourcesConfig, say: Say, workers: int | None = None
) -> Iterator[Runner]:
    """A runner for `data.preparation`; its Ray starts when there is enough to do for it.

    Args:
        resources: where; with launcher=inline it is this process unless `workers` are asked for.
            Only hosts of a cluster that see the cache of this one (ORCHESTRATE_CACHE) take part.
        say: gets a line for each worker that died and was replaced.
        workers: processes. None: one per core of this machine, and none for less than FEW units.

    Raises:
        ValueError: workers is less than 1.
        DataError: a unit ended several workers, by memory or otherwise; names it and their log.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"--workers={workers} must be at least 1")
    few = FEW if workers is None else 1
    count = workers or local_devices().cpus
    with ExitStack() as stack:
        started: Pool | None = None

        def run(
            function: Callable[[Any], Any],
            arguments: Sequence[Any],
            on_result: Callable[[int, Any], None],
        ) -> list[Any]:
            nonlocal started
            here = resources.launcher == "inline" and workers is None
            if (started is None and len(arguments) < few) or count == 1 or here:
                return inline(function, arguments, on_result)
            if started is None:
                say(Passing(f"starting {min(count, len(arguments))} tokenization workers"))
                logs = stack.enter_context(_log_folder())
                placement = Placement(count, 1, 0, resources.address)
                # A core each: rayon's threads would fight for them.
                env = {"ORCHESTRATE_CACHE": str(cache_root()), "RAYON_NUM_THREADS": "1"}
                of_ray = pool(placement, log_folder=logs, env=env, say=say, visible=cache_root())
                started = stack.enter_context(of_ray)
            try:
                return started.run(function, arguments, on_result)
            except FolderNotSeen as error:
                say(f"{error}; the work is done in this process")
                return inline(function, arguments, on_result)
            except PoolFailed as error:
                raise LostWorkers(
                    f"the data can't be prepared: {error}; if memory ran out, `orchestrate data "
                    "prepare --workers 1` needs the least of it, and goes on where this has stopped"
                ) from error

        yield run


class LostWorkers(DataError):
    """A unit of work ended the worker of each attempt."""


@contextmanager
def _log_folder() -> Iterator[Path]:
    """In the cache, which every host at work sees; it stays if an error names a file in it."""
    parent = cache_root() / "logs"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="tokenizing-", dir=parent))
    named = False
    try:
        yield folder
    except LostWorkers:
        named = True
        raise
    finally:
        if not named:
            shutil.rmtree(folder, ignore_errors=True)
