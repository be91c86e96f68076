"""The workers of Ray that prepare data, and what is told when they die."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

from data.files import DataError
from orchestrator.config import ResourcesConfig
from orchestrator.stages.language.tokenizing import tokenizing

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def die(unit):
    print(f"about to die of {unit}", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_unit_that_ends_its_workers_is_named_with_a_log_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path))
    with (
        pytest.raises(DataError) as caught,
        tokenizing(ResourcesConfig(), lambda line: None, workers=2) as run,
    ):
        run(die, ["a.jsonl"], lambda index, result: None)
    told = str(caught.value)
    assert "the data can't be prepared: a.jsonl: each of 3 workers that tried it died" in told
    assert "`orchestrate data prepare --workers 1`" in told
    [log] = re.findall(r"what they wrote is in (\S+\.log)", told)
    assert Path(log).read_text().count("about to die of a.jsonl") == 3
