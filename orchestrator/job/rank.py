"""What each worker of a job does: find its device, join the group, carry out the stage."""

from __future__ import annotations

import gc
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.gang import Channel
from data.files import NotOnThisHost, cache_root
from orchestrator.config import JobConfig, to_dict
from orchestrator.record.fencing import Fence
from orchestrator.record.outbox import Outbox
from orchestrator.record.redaction import RedactingStream, Redactor

if TYPE_CHECKING:
    from orchestrator.stages.result import Result


@dataclass(frozen=True)
class Assignment:
    """What every rank of a job gets; it pickles."""

    config: JobConfig
    folder: Path
    """The run folder, on a file system that all hosts share."""
    inputs: Any
    """What the stage's `prepare` has made."""
    fence: Fence
    """Of the attempt, by which it may write to the run folder."""
    sweep: str | None = None
    """Key of the sweep that the job is a trial of, which draws pictures of its trials together.
    None: it is none."""

    @property
    def attempt(self) -> int:
        """Of the run, counted from 1."""
        return self.fence.attempt


def work(assignment: Assignment, channel: Channel) -> Result:
    """Carry out the job's stage as one rank; runs in a gang, under torchrun, or in this process."""
    config, folder = assignment.config, assignment.folder
    begun = time.perf_counter()
    import torch

    from orchestrator.stages import STAGES
    from orchestrator.stages.run import Run
    from orchestrator.training import distributed
    from orchestrator.training.engine import forget_process_group
    from orchestrator.training.hardware import most_memory
    from orchestrator.training.hostmemory import keep_freed_memory

    if not (folder / "config.yaml").is_file():
        raise NotOnThisHost(
            f"the run folder {folder} is not on the host {os.uname().nodename}; let outputs=FOLDER "
            "name a folder that all hosts share"
        )
    if config.resources.launcher == "ray":  # this process writes to a log that others may read
        redactor = Redactor(to_dict(config))
        sys.stdout = RedactingStream(sys.stdout, redactor)
        sys.stderr = RedactingStream(sys.stderr, redactor)
    keep_freed_memory()
    if assignment.attempt > 1:
        gc.collect()  # the engine of the attempt before, if this process has had one
    torch.set_num_threads(config.resources.cpus_per_worker)
    device = distributed.device_of(config.resources.device)
    with ExitStack() as stack:
        told = channel.send, channel.should_stop
        alone = assignment.sweep is None
        run = Run(folder, device, *told, cache_root(), assignment.fence, alone, heart=channel.heart)
        if channel.rank == 0 and config.resources.launcher == "ray":
            outbox = stack.enter_context(Outbox(folder, assignment.attempt, channel.send))
            run = replace(run, send=outbox.send, sync=outbox.sync)
        stack.callback(forget_process_group)
        watched = config.resources.hang_after is not None
        stack.enter_context(distributed.process_group(device, watched=watched))
        run.event("imported", seconds=round(time.perf_counter() - begun, 3))
        result = STAGES[config.stage.name].carry_out(config, assignment.inputs, run)
        run.event("memory", bytes=most_memory(device), device=device.type)
        return result


def environment(config: JobConfig) -> dict[str, str]:
    """Environment variables of the workers, set before they import anything."""
    return {
        "DS_ACCELERATOR": config.resources.device,
        "TOKENIZERS_PARALLELISM": "false",
        "ORCHESTRATE_CACHE": str(cache_root()),
    }
