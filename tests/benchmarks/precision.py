"""bf16 against fp32: throughput of the 10M preset, and the loss of the default run.

python tests/benchmarks/precision.py [--rounds 3] [--steps 20] [--loss]
"""

import argparse
import json
import sys

sys.path.insert(0, str(__import__("pathlib").Path(__file__).parents[2]))

from tests.benchmarks.runs import run_job, scratch, spread, throughput

SETTINGS = [
    "model=gpt_10m", "resources=cpu1", "optim.warmup_steps=1", "stage.sample_tokens=0",
    "stage.global_batch_size=8", "data.sequence_length=256", "stage.evaluate_every=100000",
    "stage.checkpoint_every=100000", "tracking=none",
]  # fmt: skip


def main() -> None:
    """Print the ratio of throughputs; with --loss, of the validation losses too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--loss", action="store_true", help="two default runs, minutes each")
    options = parser.parse_args()
    rates: dict[str, list[float]] = {"fp32": [], "bf16": []}
    with scratch() as outputs:
        for _ in range(options.rounds):
            for precision, found in rates.items():
                precise = f"engine.precision={precision}"
                folder = run_job(outputs, *SETTINGS, precise, f"stage.steps={options.steps}")
                found.append(throughput(folder))
        ratios = [a / b for a, b in zip(rates["bf16"], rates["fp32"], strict=True)]
        for precision, found in rates.items():
            print(f"gpt_10m {precision}: {spread(found)} tokens/s")
        print(f"gpt_10m bf16 / fp32: {spread(ratios)}")
        if options.loss:
            losses = {}
            for precision in rates:
                folder = run_job(outputs, f"engine.precision={precision}", "tracking=none")
                result = json.loads((folder / "result.json").read_text())
                losses[precision] = result["metrics"]["validation/loss"]
                print(f"default run {precision}: validation loss {losses[precision]:.4f}")
            print(f"default run, loss bf16 / fp32: {losses['bf16'] / losses['fp32']:.4f}")


if __name__ == "__main__":
    main()
