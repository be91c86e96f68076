"""The process group of a job: who am I, start and end it, small reductions over all ranks.

A worker learns its place from RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT alone, so
the same code runs in a gang, under torchrun, and in one plain process.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

T = TypeVar("T")

Group = dist.ProcessGroup | None
"""None: the group of the job."""
LOOPBACK = "127.0.0.1"
UNWATCHED = timedelta(minutes=30)  # as torch's own: a first evaluation or compile takes minutes
WATCHED = timedelta(days=7)  # the watch-dog knows better how long a rank may be waited for
BACKGROUND = timedelta(days=1)  # a slow disk takes what it takes; who is dead is told anyway


def rank() -> int:
    """This process among all of the job."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Processes of the job."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def device_of(kind: str) -> torch.device:
    """The device of this rank; `kind` is cuda or cpu. Raises RuntimeError without such a GPU."""
    if kind == "cpu":
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        raise RuntimeError(
            f"GPU {index} was asked for, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()}; `orchestrate doctor` shows why"
        )
    return torch.device("cuda", index)


def backend(device: torch.device) -> str:
    """What carries messages between ranks on such devices."""
    return "nccl" if device.type == "cuda" else "gloo"


@contextmanager
def process_group(device: torch.device, *, watched: bool = False) -> Iterator[None]:
    """Join the job's torch.distributed group for the time of the block. Every rank calls it.

    `watched` says that a driver ends the job when nobody comes on, so that collectives need no
    time-out.
    After an error on a GPU the process is of no further use, and should end: its group stays.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    timeout = WATCHED if watched else UNWATCHED
    dist.init_process_group(
        backend(device),
        store=_store_of_one_host(timeout),
        rank=rank(),
        world_size=world_size(),
        timeout=timeout,
    )
    try:
        yield
    except BaseException:
        # On gloo, destroy waits for nobody. On nccl it waits for the peers of this host, which wait
        # for this rank in a collective: the error would be told when that times out, or never.
        if device.type == "cpu" or world_size() == 1:
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _store_of_one_host(timeout: timedelta) -> Any:
    """Where the ranks meet, if they are all on this host; None: where torch lets them meet.

    Torch's own store asks for no password and listens on all interfaces, also for ranks that say
    MASTER_ADDR=127.0.0.1.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if address != LOOPBACK or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return None
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    leads = rank() == 0
    listening = socket.create_server((address, port)).detach() if leads else None
    return TCPStore(
        address,
        port,
        world_size(),
        is_master=leads,
        timeout=timeout,
        master_listen_fd=listening,
    )


def sum_over_ranks(values: Sequence[float], device: torch.device) -> list[float]:
    """Element-wise sums of `values` over all ranks, in float64. Every rank calls it."""
    total = torch.tensor(values, dtype=torch.float64, device=device)
    if world_size() > 1:
        dist.all_reduce(total)
    return [float(value) for value in total.tolist()]


def sum_array(values: NDArray[np.float64], device: torch.device) -> NDArray[np.float64]:
    """Element-wise sums of arrays of one shape over all ranks. Every rank calls it."""
    if world_size() == 1:
        return values
    total = torch.from_numpy(values).to(device)
    dist.all_reduce(total)
    summed: NDArray[np.float64] = total.cpu().numpy()
    return summed


def gather_objects(value: T) -> list[T]:
    """The values of all ranks, in rank order; anything that can be pickled. Every rank calls it."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def broadcast_object(value: T, group: Group = None) -> T:
    """Rank 0's value, on every rank; anything that can be pickled. Every rank calls it."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, group=group)
    return values[0]


def gather_on_rank_0(value: T, group: Group = None) -> list[T] | None:
    """The values of all ranks, in rank order, on rank 0; None on the others. Every rank calls it.

    Anything that can be pickled; for what only one rank needs.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, values, group=group)
    return values


def background_group() -> Group:
    """All ranks once more, for a thread beside the training. Every rank calls it; `leave` it.

    A process group must not be used by two threads at once, and NCCL would wait for the stream of
    the steps.
    """
    if world_size() == 1:
        return None
    group: Group = dist.new_group(backend="gloo", timeout=BACKGROUND)
    return group


def leave(group: Group) -> None:
    """Close a `background_group`. Waits for nobody."""
    if group is not None:
        dist.destroy_process_group(group)
