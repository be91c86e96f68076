"""What the queue can do, on simulated clusters; no process is started.

    python tests/benchmarks/queueing.py [--waiting 10000] [--nodes 1000] [--days 7]

1. Decisions: --waiting jobs of mixed sizes (most of 1 GPU, some gangs of 128) and --nodes nodes of
   8 GPUs. A decision is one job considered and told either where it starts or why it waits, with
   numbers; one pass decides about all. Seconds of CPU; the median of several passes. The empty
   cluster tells how fast jobs start, the full one how fast the rest is turned away.
2. A keeper's round over the same jobs in SQLite: reading the table, deciding, and writing down the
   sentences that changed.
3. A trace with the shape of public ones of GPU clusters (Philly, Helios): sizes of powers of two,
   most of them 1; durations log-normal over four decades, longer for larger jobs; arrivals with a
   daily wave, few at the week's end; limits that people guess too high, and one job in ten without
   any. Nobody is starved if every job starts and the longest wait is not that of one size alone.

The bound, for any scheduler, also one that knows all in advance and cuts jobs at will: until a time
s, at most that work is done which could be done if nobody waited, sum of size x min(duration, s -
arrival), and after s at most capacity x (end - s). The least of their sums over all s bounds the
work done by the end, which is that of the last arrival: afterwards the cluster only runs empty.
"""

import argparse
import itertools
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from cluster.queue.admission import Candidate, decide
from cluster.queue.drivers import Driver, Node
from cluster.queue.job import Attempt, Bundle, Job
from cluster.queue.keeper import Keeper
from cluster.queue.preemption import Holding
from cluster.queue.store import Store
from tests.cluster.simulated import Arrival, Simulation

GPUS = 8
SIZES = {1: 60, 2: 12, 4: 10, 8: 10, 16: 4, 32: 2, 64: 1, 128: 0.5}
DAY_S = 86_400


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--waiting", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--days", type=float, default=7)
    options = parser.parse_args()
    draw = random.Random(0)
    nodes = [Node(f"n{row:04}", 64, GPUS, 2**39) for row in range(options.nodes)]
    jobs = [job(draw, f"j{number}", DAY_S) for number in range(options.waiting)]
    decisions(nodes, jobs)
    rounds(nodes, jobs)
    trace(options.days)


