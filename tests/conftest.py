"""What all tests share: no network, nothing written to the user's home, one cache per session."""

import gc
import os
import random
import signal
import tempfile
from pathlib import Path

import pytest

_TEMPORARY = tempfile.TemporaryDirectory(prefix="orchestrate-tests-", ignore_cleanup_errors=True)
SCRATCH = Path(_TEMPORARY.name)

# Before any test module is imported: libraries read these once, and child processes inherit them.
UNWANTED = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")
for name in (*UNWANTED, "RANK", "WORLD_SIZE"):
    os.environ.pop(name, None)
os.environ |= {
    "HOME": str(SCRATCH / "home"),
    "XDG_CACHE_HOME": str(SCRATCH / "home" / ".cache"),
    "ORCHESTRATE_CACHE": str(SCRATCH / "cache"),
    "MPLCONFIGDIR": str(SCRATCH / "matplotlib"),
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}
os.environ.setdefault("OMP_NUM_THREADS", "1")
(SCRATCH / "home").mkdir()
# A shell that starts the tests in the background lets them, and what they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

WORDS = (
    "model token shard worker step rank batch row layer head gradient loss seed cache",
    "reads writes keeps sends counts adds holds finds sorts loads saves drops",
)


def pytest_unconfigure():
    _TEMPORARY.cleanup()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Every second process takes its files from the end of the list.

    So neighbours, which share a Ray or a trained run, mostly meet in one process, and tests that
    wait (tests/cluster, first in `testpaths`) run beside tests that compute (tests/data, last).
    """
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class FromBothEnds(LoadFileScheduling):
        def _assign_work_unit(self, node):
            if self.nodes.index(node) % 2:
                last = next(reversed(self.workqueue))
                self.workqueue.move_to_end(last, last=False)
            super()._assign_work_unit(node)

    config.option.loadscopereorder = False  # by the number of tests, which says little
    return FromBothEnds(config, log)


def pytest_collection():
    """Imports leave no garbage, and to look for it takes a third of the time."""
    gc.disable()


def pytest_collection_finish():
    """What is imported by now stays, and no collection of garbage has to look at it again.

    Later ones come less often than by default, for there is much that lives long.
    """
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="session")
def corpus():
    """A folder of text files with something to learn; jobs on it share one prepared copy."""
    folder = SCRATCH / "corpus"
    folder.mkdir()
    draw = random.Random(0)
    nouns, verbs = (words.split() for words in WORDS)
    for number in range(80):
        sentences = [
            f"The {draw.choice(nouns)} {draw.choice(verbs)} the {draw.choice(nouns)}."
            for _ in range(40)
        ]
        (folder / f"{number:02}.txt").write_text(" ".join(sentences), encoding="utf-8")
    return folder
