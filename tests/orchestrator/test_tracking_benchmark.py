import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_cost_of_recording_a_step_is_told_as_a_part_of_a_step():
    command = [sys.executable, "tests/benchmarks/tracking.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "recording / step: 0." in done.stdout
