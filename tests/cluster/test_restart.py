"""Gangs that lose a worker and go on in the same room, and workers that fall silent."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cluster import gang_run
from cluster.gang import Gang, Placement, WorkerFailed
from cluster.host.network import free_port
from cluster.waiting import ClusterAway, NoRoom

ROOT = Path(__file__).parents[2]
TWO = Placement(workers=2, cpus_per_worker=1)


@pytest.fixture
def gang(session, tmp_path, gone):
    """A gang of two that has started; nothing of it may be left after the test."""
    import ray

    with Gang(TWO, log_folder=tmp_path, stop=threading.Event(), session=session) as gang:
        gang.start()
        first = list(gang.workers)
        yield gang
    assert all(gone(worker["pid"]) for worker in [*first, *gang.workers])
    states = {group["state"] for group in ray.util.placement_group_table().values()}
    assert states <= {"REMOVED"}


def sum_of_ranks_for_a_while(rounds, channel):
    """One gloo collective after the other."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    try:
        for number in range(rounds):
            total = torch.tensor([channel.rank + 1.0])
            dist.all_reduce(total)
            channel.send({"round": number})
            time.sleep(0.02)
        return os.getpid(), total.item(), channel.should_stop(), os.environ["MASTER_PORT"]
    finally:
        dist.destroy_process_group()


def kill_at_round(workers, victim, number, signal_number):
    """An on_records that sends one rank a signal once rank 0 has come so far."""

    def on_records(rank, records):
        if rank == 0 and any(record.get("round") == number for record in records):
            os.kill(workers[victim]["pid"], signal_number)

    return on_records


@pytest.mark.parametrize("victim", [0, 1])
def test_after_the_death_of_one_rank_the_other_process_works_on_with_its_successor(
    gang, victim, tmp_path
):
    before = list(gang.workers)
    with pytest.raises(WorkerFailed, match=rf"rank {victim} on .* was killed by SIGKILL"):
        gang.run(
            sum_of_ranks_for_a_while, 10_000, kill_at_round(before, victim, 20, signal.SIGKILL)
        )
    after = gang.restart()
    kept, replaced = 1 - victim, victim
    assert after[kept]["pid"] == before[kept]["pid"]
    assert after[replaced]["pid"] != before[replaced]["pid"]
    assert [worker["rank"] for worker in after] == [0, 1]
    rounds = []
    results = gang.run(sum_of_ranks_for_a_while, 5, lambda rank, records: rounds.extend(records))
    assert [result[:3] for result in results] == [(worker["pid"], 3.0, False) for worker in after]
    assert len({result[3] for result in results}) == 1  # they met at one new port
    assert [record["round"] for record in rounds].count(4) == 2


