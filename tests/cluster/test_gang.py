"""Real gangs of two processes on one private Ray that all tests here share."""

import ctypes
import os
import re
import resource
import signal
import sys
import threading
import time

import psutil
import pytest

from cluster.gang import Placement, WorkerFailed, run_gang, run_inline

TWO = Placement(workers=2, cpus_per_worker=1)


class Records(list):
    """What the driver gets: (rank, record) in the order of arrival, and each rank's pid."""

    def __call__(self, rank, records):
        self.extend((rank, record) for record in records)

    def of(self, rank):
        return [record for by, record in self if by == rank]

    def pids(self):
        return {rank: record["pid"] for rank, record in self if "pid" in record}


def gang(session, tmp_path, target, on_records, payload=None, **events):
    events.setdefault("stop", threading.Event())
    return run_gang(
        target, payload, TWO, log_folder=tmp_path, on_records=on_records, session=session, **events
    )


def no_groups_left():
    import ray

    return {group["state"] for group in ray.util.placement_group_table().values()} <= {"REMOVED"}


def send_and_return(payload, channel):
    for number in range(1000):
        channel.send({"number": number})
    print("a line for the log")
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR")
    world = {name: os.environ[name] for name in (*names, "OMP_NUM_THREADS", "EXTRA")}
    faults = page_faults_of_reuse(), page_faults_of_aligned_reuse()
    return payload, channel.rank, "torch" in sys.modules, world, faults


def page_faults_of_aligned_reuse():
    """Of allocating 2 x 16 MB once more, aligned as tensors are, with small blocks in between."""
    libc, found = ctypes.CDLL(None), []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [ctypes.c_void_p() for _ in range(2)]
        for block in blocks:
            assert libc.posix_memalign(ctypes.byref(block), 64, 1 << 24) == 0
            ctypes.memset(block, 1, 1 << 24)
        for block in blocks:
            libc.free(block)
        for size in range(24, 120, 16):
            libc.malloc(size)  # and keep it
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return found[-1]


