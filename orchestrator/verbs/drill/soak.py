"""The drills that last for minutes: quiet under load, and a random mix that its seed replays."""

import math
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice, takewhile

from data.messages import counted
from orchestrator.config import TrainingConfig
from orchestrator.record.checkpoints.finding import find
from orchestrator.record.story.sentences import sentence
from orchestrator.record.story.spending import spending
from orchestrator.verbs.drill import faults
from orchestrator.verbs.drill.invariants import broken, differences, unsent
from orchestrator.verbs.drill.outcome import Context, Outcome
from orchestrator.verbs.drill.rehearsal import Child, DrillError

SPREAD = 1 / 3  # of the time between two faults of the mix, on either side of its mean
LEAST_GOODPUT = 0.6
LOOK_S = 0.1
MIX: dict[str, Callable[[Child], None]] = {
    "kill-worker": faults.to_worker(signal.SIGKILL),
    "freeze-worker": faults.to_worker(signal.SIGSTOP),
    "preempt-worker": faults.to_worker(signal.SIGTERM),
    "kill-driver": faults.to_driver(signal.SIGKILL),
}


def soak(context: Context) -> Outcome:
    """Every core has another busy process: nothing may be taken for a failure."""
    job, jobs, named, bad = context.job("soak"), 0, 0, list[str]()
    deadline = time.monotonic() + 60 * context.minutes
    with faults.busy_cores():
        while time.monotonic() < deadline and not bad:
            child = job.start()
            try:
                code = child.wait(max(60 * context.minutes, 900.0))
                jobs += 1
                bad = child.leaks() + broken(child.run)
            finally:
                child.end()
            if code:
                bad.append(f"it ended with exit code {code}: {child.last_words()}")
            named += len(child.events("slow_rank"))  # which may well be so, and ends nothing
            alarms = child.events("failed", "hung")
            bad += [f"false alarm: {sentence(alarm)}" for alarm in alarms]
    slow = f"; a rank was named as slow {counted(named, 'time')}" if named else ""
    note = f"{jobs} jobs in {context.minutes:g} minutes without a false alarm{slow}"
    return Outcome(not bad, bad or [note], run=str(child.run))


def schedule(
    seed: int, every_s: float, *, minutes: float = math.inf, faults: int | None = None
) -> list[tuple[float, str]]:
    """Seconds from the begin, and fault, of the mix that `seed` draws.

    Args:
        seed: of all draws.
        every_s: mean seconds between two.
        minutes: in which they are done.
        faults: how many there are. None: as many as there is time for.
    """

    def drawn() -> Iterator[tuple[float, str]]:
        draw, at = random.Random(seed), 0.0
        while True:
            at += draw.uniform((1 - SPREAD) * every_s, (1 + SPREAD) * every_s)
            yield at, draw.choice(list(MIX))

    return list(islice(takewhile(lambda fault: fault[0] < 60 * minutes, drawn()), faults))


def random_mix(context: Context) -> Outcome:
    """One fault after another; what does not go on by itself is resumed as its user would.

    A fault that is due while the job is not training waits until it is, and the later ones with it.
    """
    minutes = context.minutes if context.faults is None else math.inf
    plan = schedule(context.seed, context.every_s, minutes=minutes, faults=context.faults)
    context.say(", ".join(f"{name} at {at:.0f} s" for at, name in plan))
    job, bad, chain, done = context.job("random"), list[str](), list[Child](), Counter[str]()
    reference = context.reference  # a job that fails by itself is known before minutes have passed
    last = context.config.section(TrainingConfig).steps  # near it a fault would find a job done
    begun, late_s = time.monotonic(), 0.0
    child = job.start()
    try:
        while plan or child.process.poll() != 0:
            if child.process.poll() is None:
                elapsed_s = time.monotonic() - begun
                due = plan and elapsed_s >= plan[0][0] + late_s
                if due and child.trains() and child.steps()[-1]["step"] < last - context.interval:
                    at, name = plan[0]
                    with suppress(ProcessLookupError):  # the job is at its end: then the next one
                        MIX[name](child)
                        done[name] += 1
                        late_s = elapsed_s - at
                        plan.pop(0)
                time.sleep(LOOK_S)
                continue
            chain.append(child)
            if child.process.returncode == 0:
                child = job.start()  # it is done, and the mix is not
                continue
            if len(chain) > done.total() + sum(own.process.returncode == 0 for own in chain):
                raise DrillError(f"it ends more often than it is harmed: {child.last_words()}")
            child = job.resume(child)
        chain.append(child)
        wall_s = time.monotonic() - begun
        bad += [leak for own in chain for leak in own.leaks()]
        return _judge_mix(context, reference, chain, done, wall_s, bad)
    except DrillError as error:
        return Outcome(False, [f"seed {context.seed}: {error}"], run=str(child.run))
    finally:
        for own in (*chain, child):
            own.end()


def _judge_mix(
    context: Context,
    reference: Child,
    chain: list[Child],
    done: Counter[str],
    wall_s: float,
    bad: list[str],
) -> Outcome:
    """Of runs, of which each goes on from the one before or begins anew; `bad` is known already."""
    progress_s, lost, ended, differing = 0.0, 0, 0, list[str]()
    for own in chain:
        spent = spending(own.run)
        progress_s += spent.steps * (spent.step_seconds or 0.0)
        lost += spent.lost_steps
        if own.process.returncode == 0:
            ended += 1
            bad += broken(own.run) + unsent(own.run)
            differing += differences(find(reference.run), find(own.run))
    goodput = progress_s / wall_s
    if context.faults is None and goodput < LEAST_GOODPUT:  # how dense a campaign is, is asked for
        bad.append(f"goodput {goodput:.0%} is less than {LEAST_GOODPUT:.0%}")
    faults = ", ".join(f"{name} {n}" for name, n in sorted(done.items()))
    note = (
        f"seed {context.seed}: {counted(done.total(), 'fault')} ({faults}) in {wall_s:.0f} s, "
        f"goodput {goodput:.0%}; {counted(ended, 'job')} done, resumed by hand "
        f"{len(chain) - ended} times"
    )
    bad += differing
    return Outcome(
        not bad, [note, *bad], lost_steps=lost, equal=not differing, run=str(chain[-1].run)
    )
