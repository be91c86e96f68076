"""From a model that knows text to aligned ones: what each stage of post-training gives by its seed.

    python tests/benchmarks/preferences.py [SETTINGS ...] [--base RUN | --answering RUN ...]
        [--seeds 3] [--stages sft reward ...] [--outputs FOLDER] [--keep]

Trains the default model and from it, for each seed, one that answers (`stage=sft`), unless such
runs are given; and from each of these one by reward, dpo, grpo and ppo with their defaults. A line
tells what each gave: of `sft` exact answers to what was held out, of `reward` how many held-out
pairs are told apart, with the calibration error; of the policies the reward of their own answers to
held-out prompts before, after, and the gain with its bootstrap interval, and how far they are from
the reference. `--keep` writes the curves of these runs as the reference curves of their stages, by
which `orchestrate compare RUN` says whether a run is as it should be. SETTINGS go to every run.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import cycle
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from orchestrator.record.comparing.recipes import keep
from orchestrator.record.runs import Run
from tests.benchmarks.runs import run_job, scratch

CURVES = {
    "sft": ("validation/loss",),
    "reward": ("validation/loss",),
    "dpo": ("validation/loss", "validation/margin"),
    "grpo": ("validation/reward", "validation/kl"),
    "ppo": ("validation/reward", "validation/kl"),
}
"""Of each stage the metrics whose curves tell of a run whether it goes as others did."""
FORMS = {
    "sft": "exact answers {written/exact:.1%}, F1 {written/f1:.1%}, loss {validation/loss:.3f}, of "
    "base text {validation/base_loss:.3f}",
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


BASE = "PRETRAIN_RUN"
ANSWERING = "SFT_RUN"


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path)
    parser.add_argument(
        "--answering", type=Path, nargs="+", help="runs of stage=sft, which the seeds take in turn"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stages", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--outputs", type=Path, help="where the runs stay")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("settings", nargs="*")
    asked = parser.parse_args()
    with nullcontext(asked.outputs) if asked.outputs else scratch() as outputs:
        answering = asked.answering
        if answering is None:
            base = asked.base or run_job(outputs, *asked.settings)
            answering = trained("sft", [base], asked, outputs)
        for stage in asked.stages:
            if stage != "sft":
                trained(stage, answering, asked, outputs)


def trained(
    stage: str, starts: Sequence[Path], asked: argparse.Namespace, outputs: Path
) -> list[Path]:
    """Runs of a stage, one for each seed, which take the weights to start from in turn."""
    runs: list[Run] = []
    for seed, start in zip(range(asked.seeds), cycle(starts), strict=False):
        begun = time.perf_counter()
        settings = f"stage={stage}", f"model.weights={start.resolve()}", f"seed={seed}"
        runs.append(Run(run_job(outputs, *settings, *asked.settings)))
        seconds = time.perf_counter() - begun
        metrics = json.loads((runs[-1].folder / "result.json").read_text())["metrics"]
        told = FORMS[stage].format_map(metrics)
        print(f"{stage:7}seed {seed}: {told}; {seconds:.0f} s", flush=True)
    if asked.keep:
        weights = BASE if stage == "sft" else ANSWERING
        keep(stage, CURVES[stage], runs, f"orchestrate run stage={stage} model.weights={weights}")
    return [run.folder for run in runs]


if __name__ == "__main__":
    main()
