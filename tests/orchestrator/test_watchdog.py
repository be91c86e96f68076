"""Ranks that hang are told from those that wait for them; slow ranks are named, fair ones are not.

The gang, its gloo group and what makes a rank hang are real.
"""

import ctypes
import os
import threading
import time
from collections import deque
from types import SimpleNamespace

import pytest

from cluster.connection.session import ray_session
from cluster.gang import Gang, Placement, Silence, WorkerFailed
from cluster.heart import Heart, Progress
from cluster.polls import OWN_SAMPLES
from orchestrator.job.watchdog import Watchdog, to_blame
from orchestrator.training.patience import FIRST_S, LONG_S, limit_s

TWO = Placement(workers=2, cpus_per_worker=1)
LIMIT_S = 2.5


@pytest.fixture(scope="module")
def gang(request, tmp_path_factory):
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(request.module)
    logs = tmp_path_factory.mktemp("logs")
    with (
        ray_session(TWO, log_folder=logs) as session,
        Gang(TWO, log_folder=logs, stop=threading.Event(), session=session) as gang,
    ):
        gang.start()
        yield gang


def take_steps(payload, channel):
    """Steps with a reduction each; rank 1 does something else at one of them."""
    import torch
    import torch.distributed as dist

    kind, steps = payload
    dist.init_process_group("gloo")
    try:
        for step in range(1, steps + 1):
            channel.heart.beat("step", step)
            begun = time.perf_counter()
            if channel.rank == 1 and step > 3:
                lock = threading.Lock()
                if kind == "a deadlock":
                    lock.acquire()
                    lock.acquire()
                elif kind == "native code that holds the GIL":
                    ctypes.PyDLL(None).sleep(600)
                elif kind == "slow" and step > 20:
                    time.sleep(0.1)
            time.sleep(0.02)
            channel.heart.worked(step, time.perf_counter() - begun)
            dist.all_reduce(torch.ones(1))
        channel.heart.beat("end")
    finally:
        dist.destroy_process_group()
    return os.getpid()


def nothing(rank, records):
    pass


def happened(events):
    return lambda kind, **facts: events.append({"event": kind, "at": time.monotonic(), **facts})


@pytest.mark.parametrize("kind", ["a deadlock", "native code that holds the GIL"])
def test_the_rank_that_others_wait_for_is_blamed_with_its_stack_and_replaced(gang, kind):
    events, before = [], list(gang.workers)
    watchdog = Watchdog(LIMIT_S, gang.log_folder, happened(events))
    with pytest.raises(
        WorkerFailed, match=r"rank 1 on .* hangs, in .* \(take_steps\), wh"
    ) as caught:
        gang.run(take_steps, (kind, 10), nothing, silent_after_s=45.0, watch=watchdog)
    assert (caught.value.cause, caught.value.rank) == ("hang", 1)
    assert "no rank has come on for" in caught.value.message
    [hung] = events
    assert time.monotonic() - hung["at"] < 20
    assert (hung["event"], hung["rank"], hung["step"], hung["phase"]) == ("hung", 1, 4, "step")
    assert LIMIT_S <= hung["silent_s"] < LIMIT_S + 4
    of_0, of_1 = sorted(gang.log_folder.parent.glob(hung["stacks"]))
    assert "all_reduce" in of_0.read_text()
    assert "all_reduce" not in of_1.read_text()
    after = gang.restart()
    assert after[0]["pid"] == before[0]["pid"], "whoever waited comes back at once"
    assert after[1]["pid"] != before[1]["pid"]


