"""The drills that last for minutes: quiet under load, and a random mix that its seed replays."""

import random
import signal
import time
from collections.abc import Callable

from orchestrator.record.checkpoints.finding import find
from orchestrator.record.story.sentences import sentence
from orchestrator.record.story.spending import spending
from orchestrator.verbs.drill import faults
from orchestrator.verbs.drill.invariants import broken, differences, unsent
from orchestrator.verbs.drill.outcome import Context, Outcome
from orchestrator.verbs.drill.rehearsal import Child, DrillError

BETWEEN_S = (20.0, 40.0)  # two faults of the mix
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
    job, jobs, bad = context.job("soak"), 0, list[str]()
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
            alarms = child.events("failed", "hung", "slow_rank")
            bad += [f"false alarm: {sentence(alarm)}" for alarm in alarms]
    note = f"{jobs} jobs in {context.minutes:g} minutes without a false alarm"
    return Outcome(not bad, bad or [note], run=str(child.run))


def schedule(minutes: float, seed: int) -> list[tuple[float, str]]:
    """Seconds from the begin, and fault, of the mix that `seed` draws."""
    draw, plan = random.Random(seed), list[tuple[float, str]]()
    at = draw.uniform(*BETWEEN_S)
    while at < 60 * minutes:
        plan.append((at, draw.choice(list(MIX))))
        at += draw.uniform(*BETWEEN_S)
    return plan


def random_mix(context: Context) -> Outcome:
    """One fault after another; what does not go on by itself is resumed as its user would."""
    plan = schedule(context.minutes, context.seed)
    context.say(", ".join(f"{name} at {at:.0f} s" for at, name in plan))
    job, begun, bad = context.job("random"), time.monotonic(), list[str]()
    child, chain = job.start(), list[Child]()
    progress, resumes = 0.0, 0
    try:
        while plan or child.process.poll() is None:
            if child.process.poll() is None:
                if plan and time.monotonic() - begun >= plan[0][0] and child.steps():
                    MIX[plan.pop(0)[1]](child)
                time.sleep(LOOK_S)
                continue
            chain.append(child)
            if child.process.returncode == 0:
                child = job.start()  # it is done, and the mix is not
            else:
                child, resumes = job.resume(child), resumes + 1
        chain.append(child)
        bad += child.leaks()
    except DrillError as error:
        bad.append(str(error))
    finally:
        child.end()
    for own in chain:
        spent = spending(own.run)
        progress += spent.steps * (spent.step_seconds or 0.0)
        if own.process.returncode == 0:
            bad += broken(own.run) + unsent(own.run)
            bad += differences(find(context.reference.run), find(own.run))
    wall = time.monotonic() - begun
    goodput = progress / wall
    if goodput < LEAST_GOODPUT:
        bad.append(f"goodput {goodput:.0%} is less than {LEAST_GOODPUT:.0%}")
    note = f"seed {context.seed}: goodput {goodput:.0%}, resumed {resumes} times"
    return Outcome(not bad, [note, *bad], run=str(child.run))
