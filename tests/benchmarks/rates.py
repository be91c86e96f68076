"""The learning rate that suits each optimizer of `sweep=optimizers`, on its task with other seeds.

python tests/benchmarks/rates.py [--only lion adam]

Prints the mean validation loss of two seeds at five rates three times apart, around the one in
conf/sweep/optimizers.yaml; the best of them, unless it is the first or last, is to stand there.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))

from orchestrator.record.runs import runs
from tests.benchmarks.runs import scratch

ROOT = Path(__file__).parents[2]
SWEEP = ROOT / "conf" / "sweep" / "optimizers.yaml"
AROUND = (0.1, 0.3, 1.0, 3.0, 10.0)
SEEDS = (1, 2)


def main() -> None:
    """Print a line for each optimizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names, such as lion")
    options = parser.parse_args()
    *common, alternatives = yaml.safe_load(SWEEP.read_text())
    for words in map(shlex.split, alternatives):
        optim, rate = (word.partition("=")[2] for word in words)
        if options.only and optim not in options.only:
            continue
        losses = measured(common, optim, [float(f"{float(rate) * x:.1g}") for x in AROUND])
        best = min(losses, key=losses.__getitem__)
        edge = ", at the edge: try others" if best in (min(losses), max(losses)) else ""
        told = "  ".join(f"{rate:g}: {loss:.4f}" for rate, loss in losses.items())
        print(f"{optim:10} best {best:g}{edge}   {told}", flush=True)


def measured(common: list[str], optim: str, rates: list[float]) -> dict[float, float]:
    """The mean validation loss at each rate; infinite where a run has diverged."""
    listed = ",".join(f"{rate:g}" for rate in rates)
    words = [f"optim={optim}", f"optim.learning_rate={listed}", f"seed={SEEDS[0]},{SEEDS[1]}"]
    plain = ["resources=inline", "resources.gpus_per_worker=0", "tracking=none"]
    with scratch() as outputs:
        command = [sys.executable, "-m", "orchestrator", "run", "-m", *common, *words, *plain]
        subprocess.run([*command, f"outputs={outputs}"], cwd=ROOT, capture_output=True, check=False)
        found: dict[float, float] = dict.fromkeys(rates, 0.0)
        for run in runs(outputs):
            loss = run.metrics["validation/loss"] if run.status == "done" else float("inf")
            found[float(run.settings["optim.learning_rate"])] += loss / len(SEEDS)
    return found


if __name__ == "__main__":
    main()
