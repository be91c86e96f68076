"""From Enter to the first step: from when it is counted."""

import subprocess
import sys

PRINT_AGE = "import orchestrator, time; print(time.monotonic() - orchestrator.BEGUN)"


def test_what_a_shell_did_before_it_became_this_program_is_not_counted():
    script = 'sleep 0.7 && exec "$0" -c "$1"'
    command = ["bash", "-c", script, sys.executable, PRINT_AGE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 0.6