@pytest.mark.parametrize(("kind", "named"), [("slow", [1]), ("fair", [])])
def test_a_rank_whose_own_work_takes_longer_is_named_once_within_seconds(gang, kind, named):
    events = []
    watchdog = Watchdog(30.0, gang.log_folder, happened(events))
    done = gang.run(take_steps, (kind, 70), nothing, watch=watchdog)
    assert done == [worker["pid"] for worker in gang.workers]
    assert [own["rank"] for own in events] == named
    for own in events:
        assert own["event"] == "slow_rank"
        assert own["factor"] > 2
        assert 20 < own["step"] <= 60
        assert own["own_seconds"][1] > 2 * own["own_seconds"][0]
    gang.restart()


def named_at(steps, step_s, monkeypatch, tmp_path):
    """Steps of the events about two ranks, told a second late of the own work of each step."""
    now, events = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watchdog = Watchdog(30.0, tmp_path, happened(events))
    polls = SimpleNamespace(own={})
    run = SimpleNamespace(polls=polls, workers=[{"host": "a"}, {"host": "a"}])
    standing = Silence(0.0, 0.0, 0.0, Progress("step", 7, 7, {"step": step_s}, ()))
    told = 0
    for step, own in enumerate(steps, 1):
        now[0] += max(own) + step_s / 2
        if now[0] >= told + 1:
            told = now[0]
            for rank in (0, 1):
                done = range(max(1, step - OWN_SAMPLES), step)
                polls.own[rank] = [(n, steps[n - 1][rank]) for n in done]
            watchdog._compare_ranks(run, {0: standing, 1: standing})
    return [event["step"] for event in events if event["event"] == "slow_rank"]


@pytest.mark.parametrize("step_s", [0.15, 0.4, 3.0])
def test_a_rank_that_gets_slow_is_named_within_twenty_steps_and_five_seconds(
    step_s, monkeypatch, tmp_path
):
    fair, slow = (step_s / 2, step_s / 2), (step_s / 2, step_s)
    [at] = named_at([fair] * 40 + [slow] * 40, step_s, monkeypatch, tmp_path)
    assert 40 < at <= 60 or (at - 40) * 1.5 * step_s < 5
    moment = [slow] * round(1 / step_s)
    assert named_at([fair] * 40 + moment + [fair] * 40, step_s, monkeypatch, tmp_path) == []


@pytest.mark.parametrize(("share", "named"), [(0.2, 1), (1.0, 0)])
def test_a_rank_that_gets_a_part_of_its_time_in_turns_is_named_however_short_its_steps(
    share, named, monkeypatch, tmp_path
):
    """It runs for 10 ms and then stands; the own work of a step takes 3 ms, and waiting 5."""
    now, events, hearts = [0.0], [], (Heart(), Heart())
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watchdog = Watchdog(30.0, tmp_path, happened(events))
    polls = SimpleNamespace(own={rank: deque(maxlen=OWN_SAMPLES) for rank in (0, 1)})
    run = SimpleNamespace(polls=polls, workers=[{"host": "a"}, {"host": "a"}])
    polled = ran = 0.0
    for step in range(1, 400):
        stands = 0.0
        if (ran := ran + 0.008) > 0.01:
            ran, stands = 0.0, 0.01 / share - 0.01
        own = (0.003, 0.003 + stands)
        now[0] += max(own) + 0.005
        for heart, seconds in zip(hearts, own, strict=True):
            heart.worked(step, seconds)
        if now[0] >= polled + 1:
            polled = now[0]
            for rank, heart in enumerate(hearts):
                polls.own[rank].extend(heart.progress().own_s)
            standing = Silence(0.0, 0.0, 0.0, Progress("step", step, 7, {"step": 0.01}, ()))
            watchdog._compare_ranks(run, {0: standing, 1: standing})
            if [event for event in events if event["event"] == "slow_rank"]:
                break
    assert [e["rank"] for e in events if e["event"] == "slow_rank"] == [1] * named
    assert now[0] < 5 or not named


def silence(beats):
    return Silence(0.0, 0.0, 40.0, Progress("step", 7, beats, {}, ()))


