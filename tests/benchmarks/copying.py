"""What copying a checkpoint to a store costs, next to sending the same files by s3fs alone.

    [TMPDIR=...] python tests/benchmarks/copying.py [--megabytes 300] [--rounds 5]

In turns, to an S3 server (moto) in a process of its own on this machine: the files of a checkpoint
by `s3fs.put_file`, one after another, and the checkpoint by the copier, with hashes, fence and
record. Told are processor seconds of this process, seconds, and how much memory each took at most.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import psutil
import torch

from data.messages import size
from orchestrator.record import fencing
from orchestrator.record.checkpoints.copying import Copier
from orchestrator.record.checkpoints.destination import MEMORY_BYTES
from orchestrator.record.redaction import Redactor
from orchestrator.training import checkpoint
from tests.benchmarks.runs import scratch, spread
from tests.orchestrator.plain import Plain

SERVER = """
import logging, time
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(3600)
"""
WIDTH = 2048


def main() -> None:
    """Print medians and ranges."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    layers = max(1, options.megabytes * 1_000_000 // (12 * WIDTH * WIDTH))
    model = torch.nn.Sequential(*[torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)])
    with (
        scratch() as temporary,
        subprocess.Popen(
            [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True
        ) as server,
    ):
        try:
            assert server.stdout is not None
            os.environ |= {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.stdout.readline().strip()}",
                "AWS_ACCESS_KEY_ID": "nobody",
                "AWS_SECRET_ACCESS_KEY": "nothing",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
            compare(temporary / "2026-01-01" / "run", Plain(model=model), options.rounds)
        finally:
            server.kill()


def compare(run: Path, plain: Plain, rounds: int) -> None:
    """Copy the checkpoint of a run both ways, so many times."""
    import fsspec

    store = fsspec.filesystem("s3")
    store.mkdir("bucket")
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0\n")
    (run / "code.json").write_text("{}")
    fence = fencing.take(run, 1)
    saved = checkpoint.save(run / "checkpoints", 1, {"model": plain.role()}, None, {}, fence)

    def alone() -> None:
        for name in saved.files:
            store.put_file(str(saved.path / name), f"bucket/alone/{name}")

    def copied() -> None:
        Copier(run, "s3://bucket/copied", lambda: fence, Redactor({})).copy_all()
        store.rm("bucket/copied", recursive=True)

    found = {"s3fs alone": list[tuple[float, ...]](), "the copier": []}
    for number in range(rounds + 1):
        for rows, work in zip(found.values(), (alone, copied), strict=True):
            measured = measure(work)
            if number:  # the first warms up
                rows.append(measured)
    print(f"checkpoint   {size(saved.bytes)}; at most {size(MEMORY_BYTES)} is what it may take")
    for name, rows in found.items():
        seconds, processor, memory = zip(*rows, strict=True)
        print(
            f"{name:12} {spread(seconds)} s, {spread(processor)} s of the processor, "
            f"at most {size(max(memory))} of memory"
        )
    ratios = [one[1] / other[1] for one, other in zip(*found.values(), strict=True)]
    print(f"s3fs / copier, in processor time {spread(ratios)}")


def measure(work: Callable[[], None]) -> tuple[float, float, float]:
    """Seconds, processor seconds and the most bytes of memory beyond those before."""
    process, over = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not over.wait(0.005):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began, processor = time.monotonic(), time.process_time()
    work()
    took = time.monotonic() - began, time.process_time() - processor
    over.set()
    watcher.join()
    return *took, float(most - before)


if __name__ == "__main__":
    main()
