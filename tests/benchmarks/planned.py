"""What a plan says of step time and memory, against what the run then takes.

Ten models of a 30-fold range of size are trained for a few steps each, by the command line and on
all cores. Each line tells what the measurement of this machine alone had foretold (`doctor
--calibrate`, which is taken first), and what the plan said that also knew the runs before.

    python tests/benchmarks/planned.py [--steps 24] [--precision bf16] [--only N ...]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from data.messages import size
from orchestrator.plan import calibration, lessons
from orchestrator.plan.forecast import forecast
from orchestrator.plan.planning import rough_plan
from orchestrator.plan.timing import Hardware
from orchestrator.stages import saved

ROOT = Path(__file__).parents[2]
MODELS = (  # layers, width, heads, tokens of a sequence, sequences of a step
    (2, 64, 2, 128, 16),
    (6, 512, 8, 128, 8),
    (4, 96, 3, 256, 12),
    (6, 384, 6, 256, 6),
    (4, 128, 4, 128, 24),
    (6, 320, 5, 256, 8),
    (6, 160, 5, 256, 12),
    (4, 320, 5, 512, 4),
    (6, 192, 6, 256, 12),
    (8, 192, 6, 128, 16),
)


@dataclass(frozen=True)
class Figures:
    """Of one run: measured, told by the calibration alone, and told by the plan."""

    step: tuple[float, float, float]
    memory: tuple[float, float, float]


def orchestrate(*words: str) -> str:
    """The output of a command. Raises if it fails."""
    command = [sys.executable, "-m", "orchestrator", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def environment() -> dict[str, str]:
    """Of the commands: this code."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


def run(model: tuple[int, ...], options: argparse.Namespace) -> tuple[int, Figures]:
    """Train one model; its parameters, and what was told and measured."""
    layers, width, heads, length, batch = model
    before, taught = calibration.load(), lessons.load()
    assert before is not None
    orchestrate(
        "run", f"model.layers={layers}", f"model.width={width}", f"model.heads={heads}",
        f"model.max_positions={length}", f"data.sequence_length={length}",
        f"stage.global_batch_size={batch}", f"stage.steps={options.steps}", "tracking=none",
        "optim.warmup_steps=1", "stage.sample_tokens=0", "stage.evaluate_every=null",
        f"engine.precision={options.precision}",
    )  # fmt: skip
    folder = Path("outputs/latest").resolve()
    found = json.loads((folder / "result.json").read_text())["metrics"]
    plan = rough_plan(saved.load(folder / "config.yaml"))
    alone = Hardware(calibration=before, lessons=replace(taught, steps={}))
    bare = forecast(plan.config, plan.outline, alone)
    assert bare.step_seconds is not None
    assert bare.peak is not None
    step = found["plan/step_seconds_measured"], bare.step_seconds, found["plan/step_seconds"]
    memory = found["plan/memory_bytes_measured"], bare.peak, found["plan/memory_bytes"]
    return plan.parameters, Figures(step, memory)


def off(figures: tuple[float, float, float], told: int) -> float:
    """By what part a number was told too high."""
    return figures[told] / figures[0] - 1


def main() -> None:
    """Print a line for each model, then the errors over all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--only", type=int, nargs="+", help="numbers of models, from 0")
    options = parser.parse_args()
    models = [MODELS[n] for n in options.only] if options.only else MODELS
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        os.environ["ORCHESTRATE_CACHE"] = str(Path(scratch) / "cache")
        begun = time.monotonic()
        print(orchestrate("doctor", "--calibrate"), end="")
        print(f"calibrated in {time.monotonic() - begun:.0f} s")
        every = []
        for model in models:
            parameters, own = run(model, options)
            every.append(own)
            print(
                f"{parameters:12,} parameters: {own.step[0]:.3g} s/step, calibration "
                f"{off(own.step, 1):+.1%}, plan {off(own.step, 2):+.1%}; {size(own.memory[0])}, "
                f"calibration {off(own.memory, 1):+.1%}, plan {off(own.memory, 2):+.1%}",
                flush=True,
            )
        print("errors, median and largest:", end="")
        for what, column in (("calibration", 1), ("plan", 2)):
            for name in ("step", "memory"):
                errors = [abs(off(getattr(own, name), column)) for own in every]
                middle = statistics.median(errors)
                print(f" {name} by {what} {middle:.1%}, {max(errors):.1%};", end="")
        print()


if __name__ == "__main__":
    main()