def stack(*frames):
    """As faulthandler writes it, innermost frame first, of the thread that carries out the work."""
    lines = [f'  File "{path}", line 7 in {name}' for path, name in frames]
    lines.append('  File "/x/cluster/worker.py", line 170 in run')
    return "\n".join(["Thread 0x00007f (most recent call first):", *lines, ""])


IN_A_COLLECTIVE = stack(("/x/torch/distributed/distributed_c10d.py", "all_reduce"), ("a.py", "f"))
IN_DEEPSPEED = stack(("/x/deepspeed/runtime/zero/partition_parameters.py", "wait"), ("a.py", "f"))
AT_WORK = stack(("/x/data/reader.py", "read"))


@pytest.mark.parametrize(
    ("beats", "stacks", "blamed"),
    [
        ([9, 9], {0: IN_A_COLLECTIVE, 1: AT_WORK}, 1),
        ([9, 9], {0: IN_DEEPSPEED, 1: AT_WORK}, 1),
        ([9, 9], {0: IN_A_COLLECTIVE}, 1),
        ([9, 8], {0: IN_A_COLLECTIVE, 1: IN_A_COLLECTIVE}, 1),
        ([9, 9], {0: IN_A_COLLECTIVE, 1: IN_A_COLLECTIVE}, None),
        ([9, 8, 9], {0: IN_A_COLLECTIVE, 1: AT_WORK, 2: AT_WORK}, 1),
    ],
)
def test_of_ranks_that_do_not_wait_the_one_behind_is_blamed(beats, stacks, blamed):
    assert to_blame({rank: silence(own) for rank, own in enumerate(beats)}, stacks) == blamed


def test_a_limit_follows_from_the_usual_of_the_phase():
    assert limit_s("step", {"step": 0.2}, 30.0) == 30.0
    assert limit_s("step", {"step": 20.0}, 30.0) == 90.0
    assert limit_s("evaluation", {"step": 20.0}, 30.0) == FIRST_S
    assert limit_s("checkpoint", {"checkpoint": 1.0}, 30.0) == 30.0, "the disk is not waited for"
    assert limit_s("start", {}, 30.0) == limit_s("writing", {"writing": 1.0}, 30.0) == LONG_S


def test_a_heart_tells_the_median_of_each_phase_and_each_step_of_own_work_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    heart = Heart()
    assert heart.progress() == Progress()
    for step, seconds in enumerate((9.0, 1.0, 2.0), 1):
        heart.beat("step", step)
        now[0] += seconds
    heart.worked(3, 1.5)
    heart.beat("evaluation")
    assert heart.progress() == Progress("evaluation", 3, 4, {"step": 2.0}, ((3, 1.5),))
    assert heart.progress().own_s == ()


@pytest.mark.parametrize(
    ("ranks", "stuck"),
    [
        ([(40, 0, "step", {"step": 0.2}), (40, 0, "step", {"step": 0.2})], True),
        ([(40, 0, "step", {"step": 0.2}), (20, 0, "step", {"step": 0.2})], False),
        ([(40, 0, "step", {"step": 9.0}), (40, 0, "step", {"step": 0.2})], False),
        ([(40, 0, "step", {}), (40, 0, "step", {})], False),
        ([(40, 0, "step", {"step": 0.2}), (40, 0, "checkpoint", {"step": 0.2})], False),
        # What is last known of a rank that holds the GIL is from before its first step.
        ([(40, 0, "step", {"step": 0.2}), (42, 42, "start", {})], True),
        ([(700, 700, "step", {}), (700, 700, "step", {})], True),
    ],
)
def test_a_gang_hangs_when_no_rank_has_come_on_for_longer_than_it_may(ranks, stuck, tmp_path):
    seen = [
        Silence(answer_s, 0.0, beat_s, Progress(phase, 4, 4, usual))
        for beat_s, answer_s, phase, usual in ranks
    ]
    assert Watchdog(30.0, tmp_path, nothing)._is_stuck(seen) == stuck
