"""From Enter to the first step: from when it is counted, and what is not imported for it."""

import os
import subprocess
import sys
from pathlib import Path

from cluster.host.network import free_port

ROOT = Path(__file__).parents[2]
PRINT_AGE = "import orchestrator, time; print(time.monotonic() - orchestrator.BEGUN)"
TRAIN = """
import sys
import torch
from orchestrator.training import distributed
from tests.orchestrator.tiny import job, train

train(job("torch"), 1)
with distributed.process_group(torch.device("cpu")):
    train(job("zero1"), 1)
print(sorted({"torch._dynamo", "torch._inductor", "sympy", "mlflow", "ray"} & set(sys.modules)))
"""


def test_what_a_shell_did_before_it_became_this_program_is_not_counted():
    script = 'sleep 0.7 && exec "$0" -c "$1"'
    command = ["bash", "-c", script, sys.executable, PRINT_AGE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 0.6


def test_a_process_that_trains_imports_no_compiler_and_nothing_of_the_driver():
    world = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN],
        cwd=ROOT,
        env={**os.environ, **world, "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n", done.stderr
