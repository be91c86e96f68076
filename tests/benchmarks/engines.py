"""The same losses whatever carries out the steps: plain PyTorch, ZeRO 0 to 3; 1 worker or 2.

    python tests/benchmarks/engines.py

20 steps in fp32 over rows with ragged numbers of valid tokens, on real gloo processes. Prints the
largest relative difference of the loss to plain PyTorch in one process. What is left is the order
of float32 sums: ZeRO reduces flattened buckets, PyTorch adds parameter by parameter.
"""

import sys

sys.path.insert(0, str(__import__("pathlib").Path(__file__).parents[2]))

from tests.orchestrator import tiny
from tests.orchestrator.ranks import World


def main() -> None:
    """Print a line per engine."""
    worlds = {1: World(1), 2: World(2)}
    reference, _ = worlds[1].run(tiny.train, tiny.job("torch"))[0]
    for name, workers, accumulation in (
        ("torch", 1, 2), ("zero0", 2, 1), ("zero1", 2, 1), ("zero2", 2, 1), ("zero3", 2, 1),
        ("zero1", 1, 2), ("zero1", 2, 2),
    ):  # fmt: skip
        losses, _ = worlds[workers].run(tiny.train, tiny.job(name, workers, accumulation))[0]
        pairs = zip(losses, reference, strict=True)
        worst = max(abs(loss - expected) / expected for loss, expected in pairs)
        print(f"{name:6} {workers} workers x {accumulation} micro-steps: {worst:.1e}")
    for world in worlds.values():
        world.stop()


if __name__ == "__main__":
    main()
