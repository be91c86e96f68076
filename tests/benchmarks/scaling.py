"""What a scaling law takes to fit, and how often its intervals hold the truth.

    python tests/benchmarks/scaling.py [--seeds 60]

The points follow the law of Besiroglu et al. 2024 with noise of 0.5% of the loss, sizes and tokens
drawn by factors over the range of Hoffmann et al. 2022.
"""

import argparse
import time

import numpy as np

from orchestrator.scaling.fitting import fit, one_thread
from orchestrator.scaling.forms import FORMS
from orchestrator.scaling.intervals import bootstrap
from orchestrator.scaling.points import Points

FORM = FORMS["chinchilla"]
TRUTH = np.array([np.log(1.8172), np.log(482.01), np.log(2085.43), 0.3478, 0.3658])
NOISE = 0.005


def drawn(count: int, seed: int) -> Points:
    """So many runs."""
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.uniform(np.log(5e7), np.log(1e10), count))
    tokens = np.exp(rng.uniform(np.log(1e9), np.log(4e11), count))
    logs = FORM.log_loss(TRUTH, Points(sizes, tokens, np.ones(count)))
    return Points(sizes, tokens, np.exp(logs + NOISE * rng.normal(size=count)))


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=60)
    seeds = parser.parse_args().seeds
    with one_thread():
        points, wall, cpu = drawn(240, 0), time.monotonic(), time.process_time()
        draws = bootstrap(fit(FORM, points))
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        print(f"240 points, 32 starts, {len(draws.theta)} draws: {wall:.1f} s, {cpu:.1f} s of CPU")
        held = []
        for seed in range(1, seeds + 1):
            found = bootstrap(fit(FORM, drawn(60, seed)), 100, seed)
            low, high = np.percentile(found.theta, [5, 95], axis=0)
            held += list((low - TRUTH) * (high - TRUTH) <= 0)
        print(f"90% intervals of 60 points hold the truth: {np.mean(held):.2f} of {len(held)}")


if __name__ == "__main__":
    main()
