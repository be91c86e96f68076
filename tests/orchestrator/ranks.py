"""Real gloo processes for tests: run a function of this module's neighbours on N ranks."""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

LIMIT_S = 240


def run_ranks(target: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
    """Results of `target(*arguments)` on each rank of a gloo group, in rank order."""
    context = multiprocessing.get_context("spawn")
    port = _free_port()
    pipes, processes = [], []
    for rank in range(world_size):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_enter, args=(theirs, rank, world_size, port, target, arguments), daemon=True
        )
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        return [_receive(pipe, rank) for rank, pipe in enumerate(pipes)]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _receive(pipe: Connection, rank: int) -> Any:
    assert pipe.poll(LIMIT_S), f"rank {rank} did not answer in {LIMIT_S} s"
    ok, value = pickle.loads(pipe.recv_bytes())
    assert ok, f"rank {rank}:\n{value}"
    return value


def _enter(
    pipe: Connection, rank: int, world_size: int, port: int, target: Callable[..., Any], args: Any
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }
    try:
        import torch

        from orchestrator.training import distributed

        torch.set_num_threads(1)
        with distributed.process_group(torch.device("cpu")):
            answer = (True, target(*args))
    except BaseException:
        answer = (False, traceback.format_exc())
    pipe.send_bytes(pickle.dumps(answer))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
