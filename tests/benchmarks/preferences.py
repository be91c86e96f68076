"""A rule's preference learned by a reward model, and by policies, of prompts that were held out.

    python tests/benchmarks/preferences.py [--weights RUN] [--seeds 3] [--stages grpo ppo] [--keep]
        [SETTINGS ...]

Trains a model that answers (`stage=sft`), unless one is given. From its weights each stage trains
for each seed with its defaults, and a line tells what that gave: of `reward` how many held-out
pairs are told apart, with the calibration error; of the policies the reward of their own answers to
held-out prompts before, after, and the gain with its bootstrap interval, and how far they are from
the reference. `--keep` writes the curves of these runs as the reference curves of their stages, by
which `orchestrate compare RUN` says whether a run is as it should be.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from orchestrator.record.comparing.recipes import keep
from orchestrator.record.runs import Run
from tests.benchmarks.runs import run_job, scratch

CURVES = {
    "sft": "validation/loss",
    "reward": "validation/loss",
    "dpo": "validation/loss",
    "grpo": "validation/reward",
    "ppo": "validation/reward",
}
"""Of each stage the metric whose curve tells of a run whether it goes as others did."""
FORMS = {
    "sft": "exact answers {validation/exact:.1%}, loss {validation/loss:.3f}",
    "reward": "{validation/accuracy:.1%} of pairs told apart, calibration error "
    "{validation/calibration_error:.3f}",
    "dpo": "reward {answers/reward:.3f}, gain {answers/reward_gain:+.3f} "
    "({answers/reward_gain_low:+.3f} to {answers/reward_gain_high:+.3f}), KL {answers/kl:.2f} nats "
    "an answer",
}
FORMS["grpo"] = FORMS["ppo"] = (
    "reward {validation/reward:.3f}, gain {answers/reward_gain:+.3f} "
    "({answers/reward_gain_low:+.3f} to {answers/reward_gain_high:+.3f}), KL {validation/kl:.3f} "
    "nats a token"
)


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stages", nargs="+", default=["reward", "dpo", "grpo", "ppo"])
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("settings", nargs="*")
    asked = parser.parse_args()
    with scratch() as outputs:
        weights = asked.weights or run_job(outputs, "stage=sft")
        for stage in asked.stages:
            runs: list[Run] = []
            for seed in range(asked.seeds):
                begun = time.perf_counter()
                start = f"stage={stage}", f"model.weights={weights.resolve()}", f"seed={seed}"
                runs.append(Run(run_job(outputs, *start, *asked.settings)))
                seconds = time.perf_counter() - begun
                metrics = json.loads((runs[-1].folder / "result.json").read_text())["metrics"]
                told = FORMS[stage].format_map(metrics)
                print(f"{stage:7}seed {seed}: {told}; {seconds:.0f} s", flush=True)
            if asked.keep:
                keep(stage, CURVES[stage], runs)


if __name__ == "__main__":
    main()
