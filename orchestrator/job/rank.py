"""What each worker of a job does: find its device, join the group, carry out the stage."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.gang import Channel
from data.files import NotOnThisHost, cache_root
from orchestrator.config import JobConfig, to_dict
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


def work(assignment: Assignment, channel: Channel) -> Result:
    """Carry out the job's stage as one rank; runs in a gang, under torchrun, or in this process."""
    config, folder = assignment.config, assignment.folder
    begun = time.perf_counter()
    import torch

    from orchestrator.stages import STAGES
    from orchestrator.stages.run import Run
    from orchestrator.training import distributed
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
    torch.set_num_threads(config.resources.cpus_per_worker)
    device = distributed.device_of(config.resources.device)
    watched = config.resources.hang_after is not None
    with distributed.process_group(device, watched=watched):
        told = channel.send, channel.should_stop
        run = Run(folder, device, *told, cache_root(), channel.heart)
        run.event("imported", seconds=round(time.perf_counter() - begun, 3))
        return STAGES[config.stage.name].carry_out(config, assignment.inputs, run)


def environment(config: JobConfig) -> dict[str, str]:
    """Environment variables of the workers, set before they import anything."""
    return {
        "DS_ACCELERATOR": config.resources.device,
        "TOKENIZERS_PARALLELISM": "false",
        "ORCHESTRATE_CACHE": str(cache_root()),
    }
