"""Packing plans on the disk: made once, published whole, never trusted when damaged."""

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data.files import DataError
from data.packing import plans, rows
from data.packing.plans import lay_out
from tests.data.memory_shards import MemoryShards


@pytest.fixture
def shards():
    return MemoryShards([3, 30, 8, 2, 9, 16])


def test_a_plan_is_made_once_by_threads_that_ask_together_and_then_read(tmp_path, shards):
    made = []

    def counted(*arguments):
        made.append(arguments)
        return lay_out(*arguments)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(4) as pool:
        patch.setattr(plans, "lay_out", counted)
        found = list(pool.map(lambda _: rows(shards, "best_fit", 16, tmp_path), range(4)))
        rows(shards, "best_fit", 16, tmp_path)
    assert len(made) == 1
    assert len({own.fingerprint for own in found}) == 1


def test_a_writer_killed_before_it_published_leaves_nothing_that_counts(tmp_path, shards):
    script = """
import os, signal, sys
from pathlib import Path
from data.packing import plans
from data.packing import rows
from tests.data.memory_shards import MemoryShards
plans.publish = lambda *folders: os.kill(os.getpid(), signal.SIGKILL)
rows(MemoryShards([3, 30, 8, 2, 9, 16]), "best_fit", 16, Path(sys.argv[1]))
"""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, str(tmp_path)]
    killed = subprocess.run(command, cwd=root, check=False, env=os.environ | {"PYTHONPATH": "."})
    assert killed.returncode == -signal.SIGKILL
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".lock", ".partial"]
    own = rows(shards, "best_fit", 16, tmp_path)
    assert own.read(np.arange(own.count))[1].sum() == shards.tokens
    assert not list(tmp_path.glob("*.partial"))


def test_plans_of_other_content_packing_or_length_have_other_fingerprints(tmp_path, shards):
    asked = [
        (shards, packing, R) for packing in ("chunked", "best_fit", "one_document") for R in (8, 16)
    ]
    asked.append((MemoryShards([3, 30, 8, 2, 16, 9]), "best_fit", 16))
    found = {rows(*settings, tmp_path).fingerprint for settings in asked}
    assert len(found) == len(asked)
    assert found == {rows(*settings, tmp_path / "again").fingerprint for settings in asked}


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("file", ["rows.arrow", "documents.arrow", "manifest.json"])
@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_a_damaged_plan_is_named_with_the_remedy(tmp_path, shards, file, damage):
    rows(shards, "best_fit", 16, tmp_path)
    [path] = tmp_path.glob(f"*/{file}")
    damage(path)
    with pytest.raises(DataError, match=rf"{file} .*delete the folder, and it is planned again"):
        rows(shards, "best_fit", 16, tmp_path)
    shutil.rmtree(path.parent)
    rows(shards, "best_fit", 16, tmp_path)


def test_a_plan_of_something_else_under_this_name_is_refused(tmp_path, shards):
    rows(shards, "best_fit", 16, tmp_path)
    [folder] = (path for path in tmp_path.iterdir() if path.is_dir())
    rows(shards, "best_fit", 8, tmp_path)
    [other] = (path for path in tmp_path.iterdir() if path.is_dir() and path != folder)
    shutil.rmtree(folder)
    other.rename(folder)
    with pytest.raises(DataError, match=r"is a packing plan of row_tokens=8, not 16"):
        rows(shards, "best_fit", 16, tmp_path)
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"row_tokens": 16}))
    with pytest.raises(DataError, match=r"manifest\.json .* was changed"):
        rows(shards, "best_fit", 16, tmp_path)
