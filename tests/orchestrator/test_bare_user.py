import shutil
import subprocess
import sys

import pytest

from orchestrator.packages import HOME

CODE = """
from cluster.connection.authentication import token_of_user
from data.files import cache_root
from orchestrator.record.mlflow.replay import user_name
print(user_name(), token_of_user())
cache_root()
"""


def test_a_user_without_name_and_home_as_in_a_container_is_told_what_to_set():
    unshare = shutil.which("unshare")
    alone = [unshare or "unshare", "--user", "--map-user=12345"]
    if not unshare or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    done = subprocess.run(
        [*alone, sys.executable, "-c", CODE],
        env={"PYTHONPATH": str(HOME)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "12345 {'RAY_AUTH_MODE': 'disabled'}\n"
    assert done.stderr.splitlines()[-1].endswith(
        "DataError: user 12345 has no home folder for the cache; set ORCHESTRATE_CACHE=DIR"
    )