def job(draw: random.Random, job_id: str, limit_s: float | None) -> Job:
    """A job of random size."""
    gpus = draw.choices(list(SIZES), list(SIZES.values()))[0]
    bundle = Bundle(4 * min(gpus, GPUS), min(gpus, GPUS), 2**33 * min(gpus, GPUS))
    needs = (bundle,) * max(1, gpus // GPUS)
    owner = f"user-{draw.randrange(40)}"
    return Job(job_id, owner, "p", needs, ("train",), limit_s=limit_s)


def cpu_s(work: Callable[[], object], times: int = 5) -> float:
    """Median seconds of CPU that some work takes."""
    taken = []
    for _ in range(times):
        begun = time.process_time()
        work()
        taken.append(time.process_time() - begun)
    return statistics.median(taken)


def decisions(nodes: list[Node], jobs: list[Job]) -> None:
    """Passes over an empty and over a full cluster."""
    waiting = [Candidate(one, seq) for seq, one in enumerate(jobs)]
    starts = decide(nodes, [], waiting, [], 0).starts
    seconds = cpu_s(lambda: decide(nodes, [], waiting, [], 0))
    print(
        f"empty cluster of {len(nodes)} nodes, {len(waiting)} jobs wait: {len(starts)} start in "
        f"{seconds:.3f} s = {len(starts) / seconds:,.0f} starts/s, "
        f"{len(waiting) / seconds:,.0f} decisions/s"
    )
    running = [Holding(one, starts[one.id], 100.0) for one in jobs if one.id in starts]
    rest = [one for one in waiting if one.job.id not in starts]
    seconds = cpu_s(lambda: decide(nodes, running, rest, [], 0))
    print(
        f"full cluster, {len(running)} jobs run, {len(rest)} wait: {seconds:.3f} s a pass = "
        f"{len(rest) / seconds:,.0f} decisions/s"
    )


class Nobody:
    """A transport on whose nodes everything that was started runs for ever."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes

    def nodes(self) -> list[Node]:
        return self._nodes

    def start(self, attempt: Attempt) -> None:
        pass

    def states(self, submission_ids: list[str]) -> dict[str, Driver]:
        return dict.fromkeys(submission_ids, Driver(ended=False))

    def stop(self, submission_id: str, grace_s: float) -> None:
        pass


def rounds(nodes: list[Node], jobs: list[Job]) -> None:
    """Rounds of a keeper over a table in SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/queue.db")
        begun = time.process_time()
        store.add(jobs)
        added = time.process_time() - begun
        keeper = Keeper(store, Nobody(nodes))
        begun = time.process_time()
        keeper.tick()
        first = time.process_time() - begun
        keeper.tick()
        idle = cpu_s(keeper.tick)
        one_more = iter([replace(jobs[0], id=f"more-{number}") for number in range(5)])
        busy = cpu_s(lambda: (store.add([next(one_more)]), keeper.tick()))
        store.close()
    print(
        f"SQLite: {len(jobs)} jobs handed in in {added:.2f} s of CPU, the first round (starts and "
        f"sentences) {first:.2f} s, one after a change {busy:.3f} s, one without {idle:.3f} s"
    )


def arrivals(draw: random.Random, nodes: int, days: float, load: float) -> list[Arrival]:
    """A trace that asks for `load` times what the nodes have."""
    found: list[Arrival] = []
    asked, capacity, now = 0.0, nodes * GPUS * days * DAY_S, 0.0
    drawn = []
    while asked < load * capacity:
        one = job(draw, f"t{len(drawn)}", None)
        gpus = one.total("gpus")
        seconds = min(draw.lognormvariate(math.log(900 * gpus**0.3), 1.9), min(1, days / 4) * DAY_S)
        seconds = max(10.0, seconds)
        limit = None if draw.random() < 0.1 else seconds * draw.choice([1.1, 1.5, 2, 4, 8])
        drawn.append((one, seconds, limit))
        asked += gpus * seconds
    wave = [
        (1 + 0.6 * math.sin(2 * math.pi * (hour - 9) / 24)) * (0.4 if hour // 24 % 7 > 4 else 1)
        for hour in range(math.ceil(days * 24))
    ]
    hours = list(itertools.accumulate(wave))
    times = sorted(
        3600 * (place + draw.random())
        for place in draw.choices(range(len(wave)), cum_weights=hours, k=len(drawn))
    )
    for now, (one, seconds, limit) in zip(times, drawn, strict=True):
        spec = Job(one.id, one.owner, one.project, one.needs, one.command, limit_s=limit)
        found.append(Arrival(now, spec, seconds))
    return found


def bound(jobs: list[Arrival], capacity: int, end: float) -> float:
    """GPU-seconds that no scheduler can exceed by `end`; see the docstring of this file."""
    rates = []  # (time, change of the rate at which unhindered work is done)
    for one in jobs:
        gpus = one.job.total("gpus")
        rates += [(one.at_s, gpus), (one.at_s + one.duration_s, -gpus)]
    best, done, rate, before = capacity * end, 0.0, 0, 0.0
    for at, change in sorted(rates):
        if at > end:
            break
        done += rate * (at - before)
        best = min(best, done + capacity * (end - at))
        rate, before = rate + change, at
    return min(best, done + rate * (end - before))


def trace(days: float, nodes: int = 100) -> None:
    """Utilisation and waits at several loads."""
    machines = [Node(f"n{row:03}", 64, GPUS, 2**39) for row in range(nodes)]
    for load in (0.8, 1.0):
        jobs = arrivals(random.Random(1), nodes, days, load)
        end = jobs[-1].at_s
        simulation = Simulation(machines, jobs, every_s=60.0)
        begun, considered = time.process_time(), 0
        for moment in simulation.rounds():
            considered += moment.considered
        taken = time.process_time() - begun
        lives = simulation.lives.values()
        done = sum(
            life.arrival.job.total("gpus") * max(0.0, min(life.ended_s, end) - life.started_s)
            for life in lives
        )
        most = bound(jobs, nodes * GPUS, end)
        starved = sum(life.ended_s is None for life in lives)
        print(
            f"trace of {len(jobs)} jobs in {days:g} days on {nodes} nodes, load {load}: "
            f"utilisation {done / (nodes * GPUS * end):.1%}, bound "
            f"{most / (nodes * GPUS * end):.1%}, ratio {done / most:.3f}; {starved} never ran; "
            f"{considered / taken:,.0f} decisions/s"
        )
        late = {
            size: [
                life.started_s - life.arrival.at_s
                for life in lives
                if life.arrival.job.total("gpus") == size
            ]
            for size in SIZES
        }
        waits = "; ".join(
            f"{size}: {statistics.mean(some) / 60:.0f} / {max(some) / 3600:.1f}"
            for size, some in late.items()
            if some
        )
        print(f"  wait by GPUs, mean in min / longest in h: {waits}")


if __name__ == "__main__":
    main()
