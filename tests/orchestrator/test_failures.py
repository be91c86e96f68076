import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.gang import GangRefused, WorkerFailed
from orchestrator.job.failures import explain


def raised(kind, message, rank=1):
    return WorkerFailed(
        rank=rank, host="node-a", cause="exception", error_type=kind, message=message
    )


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        ("user_error", "ModuleNotFoundError", "No module named 'flash_attn'"),
        ("user_error", "TypeError", "unsupported operand type(s)"),
        ("user_error", "RuntimeError", "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        ("non_finite_loss", "NonFiniteLoss", "loss is nan at step 3"),
        ("non_finite_loss", "RuntimeError", "gradient norm is inf"),
        ("out_of_memory", "OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB"),
        ("out_of_memory", "MemoryError", ""),
        (
            "out_of_memory",
            "RuntimeError",
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 4000000000000 bytes.",
        ),
        ("disk_full", "OSError", os.strerror(errno.ENOSPC)),
        ("disk_full", "OSError", f"[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}: '/x'"),
        ("collective", "RuntimeError", "[..gloo/tcp/pair.cc:547] Connection closed by peer [::1]"),
        ("collective", "DistBackendError", "NCCL error in: NCCLUtils.hpp:94"),
        ("collective", "RuntimeError", "Timed out waiting 30000ms: gloo timed out"),
    ],
)
def test_an_exception_is_classified_by_its_type_or_its_words(failure, kind, message):
    explanation = explain(raised(kind, message))
    assert explanation.failure == failure
    assert explanation.line().startswith(f"rank 1 on host node-a failed: {kind}")
    assert explanation.remedy in explanation.line()


def test_a_real_allocation_that_cannot_be_met_is_out_of_memory():
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert explain(caught.value).failure == "out_of_memory"


def test_a_killed_rank_is_explained_with_its_signal_and_step():
    error = WorkerFailed(
        rank=1,
        host="node-a",
        cause="killed",
        error_type="",
        message="was killed by SIGKILL, it seems: it left no exception",
        signal="SIGKILL",
    )
    explanation = explain(error, step=12)
    assert explanation.failure == "killed"
    assert explanation.line().startswith(
        "rank 1 on host node-a was killed by SIGKILL after step 12, it seems: it left no "
        "exception; "
    )


@pytest.mark.parametrize(
    ("failure", "facts"),
    [
        ("out_of_memory", {"cause": "killed", "signal": "SIGKILL", "out_of_memory": True}),
        ("killed", {"cause": "killed", "signal": "SIGSEGV"}),
        ("lost_node", {"cause": "lost"}),
        ("start", {"cause": "start"}),
    ],
)
def test_a_death_is_classified_by_its_cause(failure, facts):
    error = WorkerFailed(rank=0, host="a", error_type="", message="is gone", **facts)
    assert explain(error).failure == failure


def test_errors_of_the_driver_itself_are_classified_too():
    assert explain(KeyboardInterrupt()).failure == "interrupted"
    assert explain(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))).failure == "disk_full"
    refused = explain(GangRefused("resources.workers=3 does not fit"))
    assert (refused.failure, refused.rank) == ("user_error", None)
    assert refused.line().startswith("GangRefused: resources.workers=3 does not fit; ")


def test_a_long_message_of_many_lines_becomes_one_line():
    line = explain(raised("RuntimeError", "first " * 100 + "\nsecond\nthird")).line()
    assert "\n" not in line
    assert "second" not in line


def test_supervise_needs_neither_torch_nor_ray():
    code = (
        "import sys, orchestrator.job.failures; "
        "assert not {'torch', 'ray', 'cluster'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
