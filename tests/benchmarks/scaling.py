"""What a scaling law takes to fit, and how often its intervals hold the truth.

    python tests/benchmarks/scaling.py [--seeds 60] [--draws 100]

60 points follow the law of Besiroglu et al. 2024 with noise of 0.5% of the loss, sizes and tokens
drawn by factors over the range of Hoffmann et al. 2022; 20 points are five small sizes on four
amounts of text, with noise of 0.3%. Each seed gives an interval for each of 5 constants, and one
for the loss of a new run of 4 times the largest size.
"""

import argparse
import time

import numpy as np

from orchestrator.scaling.choosing import points_of
from orchestrator.scaling.fitting import fit, one_thread
from orchestrator.scaling.forms import FORMS
from orchestrator.scaling.intervals import bootstrap
from orchestrator.scaling.points import Points

FORM = FORMS["chinchilla"]
PUBLISHED = np.array([np.log(1.8172), np.log(482.01), np.log(2085.43), 0.3478, 0.3658])
STUDY = np.array([np.log(0.9), np.log(60.0), np.log(330.0), 0.45, 0.45])
SIZES, TOKENS = 12288.0 * np.arange(2, 7) ** 3, np.array([0.3e6, 0.6e6, 1.2e6, 2.4e6])


def drawn(count: int, rng: np.random.Generator) -> Points:
    """So many runs of the range of Hoffmann et al., without a loss."""
    sizes = np.exp(rng.uniform(np.log(5e7), np.log(1e10), count))
    tokens = np.exp(rng.uniform(np.log(1e9), np.log(4e11), count))
    return Points(sizes, tokens, np.ones(count))


def study(rng: np.random.Generator) -> Points:
    """Each size on each amount of text."""
    sizes, tokens = (own.ravel() for own in np.meshgrid(SIZES, TOKENS))
    return Points(sizes, tokens, np.ones(len(sizes)))


def measured(points: Points, truth: np.ndarray, noise: float, rng: np.random.Generator) -> Points:
    """The same with losses."""
    logs = FORM.log_loss(truth, points) + noise * rng.normal(size=len(points))
    return Points(points.parameters, points.tokens, np.exp(logs))


def coverage(name: str, design, truth: np.ndarray, noise: float, seeds: int, draws: int) -> None:
    """Print how often intervals hold the constants, and the loss of a new run."""
    held, told = [], []
    for seed in range(1, seeds + 1):
        rng = np.random.default_rng(seed)
        points = measured(design(rng), truth, noise, rng)
        try:
            found = bootstrap(fit(FORM, points), draws, seed)
        except ValueError:
            continue
        low, high = np.array([found.interval(values) for values in found.theta.T]).T
        held += list((low <= truth) & (truth <= high))
        larger = points_of(4 * points.parameters.max(), points.tokens.max())
        _, (low,), (high,) = found.predict(larger)
        told.append(low <= measured(larger, truth, noise, rng).loss[0] <= high)
    print(
        f"90% intervals of {name} hold the truth: {np.mean(held):.3f} of {len(held)} constants, "
        f"{np.mean(told):.3f} of {len(told)} new runs; {seeds - len(told)} not fitted"
    )


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--draws", type=int, default=100)
    options = parser.parse_args()
    with one_thread():
        rng = np.random.default_rng(0)
        points = measured(drawn(240, rng), PUBLISHED, 0.005, rng)
        wall, cpu = time.monotonic(), time.process_time()
        draws = bootstrap(fit(FORM, points))
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        print(f"240 points, 32 starts, {len(draws.theta)} draws: {wall:.1f} s, {cpu:.1f} s of CPU")
        ask = options.seeds, options.draws
        coverage("60 points", lambda rng: drawn(60, rng), PUBLISHED, 0.005, *ask)
        coverage("20 points", study, STUDY, 0.003, *ask)


if __name__ == "__main__":
    main()
