"""A model before it was pruned, right after, and trained again: bits per byte, size and speed.

    python tests/benchmarks/pruning.py [--weights RUN] [--steps 140] [--rate 1e-4] [OPTIONS ...]

Trains the default model, unless a run is given, prunes it by `orchestrate prune` with the options
(by default --sparsity 0.5, then --heads 2 --neurons 256), and trains what is left with the default
job for some steps. Each line has the bits per byte of held-out text by `stage=evaluate`, with its
interval, the parameters, those that are not zero and their bytes in fp32, and the tokens that it
reads in a second of CPU. Zeros are multiplied like other numbers: they make no model faster here.
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

USUAL = (["--sparsity", "0.5"], ["--heads", "2", "--neurons", "256"])
READ, ROUNDS = 4096, 9  # tokens at once, and how often


def line(name: str, weights: Path, outputs: Path) -> None:
    """Print what a model is worth and takes."""
    run = run_job(outputs, "stage=evaluate", f"checkpoint={weights}", "tracking=none")
    found = json.loads((run / "result.json").read_text())["metrics"]
    bits = [found[f"validation/bits_per_byte{end}"] for end in ("", "_low", "_high")]
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
        f"{name}: {bits[0]:.3f} ({bits[1]:.3f} to {bits[2]:.3f}) bits per byte; {numbers:,} "
        f"parameters, {full:,} not zero, {4 * full / 1e6:.2f} MB; "
        f"{READ / min(took):,.0f} tokens a second of CPU",
        flush=True,
    )


def main() -> None:
    """Print three lines for each way to prune."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--steps", type=int, default=140)
    parser.add_argument("--rate", type=float, default=1e-4, help="of learning, far below the first")
    asked, options = parser.parse_known_args()
    with scratch() as outputs:
        weights = asked.weights or run_job(outputs, "tracking=none")
        line("before", weights.resolve(), outputs)
        for number, own in enumerate([options] if options else USUAL):
            folder = outputs / f"pruned-{number}"
            command = [sys.executable, "-m", "orchestrator", "prune", str(weights), str(folder)]
            subprocess.run([*command, *own], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            line(f"{' '.join(own)}, pruned", folder, outputs)
            job = (f"model.weights={folder}", f"stage.steps={asked.steps}", "tracking=none")
            rate = (f"optim.learning_rate={asked.rate}", "optim.warmup_steps=10")
            again = run_job(outputs, *job, *rate, "stage.checkpoint_every=null")
            line(f"{' '.join(own)}, trained again", again, outputs)


if __name__ == "__main__":
    main()
