"""Two roles in one process against each alone: the step of both, over the sum of the two.

    python tests/benchmarks/roles.py [--steps 40] [--ranks 1]

In each round one process after another does one step: policy alone, critic alone, and both in one
process, so that what else the machine does hits all alike. Medians over the rounds.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from models.configs import GPTConfig
from orchestrator.config import EngineConfig, OptimConfig, RoleConfig
from orchestrator.training.roles import build_role
from tests.orchestrator.ranks import World

MODEL = GPTConfig(vocab_size=2048, max_positions=128, layers=4, width=256, heads=4)
ROLES = {"policy": 1, "critic": 3}
"""ZeRO stage by role."""
COLD = 5
"""First steps, which are not counted."""
KEPT = []


def build(names: list[str]) -> None:
    """Make these roles in this process."""
    for name in names:
        config = RoleConfig(MODEL, EngineConfig(zero_stage=ROLES[name]), OptimConfig())
        role = build_role(name, config, device=torch.device("cpu"), seed=0, micro_batch=8)
        KEPT.append(role.engine)


def step() -> float:
    """Seconds of one step of every role of this process, one after another."""
    tokens = torch.arange(8 * 128).view(8, 128) % MODEL.vocab_size
    begun = time.perf_counter()
    for engine in KEPT:
        engine.backward(engine.forward(tokens).logsumexp(-1).mean())
        engine.step(1e-3)
    return time.perf_counter() - begun


def main() -> None:
    """Print medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--ranks", type=int, default=1)
    options = parser.parse_args()
    kinds = {"policy": ["policy"], "critic": ["critic"], "both": list(ROLES)}
    worlds = {kind: World(options.ranks) for kind in kinds}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    try:
        for kind, names in kinds.items():
            worlds[kind].run(build, names)
        for _ in range(options.steps):
            for kind, world in worlds.items():
                seconds[kind].append(max(world.run(step)))
    finally:
        for world in worlds.values():
            world.stop()
    medians = {kind: 1000 * statistics.median(times[COLD:]) for kind, times in seconds.items()}
    ratios = [
        both / (policy + critic)
        for policy, critic, both in zip(*(seconds[kind][COLD:] for kind in kinds), strict=True)
    ]
    for kind, median in medians.items():
        print(f"{kind:7} {median:7.1f} ms")
    print(f"both / (policy + critic): {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