def page_faults_of_reuse():
    """Page faults of allocating 8 x 16 MB once more, when malloc is to keep freed memory."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
    libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    faults = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [bytearray(1 << 24) for _ in range(8)]
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        del blocks
    return faults[1]


def test_results_come_by_rank_and_records_in_order(session, tmp_path):
    records, stop, started = Records(), threading.Event(), []
    results = run_gang(
        send_and_return,
        {"any": "thing"},
        TWO,
        log_folder=tmp_path,
        env={"EXTRA": "given"},
        on_records=records,
        stop=stop,
        on_started=started.extend,
        session=session,
    )
    for rank, (payload, told_rank, torch_was_there, world, faults) in enumerate(results):
        assert payload == {"any": "thing"}
        assert told_rank == rank
        assert not torch_was_there
        assert faults[0] < 1000  # 32,768 if all is given back to the kernel
        assert faults[1] < 1000  # 8,192 if glibc finds what was freed too small
        assert world == {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "NODE_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            "EXTRA": "given",
        }
        assert [record["number"] for record in records.of(rank)] == list(range(1000))
        assert "a line for the log" in (tmp_path / f"rank-{rank}.log").read_text()
    assert [worker["rank"] for worker in started] == [0, 1]
    assert not any(psutil.pid_exists(worker["pid"]) for worker in started)
    assert no_groups_left()


def fail_while_the_peer_waits(payload, channel):
    import torch.distributed as dist

    dist.init_process_group("gloo")
    channel.send({"pid": os.getpid()})
    if channel.rank == 1:
        channel.send({"last": "words"})
        raise LookupError("the actual mistake")
    dist.barrier()


def test_the_rank_that_raised_is_blamed_and_not_the_one_that_waited_for_it(session, tmp_path):
    records = Records()
    with pytest.raises(WorkerFailed, match="the actual mistake") as caught:
        gang(session, tmp_path, fail_while_the_peer_waits, records)
    failure = caught.value
    assert (failure.rank, failure.cause, failure.error_type) == (1, "exception", "LookupError")
    assert "fail_while_the_peer_waits" in failure.traceback
    assert "the actual mistake" in (tmp_path / "rank-1.log").read_text()
    assert records.of(1)[-1] == {"last": "words"}
    assert not any(psutil.pid_exists(pid) for pid in records.pids().values())


def see_the_echo_first(payload, channel):
    if channel.rank == 0:
        raise RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1234")
    time.sleep(0.7)
    raise ValueError("what really happened")


def test_an_error_that_is_only_the_echo_of_a_peers_waits_for_the_cause(session, tmp_path):
    with pytest.raises(WorkerFailed, match="what really happened") as caught:
        gang(session, tmp_path, see_the_echo_first, Records())
    assert caught.value.rank == 1


def wait_to_be_stopped(payload, channel):
    channel.send({"pid": os.getpid()})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if channel.should_stop():
            return "stopped"
        time.sleep(0.05)
    return "never stopped"


def hang(payload, channel):
    import subprocess

    child = subprocess.Popen(["sleep", "600"])
    channel.send({"pid": os.getpid()})
    channel.send({"child": child.pid})
    time.sleep(600)


class KillOnce(Records):
    """Sends a signal to rank 1 as soon as its pid is known."""

    def __init__(self, number):
        super().__init__()
        self.number, self.at = number, None

    def __call__(self, rank, records):
        super().__call__(rank, records)
        if self.at is None and 1 in self.pids():
            self.at = time.monotonic()
            os.kill(self.pids()[1], self.number)


class SetOnceBothWork(Records):
    """Sets an event as soon as both ranks have told their pid."""

    def __init__(self, event):
        super().__init__()
        self.event = event

    def __call__(self, rank, records):
        super().__call__(rank, records)
        if len(self.pids()) == 2:
            self.event.set()


def test_a_killed_rank_ends_the_gang_within_5_s_and_leaves_no_process(session, tmp_path):
    records = KillOnce(signal.SIGKILL)
    with pytest.raises(WorkerFailed, match=r"rank 1 on .* was killed by SIGKILL") as caught:
        gang(session, tmp_path, hang, records)
    assert time.monotonic() - records.at < 5
    assert (caught.value.cause, caught.value.signal) == ("killed", "SIGKILL")
    pids = [*records.pids().values(), *(r["child"] for r in records.of(0) if "child" in r)]
    assert len(pids) >= 3
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert no_groups_left()


def crash(payload, channel):
    import ctypes

    if channel.rank == 0:
        ctypes.string_at(0)
    time.sleep(600)


def test_a_crash_in_native_code_is_named_and_its_stacks_are_in_the_log(session, tmp_path):
    with pytest.raises(WorkerFailed, match=r"rank 0 on .* was killed by SIGSEGV") as caught:
        gang(session, tmp_path, crash, Records())
    assert caught.value.signal == "SIGSEGV"
    assert re.search(r"File .*test_gang.py.* in crash", caught.value.log.read_text())


def test_sigterm_to_one_rank_asks_all_to_stop(session, tmp_path):
    assert gang(session, tmp_path, wait_to_be_stopped, KillOnce(signal.SIGTERM)) == ["stopped"] * 2


def test_the_stop_event_reaches_every_worker(session, tmp_path):
    stop = threading.Event()
    results = gang(session, tmp_path, wait_to_be_stopped, SetOnceBothWork(stop), stop=stop)
    assert results == ["stopped", "stopped"]


def test_the_kill_event_ends_workers_that_do_not_listen(session, tmp_path):
    kill = threading.Event()
    records = SetOnceBothWork(kill)
    with pytest.raises(KeyboardInterrupt):
        gang(session, tmp_path, hang, records, kill=kill)
    assert not any(psutil.pid_exists(pid) for pid in records.pids().values())


def test_inline_runs_in_this_process_as_rank_0_of_1(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # which a shell has left
    monkeypatch.setenv("EXTRA", "given")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    records = Records()
    payload, rank, _, world, _ = run_inline(
        send_and_return, 7, on_records=records, stop=threading.Event()
    )
    assert (payload, rank, world["WORLD_SIZE"]) == (7, 0, "1")
    assert [record["number"] for record in records.of(0)] == list(range(1000))
    assert "RANK" not in os.environ
