"""What recording and showing a step costs, as a part of a step of the default run.

    python tests/benchmarks/tracking.py

Times the whole path of a step's metrics in one thread: the worker's record and its line in a file,
the fence, the journal's line, the screen. In a gang the last three are the driver's work, beside
the training.
The mirror to MLflow is a process of its own at the lowest priority; it is not in this figure.
"""

import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from orchestrator.job.screen import Screen, Terminal
from orchestrator.record.fencing import take as take_fence
from orchestrator.record.journal import Journal
from orchestrator.record.outbox import Outbox
from orchestrator.record.redaction import Redactor
from orchestrator.stages import Outline
from orchestrator.stages.pretrain.driver import EVALUATION, TRAINING
from orchestrator.stages.run import Run
from tests.benchmarks.runs import scratch
from tests.benchmarks.throughput import BATCH, T, bare

STEPS = 3000


def main() -> None:
    """Print microseconds per step, and the part of a step."""
    with scratch() as folder, (folder / "screen").open("w") as file, ExitStack() as stack:
        journal = stack.enter_context(Journal(folder, fence=take_fence(folder, 1)))
        screen = Screen(
            Outline(STEPS, {}, {}, TRAINING, EVALUATION), Terminal(Redactor({}), file=file)
        )

        def take(record: dict) -> None:
            journal.metrics(record["step"], record["metrics"], record["time_ms"])
            screen.metrics(journal.standing, record["metrics"])

        outbox = stack.enter_context(Outbox(folder, 1, take))
        run = Run(folder, torch.device("cpu"), outbox.send, lambda: False, folder)
        names = ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "tokens")
        costs = []
        for step in range(1, STEPS + 1):
            begun = time.perf_counter()
            run.log(step, {f"train/{name}": step / 7 for name in names})
            costs.append(time.perf_counter() - begun)
    cost, step_seconds = statistics.median(costs), BATCH / 2 * T / bare("bf16", 12, 0, 1, 0)
    print(f"recording a step: {cost * 1e6:.0f} us (99%: {sorted(costs)[-STEPS // 100] * 1e6:.0f})")
    print(f"a step of the default run, on one of two workers: {step_seconds * 1e3:.0f} ms")
    print(f"recording / step: {cost / step_seconds:.3%}")


if __name__ == "__main__":
    main()
