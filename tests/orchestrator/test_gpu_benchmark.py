"""tests/benchmarks/gpu.py in small on a CPU: where there is no GPU, nobody else would run it."""

import subprocess
import sys
from pathlib import Path

from tests.benchmarks import gpu

ROOT = Path(__file__).parents[2]
SMALL = [
    "--device=cpu", "--layers=2", "--width=32", "--heads=2", "--vocabulary=300", "--tokens=32",
    "--steps=2", "--parity-steps=3", "--parity-tokens=16", "--matmul=64", "--prompt=4", "--new=4",
    "--batches", "1", "3",
]  # fmt: skip
TOO_LARGE = 10**11  # sequences; torch refuses to allocate them


def test_every_part_reports_and_what_fails_is_a_line_of_the_report():
    words = [*SMALL, "--here", "--micro-batches", "2", str(TOO_LARGE)]
    words += ["--variants", "eager", "whole-logits", "recompute", "fp32"]
    code = (
        "import sys; from tests.benchmarks import gpu; gpu.main(sys.argv[1:])\n"
        "loaded = {'ray', 'deepspeed', 'mlflow', 'hydra'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum("losses 0; from" in line for line in lines) == 1  # fp32: the same arithmetic
    assert sum(" tokens/s " in line and "loss" in line for line in lines) == 4
    assert sum(" tokens/s " in line and "first token" in line for line in lines) == 4
    refused = [line for line in lines if f"micro_batch {TOO_LARGE} " in line]
    assert len(refused) == 4
    assert all("allocate" in line or "memory" in line for line in refused)
    changes = lines[next(n for n, line in enumerate(lines) if line.startswith("what to")) :]
    assert any("fastest is" in line for line in changes)
    assert any("kernel" in line and "cudnn" in line for line in changes)  # there is none on a CPU


def test_a_measurement_in_a_process_of_its_own_that_dies_or_hangs_is_reported():
    options = gpu.parser().parse_args(SMALL)
    options.typed = SMALL
    found = gpu.measure("matmul", {}, options, 60)
    assert found["flops"] > 0
    assert "stopped after 0 s" in gpu.measure("matmul", {}, options, 0.01)["error"]
    options.typed = [*SMALL, "--width", "no number"]
    assert "exit code 2" in gpu.measure("matmul", {}, options, 60)["error"]
