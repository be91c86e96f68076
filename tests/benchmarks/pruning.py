"""A model before it was pruned, right after, and trained again: bits per byte, size and speed.

    python tests/benchmarks/pruning.py [SETTINGS ...] [--weights RUN] [--steps 140] [--rate 1e-3]
        [--options "--sparsity 0.5" ...]

Trains the default model, unless a run is given, prunes it by `orchestrate prune` (by default with
--sparsity 0.5, then with --heads 2 --neurons 256), and trains what is left with the default job for
some steps; so it does with the whole model, by which that is to be judged. Each line has the bits
per byte of held-out text by `stage=evaluate`, with its interval, the parameters, those that are not
zero and their bytes in fp32, and the tokens that it reads in a second of CPU. Zeros are multiplied
like other numbers: they make no model faster here. SETTINGS go to every run.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from orchestrator.training import checkpoint
from tests.benchmarks.runs import ROOT, run_job, scratch

USUAL = ("--sparsity 0.5", "--heads 2 --neurons 256")
READ, ROUNDS = 4096, 9  # tokens at once, and how often


def bits(name: str, weights: Path, outputs: Path, settings: list[str]) -> float:
    """Print what a model is worth and takes; returns its bits per byte."""
    words = ("stage=evaluate", f"checkpoint={weights}", "tracking=none", *settings)
    run = run_job(outputs, *words)
    found = json.loads((run / "result.json").read_text())["metrics"]
    own, low, high = (found[f"validation/bits_per_byte{end}"] for end in ("", "_low", "_high"))
    opened = checkpoint.open_weights(weights)
    assert opened.model_config is not None
    model = checkpoint.build_model(opened.reader, opened.model_config).eval()
    numbers = sum(p.numel() for p in model.parameters())
    full = sum(int((p != 0).sum()) for p in model.parameters())
    tokens = torch.randint(100, (READ // 256, 256))
    took = []
    with torch.inference_mode():
        for _ in range(ROUNDS):
            begun = time.process_time()
            model(tokens)
            took.append(time.process_time() - begun)
    print(
        f"{name}: {own:.3f} ({low:.3f} to {high:.3f}) bits per byte; {numbers:,} parameters, "
        f"{full:,} not zero, {4 * full / 1e6:.2f} MB; "
        f"{READ / min(took):,.0f} tokens a second of CPU",
        flush=True,
    )
    return float(own)


def main() -> None:
    """Print two lines for the whole model, and two for each way to prune it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--steps", type=int, default=140)
    parser.add_argument("--rate", type=float, default=1e-3, help="of learning, below the first")
    parser.add_argument("--options", nargs="+", default=USUAL, help="of `orchestrate prune`")
    parser.add_argument("settings", nargs="*")
    asked = parser.parse_args()
    with scratch() as outputs:
        weights = (asked.weights or run_job(outputs, "tracking=none", *asked.settings)).resolve()
        before = bits("whole", weights, outputs, asked.settings)

        def again(start: Path) -> Path:
            """What training again with the default job makes of it."""
            job = (f"model.weights={start}", f"stage.steps={asked.steps}", "tracking=none")
            rate = (f"optim.learning_rate={asked.rate}", "optim.warmup_steps=10")
            return run_job(outputs, *job, *rate, "stage.checkpoint_every=null", *asked.settings)

        longer = bits("whole, trained on", again(weights), outputs, asked.settings)
        for number, options in enumerate(asked.options):
            folder = outputs / f"pruned-{number}"
            command = [sys.executable, "-m", "orchestrator", "prune", str(weights), str(folder)]
            own = options.split()
            subprocess.run([*command, *own], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            pruned = bits(f"{options}, pruned", folder, outputs, asked.settings)
            name = f"{options}, trained again"
            found = bits(name, again(folder), outputs, asked.settings)
            print(
                f"{options}: {(pruned - found) / (pruned - before):.0%} of what was lost is back; "
                f"behind the whole model trained on by {found - longer:+.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
