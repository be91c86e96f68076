"""Real gloo processes for tests: functions of test modules run on N ranks, started once.

Importing torch and DeepSpeed takes the longest, so one World serves many tests. After a test that
failed in it, it is started anew, since its ranks may wait for each other.
"""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

LIMIT_S = 240
LIMIT_AFTER_A_FAILURE_S = 5


class World:
    """N processes of one torch.distributed group over gloo."""

    def __init__(self, world_size: int) -> None:
        """Start nothing yet."""
        self.world_size = world_size
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def run(self, target: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Results of `target(*arguments)` on each rank, in rank order."""
        answers = self.try_run(target, *arguments)
        for rank, (ok, value) in enumerate(answers):
            assert ok, f"rank {rank}:\n{value}"
        return [value for _, value in answers]

    def try_run(self, target: Callable[..., Any], *arguments: Any) -> list[tuple[bool, Any]]:
        """For each rank whether the target returned, and its result or else its traceback."""
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send_bytes(pickle.dumps((target, arguments)))
        answers: dict[Any, tuple[bool, Any]] = {}
        limit = LIMIT_S
        while waiting := [pipe for pipe in self._pipes if pipe not in answers]:
            ready = wait(waiting, limit)
            answers |= (
                dict.fromkeys(waiting, (False, f"no answer in {limit} s")) if not ready else {}
            )
            for pipe in ready:
                answers[pipe] = pickle.loads(pipe.recv_bytes())
            if not all(ok for ok, _ in answers.values()):
                limit = LIMIT_AFTER_A_FAILURE_S
        by_rank = [answers[pipe] for pipe in self._pipes]
        if not all(ok for ok, _ in by_rank):
            self.stop()
        return by_rank

    def stop(self) -> None:
        """Kill the processes; the next run starts new ones."""
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._pipes = [], []

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        port = _free_port()
        for rank in range(self.world_size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, rank, self.world_size, port), daemon=True
            )
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)


def _serve(pipe: Connection, rank: int, world_size: int, port: int) -> None:
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
    import warnings

    import torch

    from orchestrator.training import distributed

    warnings.simplefilter("ignore", FutureWarning)  # torch about DeepSpeed's collectives
    torch.set_num_threads(1)
    with distributed.process_group(torch.device("cpu")):
        while True:
            try:
                target, arguments = pickle.loads(pipe.recv_bytes())
            except EOFError:
                return
            try:
                answer = (True, target(*arguments))
            except BaseException:
                answer = (False, traceback.format_exc())
            pipe.send_bytes(pickle.dumps(answer))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
