"""From Enter of `submit` to its return, and from admission to the first step, on a warm cluster.

    python tests/benchmarks/submit.py [--rounds 5]

A cluster is brought up in a folder of its own, and taken down at the end. The first round fills the
caches of data and code, and is not counted. The job has one worker with one CPU. Where the time to
the first step goes is told as the run tells it, from the start of its driver.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(__import__("pathlib").Path(__file__).parents[2]))

from cluster.queue.client import connect
from tests.benchmarks.runs import ROOT, event_of, scratch, spread

JOB = ["resources=cpu1", "stage.steps=3", "optim.warmup_steps=1", "stage.sample_tokens=0"]
LOOK_S = 0.05
LIMIT_S = 120.0


def orchestrate(*words: str) -> str:
    """What `orchestrate` with these words prints."""
    command = [sys.executable, "-m", "orchestrator", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def first_step(job: str, state: Path) -> tuple[float, dict[str, float]]:
    """When a job wrote its first step, in seconds since 1970, and its parts; waits for its end."""
    run, deadline = state / "jobs" / job / "run", time.monotonic() + LIMIT_S
    while not (run / "result.json").exists():
        if time.monotonic() > deadline:
            raise SystemExit(orchestrate("status", job) + orchestrate("logs", job))
        time.sleep(LOOK_S)
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    at = next(line["time_ms"] for line in lines if "train/loss" in line["metrics"]) / 1000
    return at, event_of(run.resolve(), "first_step")["parts"]


def main() -> None:
    """Print seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {}
    with scratch() as outputs:
        state = outputs / "state"
        os.environ["ORCHESTRATE_STATE"] = str(state)
        begun = time.time()
        orchestrate("up", f"--outputs={outputs}")
        seconds["orchestrate up"] = [time.time() - begun]
        try:
            for number in range(rounds + 1):
                begun = time.time()
                job = orchestrate("submit", *JOB, f"outputs={outputs}").split()[0]
                returned, (stepped, parts) = time.time(), first_step(job, state)
                while "done" not in orchestrate("status", job).splitlines()[0]:
                    time.sleep(LOOK_S)
                if not number:
                    continue
                events = connect().get(job)["events"]
                at = {event["state"]: event["at_s"] for event in events}
                took = {
                    "submit returns": returned - begun,
                    "submitted to admitted": at["starting"] - at["waiting"],
                    "admitted to first step": stepped - at["starting"],
                    "Enter to first step": stepped - begun,
                    **{f"  {name}": own for name, own in parts.items()},
                }
                for name, own in took.items():
                    seconds.setdefault(name, []).append(own)
        finally:
            orchestrate("down")
    for name, values in seconds.items():
        print(f"{name:24} {spread(values)} s")


if __name__ == "__main__":
    main()
