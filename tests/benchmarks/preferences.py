"""A rule's preference learned by a reward model and by DPO, of answers that were held out.

    python tests/benchmarks/preferences.py [--weights RUN] [--seeds 3] [DPO SETTINGS ...]

Trains a model that answers (`stage=sft`), unless one is given; then, for each seed, a reward model
from its weights and a policy by `stage=dpo`, each with its defaults. It prints how many held-out
pairs the reward model tells apart, with its calibration error; by how much the policy's own answers
are better by the rule, with the bootstrap interval; and their distance from the reference in nats.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.runs import run_job, scratch


def measured(outputs: Path, *words: str) -> tuple[dict[str, float], float]:
    """The metrics of a run, and its seconds."""
    begun = time.perf_counter()
    folder = run_job(outputs, *words)
    found: dict[str, float] = json.loads((folder / "result.json").read_text())["metrics"]
    return found, time.perf_counter() - begun


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("settings", nargs="*")
    asked = parser.parse_args()
    with scratch() as outputs:
        weights = asked.weights or run_job(outputs, "stage=sft")
        for seed in range(asked.seeds):
            own = (f"model.weights={weights.resolve()}", f"seed={seed}")
            found, seconds = measured(outputs, "stage=reward", *own)
            told, error = (
                found[f"validation/{name}"] for name in ("accuracy", "calibration_error")
            )
            print(
                f"seed {seed}: reward model tells apart {told:.1%} of pairs, calibration error "
                f"{error:.3f}; {seconds:.0f} s"
            )
            found, seconds = measured(outputs, "stage=dpo", *own, *asked.settings)
            gain, low, high = (found[f"answers/reward_gain{end}"] for end in ("", "_low", "_high"))
            print(
                f"seed {seed}: dpo tells apart {found['validation/accuracy']:.1%} of pairs; reward "
                f"{gain:+.3f} ({low:+.3f} to {high:+.3f}), {found['answers/kl']:.2f} nats from the "
                f"reference; {seconds:.0f} s"
            )


if __name__ == "__main__":
    main()
