import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.failure import from_death, from_hang, from_silence
from cluster.gang import GangRefused, WorkerFailed
from data.contract import ColumnError
from data.files import DamagedData, DataError, NotOnThisHost
from data.shards.blocks import BadBlock  # noqa: F401  # a kind of DamagedData
from orchestrator.config import BUDGETS, JobConfig
from orchestrator.job.failures import explain_failure
from orchestrator.job.rank import Assignment, work
from orchestrator.record import runfolder
from orchestrator.record.fencing import Fence
from orchestrator.stages.features.splits import PublishedExamples, Standard
from tests.orchestrator.typed import on, typed


def raised(kind, message, rank=1):
    return WorkerFailed(
        rank=rank, host="node-a", cause="exception", error_type=kind, message=message
    )


# What torch, NCCL, gloo, CUDA, the kernel and our own code really say.
SAID = {
    "out_of_memory": [
        ("_ArrayMemoryError", "Unable to allocate 8.00 EiB for an array with shape (1152921504,)"),
        ("RuntimeError", "std::bad_alloc"),
        ("ArrowMemoryError", "malloc of size 1099511627776 failed"),
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total"),
        ("MemoryError", ""),
        (
            "RuntimeError",
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 4000000000000 bytes.",
        ),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(h)`"),
        (
            "DistBackendError",
            "NCCL error in: ProcessGroupNCCL.cpp:3384, unhandled cuda error\n"
            "Last error:\nCuda failure 2 'out of memory'",
        ),
        ("OSError", f"[Errno {errno.ENOMEM}] {os.strerror(errno.ENOMEM)}"),
    ],
    "disk": [
        ("OSError", os.strerror(errno.ENOSPC)),
        ("OSError", f"[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}: '/x'"),
        ("OSError", f"[Errno {errno.EDQUOT}] {os.strerror(errno.EDQUOT)}: '/x'"),
        ("SafetensorError", "I/O error: No space left on device (os error 28)"),
    ],
    "storage": [
        ("OSError", f"[Errno {errno.EIO}] {os.strerror(errno.EIO)}: '/mnt/x'"),
        ("OSError", f"[Errno {errno.ESTALE}] {os.strerror(errno.ESTALE)}"),
        ("OSError", f"[Errno {errno.EROFS}] {os.strerror(errno.EROFS)}: '/mnt/x'"),
        ("OSError", f"[Errno {errno.ENOTCONN}] {os.strerror(errno.ENOTCONN)}: '/fuse'"),
    ],
    "hardware": [
        (
            "AcceleratorError",
            "CUDA error: an illegal memory access was encountered\nCUDA kernel "
            "errors might be asynchronously reported at some other API call",
        ),
        ("RuntimeError", "CUDA error: uncorrectable ECC error encountered"),
        ("RuntimeError", "CUDA error: unspecified launch failure"),
        ("RuntimeError", "CUDA error: uncorrectable NVLink error detected during the execution"),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        ("RuntimeError", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        ("RuntimeError", "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."),
        ("RuntimeError", "CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
        (
            "DistBackendError",
            "NCCL error in: NCCLUtils.hpp:328, unhandled cuda error\n"
            "ncclUnhandledCudaError: Call to CUDA function failed.",
        ),
    ],
    "network": [
        ("RuntimeError", "[..gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:21"),
        ("RuntimeError", "[..gloo/tcp/unbound_buffer.cc:81] Timed out waiting 30000ms for recv"),
        ("RuntimeError", "Application timeout caused pair closure"),
        ("DistBackendError", "NCCL error in: NCCLUtils.hpp:94, unhandled system error"),
        (
            "DistBackendError",
            "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL("
            "SeqNum=3, OpType=ALLREDUCE, NumelIn=1) ran for 600009 milliseconds before timing out.",
        ),
        (
            "RuntimeError",
            "ncclRemoteError: A call failed possibly due to a network error or a "
            "remote process exiting prematurely.",
        ),
        (
            "DistNetworkError",
            "The client socket has timed out after 600000ms while trying to "
            "connect to (10.0.0.1, 29500).",
        ),
        ("DistStoreError", "wait timeout after 300000ms, keys: /default_pg/0//cpu//0/0"),
        ("TimeoutError", ""),
        ("GetTimeoutError", "Get timed out: some object(s) not ready."),
        ("ReadTimeout", "HTTPSConnectionPool(host='h', port=443): Read timed out."),
        ("ActorUnavailableError", "The actor is temporarily unavailable: RpcError: keepalive"),
        ("RuntimeError", "the placement group was not ready within 60 s: timed out"),
    ],
    "bad_data": [
        ("BadBlock", "train/shard-00000.arrow block 3 is not what was written"),
        ("DataError", "a.jsonl:1000000: is not JSON"),
        ("NothingToTrainOn", "no sequence of step 3 can be read"),
        ("CheckpointError", "step_00000002/model.safetensors is damaged"),
        ("DifferentState", "the saved weights are of another model: norm.weight is absent there"),
        ("TensorFileError", "weights-0.safetensors ends at byte 100, inside a tensor"),
        ("SafetensorError", "Error while deserializing header: incomplete metadata"),
    ],
    "numerical": [
        ("NonFiniteLoss", "loss is nan at step 3"),
        ("NonFiniteState", "non-finite weight of blocks.0.norm.weight in the role model"),
        ("SaveFailed", "rank 1 could not save step 3: NonFiniteState: non-finite exp_avg of x"),
        ("RuntimeError", "gradient norm is inf"),
    ],
    "no_room": [
        ("NoRoom", "no room for 2 worker(s) with 1 CPU(s) each in 3600 s; 1 of 2 CPU(s) are free"),
        ("ClusterAway", "no Ray cluster at 10.0.0.1:6379 in 3600 s; its head process takes no"),
    ],
    "start": [
        ("RayNotStarted", "Ray did not start, twice: Can't find a `node_ip_address.json` file"),
        ("RayNotStarted", "Ray did not start, twice: The current node timed out during startup"),
    ],
    "user_error": [
        ("ModuleNotFoundError", "No module named 'flash_attn'"),
        ("TypeError", "unsupported operand type(s)"),
        ("RuntimeError", "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        ("RuntimeError", "CUDA error: device-side assert triggered\nCUDA kernel errors might be"),
        ("RuntimeError", "CUDA error: invalid device ordinal"),
        ("RuntimeError", "CUDA error: no kernel image is available for execution on the device"),
        ("RuntimeError", "Error(s) in loading state_dict for GPT: Missing key(s) in state_dict"),
        ("RuntimeError", "element 0 of tensors does not require grad and does not have a grad_fn"),
        ("FileExistsError", "[Errno 17] File exists: '/x/checkpoints'"),
    ],
    "unknown": [
        ("RuntimeError", "something nobody has seen"),
        ("KernelPanicked", ""),
    ],
}
NEVER_RESTARTED = {"numerical", "bad_data", "no_room"}


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [(failure, *said) for failure, all_said in SAID.items() for said in all_said],
)
def test_an_exception_is_classified_by_its_type_or_its_words(failure, kind, message):
    explanation = explain_failure(raised(kind, message))
    assert explanation.failure == failure
    assert (BUDGETS[failure].restarts == 0) is (failure in NEVER_RESTARTED)
    assert explanation.line().startswith(f"rank 1 on host node-a failed: {kind}")
    assert explanation.remedy in explanation.line()


def test_what_a_host_does_not_see_is_no_damage_and_needs_no_traceback(tmp_path):
    examples = PublishedExamples("0" * 64, 1, 1, Standard((), (), ()), None)
    channel = None  # nothing is sent before the folder is looked for
    for asked in (
        lambda: examples.open("train", tmp_path),
        lambda: work(Assignment(JobConfig(), tmp_path, None, Fence(tmp_path, 1, 1)), channel),
    ):
        with pytest.raises((ValueError, RuntimeError), match=str(tmp_path)) as caught:
            asked()
        explanation = explain_failure(raised(type(caught.value).__name__, str(caught.value)))
        assert explanation.failure == "not_shared"
        assert explanation.remedy == "let every host see that folder, then start again"


def test_whatever_is_wrong_with_data_is_known_by_the_name_of_its_error():
    assert {DamagedData, ColumnError} <= set(DataError.__subclasses__())
    kinds = (DataError, *DataError.__subclasses__(), *DamagedData.__subclasses__())
    for kind in (kind for kind in kinds if kind.__module__.startswith("data.")):
        explanation = explain_failure(raised(kind.__name__, "shard-00000.arrow: block 3"))
        known = "not_shared" if kind is NotOnThisHost else "bad_data"
        assert explanation.failure == known, kind


def test_damaged_data_is_told_with_its_file_and_its_own_remedy_alone():
    path = "/a/" + 20 * "long/" + "shard-00000.arrow"
    said = f"{path} is missing, the index says 9 bytes; delete {path} and start again"
    explanation = explain_failure(raised("DamagedData", said))
    assert explanation.line() == f"rank 1 on host node-a failed: DamagedData: {said}"
    assert explanation.remedy == f"delete {path} and start again"


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EROFS, errno.ENOSPC])
def test_an_error_of_the_system_is_known_whether_it_names_a_file_or_not(code):
    want = "disk" if code == errno.ENOSPC else "storage"
    assert explain_failure(OSError(code, os.strerror(code))).failure == want
    assert (
        explain_failure(OSError(code, os.strerror(code), "/mnt/step_00000005/model")).failure
        == want
    )


def test_what_torch_itself_says_of_shapes_types_and_devices_is_the_users_to_mend():
    torch = pytest.importorskip("torch")
    wrong = {
        "shapes": lambda: torch.ones(2, 3) @ torch.ones(4, 5),
        "broadcast": lambda: torch.ones(2, 3) + torch.ones(2, 4),
        "types": lambda: torch.ones(2, 2) @ torch.ones(2, 2, dtype=torch.float64),
        "view": lambda: torch.ones(2, 3).view(4),
        "gradient": lambda: torch.ones(1).backward(),
        "weights": lambda: torch.nn.Linear(2, 2).load_state_dict({}),
        "embedding": lambda: torch.nn.Embedding(2, 2)(torch.tensor([5])),
        "target": lambda: torch.nn.functional.cross_entropy(torch.ones(1, 2), torch.tensor([7])),
    }
    for name, operation in wrong.items():
        with pytest.raises((RuntimeError, IndexError)) as caught:
            operation()
        assert explain_failure(caught.value).failure == "user_error", (name, caught.value)


def test_the_log_is_named_where_the_traceback_helps_and_nowhere_else():
    def failed(kind, message="x"):
        error = raised(kind, message)
        error.log = Path("/runs/r/logs/rank-1.log")
        return explain_failure(error).remedy

    assert "read the traceback in logs/rank-1.log" in failed("TypeError")
    assert "logs/rank-1.log" in failed("Odd")
    for kind in ("BadBlock", "NonFiniteLoss", "OutOfMemoryError", "GangRefused", "TimeoutError"):
        assert "log" not in failed(kind), kind
    own = explain_failure(KeyError("x"), log=Path("/runs/r/logs/driver.log")).remedy
    assert "logs/driver.log" in own
    assert "with HYDRA_FULL_ERROR=1" in explain_failure(KeyError("x")).remedy


def test_a_worker_killed_for_memory_is_told_how_the_memory_stood_and_asked_for_more():
    error = WorkerFailed(
        rank=0,
        host="a",
        cause="killed",
        error_type="",
        message="was killed by SIGKILL, by the kernel: 15.9 of 16 GB",
        signal="SIGKILL",
        out_of_memory=True,
    )
    explanation = explain_failure(error, step=3)
    assert explanation.failure == "out_of_memory"
    assert (
        "was killed by SIGKILL after step 3, by the kernel: 15.9 of 16 GB; " in explanation.line()
    )
    assert "fewer workers" in explanation.remedy


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("was lost with its node 12ab", "was lost with its node 12ab after step 3; "),
        ("cannot be reached: it is down, or so", "cannot be reached after step 3: it is down, or"),
    ],
)
def test_the_step_stands_behind_what_happened_and_before_why(said, told):
    error = WorkerFailed(rank=0, host="a", cause="lost", error_type="", message=said)
    assert told in explain_failure(error, step=3).line()


def test_a_silent_worker_is_told_with_how_long_it_was_silent():
    worker = {"rank": 1, "host": "a", "log": "/runs/r/logs/rank-1.log"}
    explanation = explain_failure(from_silence(worker, 40, stopped=True), step=3)
    assert explanation.failure == "hang"
    assert "has not answered for 40 s after step 3: its process is stopped" in explanation.line()


def test_native_code_that_aborts_for_want_of_memory_did_not_merely_crash(tmp_path):
    log = tmp_path / "rank-1.log"
    log.write_text(
        "terminate called after throwing an instance of 'std::bad_alloc'\n"
        "Fatal Python error: Aborted\n"
    )
    worker = {"rank": 1, "host": "a", "log": str(log), "log_begins_at": 0}

    class ActorDiedError(Exception):
        pass

    failure = from_death(ActorDiedError("The actor died unexpectedly"), worker)
    assert (failure.signal, failure.out_of_memory) == ("SIGABRT", True)
    assert explain_failure(failure, step=3).failure == "out_of_memory"


def test_a_hang_is_told_with_where_it_is_and_where_the_stacks_are():
    worker = {"rank": 1, "host": "a", "log": "/runs/r/logs/rank-1.log"}
    seen = "hangs, in data/reader.py:7 (read), while the others wait for it: no rank has come on"
    explanation = explain_failure(from_hang(worker, seen, all_of_them=False), step=3)
    assert explanation.failure == "hang"
    assert explanation.line().startswith(
        "rank 1 on host a hangs after step 3, in data/reader.py:7 (read), while the others wait"
    )
    assert "logs/stacks-rank-*.txt" in explanation.remedy


def test_a_real_allocation_that_cannot_be_met_is_out_of_memory():
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert explain_failure(caught.value).failure == "out_of_memory"


def test_who_has_no_checkpoint_is_not_told_to_resume_it():
    for error in (KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):
        assert "resume=RUN_FOLDER" in explain_failure(error).remedy
        remedy = explain_failure(error, resumable=False).remedy
        assert "start again, for there is no checkpoint yet" in remedy
        assert "resume" not in remedy


def test_workers_of_the_preparation_that_died_are_told_from_those_that_ran_out_of_memory():
    class PoolFailed(Exception):
        pass

    killed = "part 3: each of 3 workers that tried it died: worker 0 on a was killed by SIGKILL"
    assert explain_failure(PoolFailed(killed)).failure == "worker_lost"
    starved = explain_failure(PoolFailed(killed + ", by the kernel: out of memory, limit 900 MiB"))
    assert starved.failure == "out_of_memory"
    assert "--workers" in starved.remedy


def test_a_killed_rank_is_explained_with_its_signal_and_step():
    error = WorkerFailed(
        rank=1,
        host="node-a",
        cause="killed",
        error_type="",
        message="was killed by SIGKILL, it seems: it left no exception",
        signal="SIGKILL",
    )
    explanation = explain_failure(error, step=12)
    assert explanation.failure == "worker_lost"
    assert explanation.line().startswith(
        "rank 1 on host node-a was killed by SIGKILL after step 12, it seems: it left no "
        "exception; "
    )


@pytest.mark.parametrize(
    ("failure", "facts"),
    [
        ("out_of_memory", {"cause": "killed", "signal": "SIGKILL", "out_of_memory": True}),
        ("worker_lost", {"cause": "killed", "signal": "SIGSEGV"}),
        ("node_lost", {"cause": "lost"}),
        ("start", {"cause": "start"}),
    ],
)
def test_a_death_is_classified_by_its_cause(failure, facts):
    error = WorkerFailed(rank=0, host="a", error_type="", message="is gone", **facts)
    assert explain_failure(error).failure == failure


def test_errors_of_the_driver_itself_are_classified_too():
    assert explain_failure(KeyboardInterrupt()).failure == "interrupted"
    assert explain_failure(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))).failure == "disk"
    refused = explain_failure(GangRefused("resources.workers=3 does not fit"))
    assert (refused.failure, refused.rank) == ("user_error", None)
    assert refused.line().startswith("GangRefused: resources.workers=3 does not fit; ")


def test_a_long_message_of_many_lines_becomes_one_line():
    line = explain_failure(raised("RuntimeError", "first " * 100 + "\nsecond\nthird")).line()
    assert "\n" not in line
    assert "second" not in line


def test_failures_need_neither_torch_nor_ray():
    code = "import sys, orchestrator.job.failures; assert not {'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_job_with_a_damaged_journal_was_started_so_it_failed(tmp_path, corpus, monkeypatch):
    create = runfolder.create

    def create_and_damage(*arguments):
        folder = create(*arguments)
        (folder / "events.jsonl").write_text("not what a run writes\n")
        return folder

    monkeypatch.setattr(runfolder, "create", create_and_damage)
    answer = typed("run", *on(corpus), "stage.steps=2", f"outputs={tmp_path}")
    folder = (tmp_path / "latest").resolve()
    result = json.loads((folder / "result.json").read_text())
    assert (answer.code, result["status"], result["error"]["class"]) == (1, "failed", "bad_data")
    assert answer.err.startswith("error: JournalError: ")
    assert f"{folder}/events.jsonl:1 is damaged" in answer.err
    assert answer.err.count("\n") == 1
    assert "Traceback" in (folder / "logs" / "driver.log").read_text()