def test_a_cluster_whose_head_is_away_is_given_up_by_its_address_and_not_by_ray(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    away = Gang(
        Placement(2, 1, address=address), log_folder=tmp_path, stop=threading.Event(), wait_s=0.5
    )
    with away, pytest.raises(ClusterAway, match=f"no Ray cluster at {address} in 1 s"):
        away.start()


def test_a_clock_that_is_set_back_and_forth_makes_no_rank_silent(gang, monkeypatch):
    days, real, longest = [0], time.time_ns, []

    def now_ns():
        return real() + days[0] * 86_400 * 10**9

    monkeypatch.setattr(time, "time_ns", now_ns)
    monkeypatch.setattr(time, "time", lambda: now_ns() / 1e9)

    def on_records(rank, records):
        days[0] = (-3, 3)[records[-1]["round"] // 8 % 2]

    def watch(run):
        longest.append(max((own.beat_s for own in run.polls.silences().values()), default=0.0))

    results = gang.run(sum_of_ranks_for_a_while, 50, on_records, silent_after_s=20, watch=watch)
    assert [result[1] for result in results] == [3.0, 3.0]
    assert max(longest) < 60


def hold_on(payload, channel):
    channel.send({"round": 0})
    if channel.rank == 1:
        raise LookupError("the actual mistake")
    time.sleep(600)


def test_a_rank_that_raised_is_kept_and_one_that_does_not_come_back_is_replaced(gang, gone):
    before = list(gang.workers)
    with pytest.raises(WorkerFailed, match="the actual mistake"):
        gang.run(hold_on, None, lambda rank, records: None)
    after = gang.restart(grace_s=0.5)
    assert after[1]["pid"] == before[1]["pid"]
    assert after[0]["pid"] != before[0]["pid"]
    assert gone(before[0]["pid"])
    assert gang.run(lambda payload, channel: payload, 7, lambda *_: None) == [7, 7]


def have_a_child_and_die(payload, channel):
    import subprocess

    if channel.rank == 1:
        channel.send({"child": subprocess.Popen(["sleep", "600"]).pid})
        time.sleep(1.5)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def test_children_of_a_killed_worker_are_ended_too(gang, gone):
    said = []
    with pytest.raises(WorkerFailed, match="SIGKILL"):
        gang.run(have_a_child_and_die, None, lambda rank, records: said.extend(records))
    gang.restart(grace_s=0)
    assert gone(said[0]["child"])


def fail_both(payload, channel):
    for _ in range(1 + 200 * channel.rank):
        channel.send({"last": "words"})
        time.sleep(0.001)
    raise RuntimeError(f"rank {channel.rank}")


TWO_WORLDS = """
import os, sys
from pathlib import Path
from cluster.worker import Worker

names, log = ("GLOO_SOCKET_IFNAME", "LOCAL_RANK"), Path(sys.argv[1])
worker, seen = Worker(), []
for world in ({"GLOO_SOCKET_IFNAME": "lo", "LOCAL_RANK": "1"}, {}):
    worker.start(0, log, {"WORLD_SIZE": "2", **world})
    seen.append([os.environ.get(name) for name in names])
print(seen)
"""


def test_what_only_the_world_before_has_set_is_as_the_user_has_set_it(tmp_path):
    """As the interface of gloo, when the successor of a worker is on another host."""
    log = tmp_path / "rank-0.log"
    mine = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
    mine["GLOO_SOCKET_IFNAME"] = "chosen"
    command = [sys.executable, "-c", TWO_WORLDS, str(log)]
    subprocess.run(command, cwd=ROOT, env=mine, check=True)
    assert log.read_text() == "[['lo', '1'], ['chosen', None]]\n"


def test_records_of_every_rank_that_failed_arrive(gang, monkeypatch):
    """Nobody is waited for who has ended; on a busy machine that takes its time."""
    monkeypatch.setattr(gang_run, "LAST_RECORDS_S", 10.0)
    for _ in range(5):  # whether a poll is under way when rank 0 fails is a matter of moments
        records = []
        with pytest.raises(WorkerFailed, match="rank 0"):
            gang.run(fail_both, None, lambda rank, new, to=records: to.extend([rank] * len(new)))
        assert sorted(records) == [0] + 201 * [1]
        gang.restart()


def work_until_told(payload, channel):
    begun = time.monotonic()
    while not channel.should_stop() and time.monotonic() - begun < 60:
        channel.send({"round": int(20 * (time.monotonic() - begun))})
        time.sleep(0.05)


@pytest.mark.parametrize(("victim", "leaving"), [(0, False), (1, True)])
def test_a_stopped_process_is_named_soon_after_the_limit_and_replaced(
    gang, victim, leaving, gone, monkeypatch
):
    """Who wants to leave does not wait as long for it."""
    before, frozen_at, silences = list(gang.workers), [], []
    limit_s = 3.0
    silent_after_s = limit_s
    if leaving:
        monkeypatch.setattr(gang_run, "LEAVING_S", limit_s)
        silent_after_s = 600.0

    def on_records(rank, records):
        if not frozen_at and rank == 0 and any(record["round"] >= 10 for record in records):
            frozen_at.append(time.monotonic())
            os.kill(before[victim]["pid"], signal.SIGSTOP)
            if leaving:
                gang._stop.set()

    with pytest.raises(WorkerFailed, match=rf"rank {victim} on .* has not answered for") as caught:
        gang.run(
            work_until_told,
            None,
            on_records,
            silent_after_s=silent_after_s,
            watch=lambda run: silences.append(run.polls.silences()),
        )
    assert limit_s - 1.5 < time.monotonic() - frozen_at[0] < limit_s + 4
    assert caught.value.cause == "silent"
    last = silences[-1]
    assert last[victim].answer_s > 1.0
    assert leaving or last[1 - victim].answer_s < 2.5
    assert last[victim].record_s >= last[victim].answer_s
    gang._stop.clear()
    after = gang.restart()
    assert after[1 - victim]["pid"] == before[1 - victim]["pid"]
    assert gone(before[victim]["pid"])


def work_for(seconds, channel):
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        channel.send({"round": 0})
        time.sleep(0.05)
    return "done"


def test_a_driver_that_did_not_listen_for_a_while_takes_nobody_for_silent(gang):
    busy = []

    def be_busy_once(rank, records):
        if not busy:
            busy.append(time.sleep(3.5))

    limit_s = 2.5
    assert gang.run(work_for, 5, be_busy_once, silent_after_s=limit_s) == ["done", "done"]


def test_leaving_does_not_wait_for_a_stopped_process(session, tmp_path, gone):
    with Gang(TWO, log_folder=tmp_path, stop=threading.Event(), session=session) as gang:
        pid = gang.start()[1]["pid"]
        os.kill(pid, signal.SIGSTOP)
        begun = time.monotonic()
    assert time.monotonic() - begun < 6
    assert gone(pid)


def test_a_wait_for_room_is_told_and_ends_when_the_job_is_stopped_or_after_its_time(
    session, tmp_path, monkeypatch
):
    from cluster import waiting

    monkeypatch.setattr(waiting, "SAY_AFTER_S", 0.3)
    stop, said = threading.Event(), []

    def say(line):
        said.append(line)
        stop.set()

    with (
        Gang(Placement(1, 1), log_folder=tmp_path, stop=threading.Event(), session=session) as one,
        Gang(TWO, log_folder=tmp_path, stop=stop, session=session, say=say) as two,
    ):
        one.start()
        with pytest.raises(KeyboardInterrupt):
            two.start()
        late = {"stop": threading.Event(), "session": session, "wait_s": 0.5}
        with (
            Gang(TWO, log_folder=tmp_path, **late) as three,
            pytest.raises(NoRoom, match=r"no room for 2 worker.* 1 of 2 CPU.s. are free"),
        ):
            three.start()
        placement, late["wait_s"] = Placement(2, 1, fewer=(1,)), 60.0
        with Gang(placement, log_folder=tmp_path, **late) as fewer:
            assert len(fewer.start()) == 1
    assert "waiting for room for 2 worker(s) with 1 CPU(s) each" in said[0]
    assert "1 of 2 CPU(s) are free; the others are held by " in said[0]
    assert f"(process {os.getpid()} on 127.0.0.1)" in said[0]
