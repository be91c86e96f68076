"""From Enter to the first optimizer step, and where that goes; to a first token; and `--help`.

    python tests/benchmarks/startup.py [--rounds 3]

Each round runs once with an empty cache (the corpus is read and tokenized), once with a full one,
and once more to go on from that run, whose model then writes one token: that takes from Enter to
the end of the command. The disk is warm after the first round.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(__import__("pathlib").Path(__file__).parents[2]))

from tests.benchmarks.runs import ROOT, event_of, run_job, scratch, spread


def took(*words: str) -> float:
    """Seconds of `orchestrate` with these words, from Enter to its end."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "orchestrator", *words]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return time.perf_counter() - begun


def main() -> None:
    """Print seconds, part by part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {}
    with scratch() as outputs:
        run = str(outputs / "latest")
        for _ in range(rounds):
            seconds.setdefault("orchestrate --help", []).append(took("--help"))
            with tempfile.TemporaryDirectory() as cache:
                os.environ["ORCHESTRATE_CACHE"] = cache
                few = ["stage.steps=2", "optim.warmup_steps=1", "stage.sample_tokens=0"]
                again = [*few, "stage.steps=4", f"resume={run}"]
                for state, settings in (
                    ("empty cache", few),
                    ("full cache", few),
                    ("full cache, resumed", again),
                ):
                    first = event_of(run_job(outputs, *settings), "first_step")
                    seconds.setdefault(f"{state}: first step", []).append(first["seconds"])
                    for part, own in first["parts"].items():
                        seconds.setdefault(f"{state}:   {part}", []).append(own)
            for verb, words in (
                (
                    "generate",
                    [str(outputs / "latest"), "--prompt=Return the", "--max-new-tokens=1"],
                ),
                ("show", [str(outputs / "latest")]),
                ("runs", [str(outputs)]),
                ("plan", []),
            ):
                seconds.setdefault(f"orchestrate {verb}", []).append(took(verb, *words))
    for name, values in seconds.items():
        print(f"{name:48} {spread(values)} s")


if __name__ == "__main__":
    main()
