"""What each worker of a job does: find its device, join the group, carry out the stage."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.gang import Channel
from orchestrator.config import JobConfig

if TYPE_CHECKING:
    from orchestrator.stages.run import Result


def work(job: tuple[JobConfig, Path], channel: Channel) -> "Result":
    """Carry out the job's stage as one rank; runs in a gang, under torchrun, or in this process."""
    config, folder = job
    begun = time.perf_counter()
    import torch

    from orchestrator.stages import STAGES, Run
    from orchestrator.training import distributed

    torch.set_num_threads(config.resources.cpus_per_worker)
    device = distributed.device_of(config.resources.device)
    with distributed.process_group(device):
        # Under torchrun each process has its own idea of the folder; rank 0's counts.
        shared = Path(distributed.broadcast_text(str(folder), device))
        run = Run(shared, device, channel.send, channel.should_stop)
        run.event("imported", seconds=round(time.perf_counter() - begun, 3))
        return STAGES[config.stage.name](config, run)


def environment(config: JobConfig) -> dict[str, str]:
    """Environment variables of the workers, set before they import anything."""
    return {"DS_ACCELERATOR": config.resources.device, "TOKENIZERS_PARALLELISM": "false"}
