"""The drills: what each needs, does to the job, and takes for passed."""

import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.record.checkpoints.finding import find
from orchestrator.record.fencing import FOLDER as FENCES
from orchestrator.record.story.sentences import sentence
from orchestrator.record.story.spending import STEP_SECONDS
from orchestrator.verbs.drill import faults
from orchestrator.verbs.drill.invariants import broken, differences, differing_points
from orchestrator.verbs.drill.node_rows import (
    cut_network,
    grow,
    kill_head,
    kill_node,
    restart_head,
    shrink,
)
from orchestrator.verbs.drill.outcome import Context, Outcome, failure_of
from orchestrator.verbs.drill.rehearsal import Child, DrillError, Trial

RUNNING_AGAIN_S, SEEN_HANGING_S = 25.0, 30.0
NAMED_STEPS, NAMED_S = 20, 5.0  # of steps, until a slow rank is named: what lasts longer
MEGABYTE = 1 << 20
OUT_OF_MEMORY = "out_of_memory"
KILLS = 10
FULL_S = 10.0  # that a disk stays full


@dataclass(frozen=True)
class Drill:
    """A row of the table."""

    row: int
    """Its number, by which results are compared over time."""
    summary: str
    rehearse: Callable[[Context], Outcome] | None
    """Carries it out. None: this program can't, and `lacks` says why."""
    lacks: str = ""


def kill_worker(context: Context) -> Outcome:
    """SIGKILL to a rank in the middle of a step."""
    job = context.job("kill-worker")
    trial = job.disturb(job.start(), faults.to_worker(signal.SIGKILL))
    return context.judge(trial, most_lost=context.interval, itself=True, within_s=RUNNING_AGAIN_S)


def kill_driver(context: Context) -> Outcome:
    """SIGKILL to the process that the user started; all that it started must end, too."""
    job = context.job("kill-driver")
    trial = job.disturb(job.start(), faults.to_driver(signal.SIGKILL))
    return context.judge(trial, most_lost=context.interval)


def kill_drivers(context: Context) -> Outcome:
    """SIGKILL to the driver, and to each that `resume=auto` has put in its place, again and again.

    Each is killed with its first step; no two of them may write to one run.
    """
    job, bad = context.job("kill-drivers"), list[str]()
    children = [job.start()]
    try:
        children[0].until_step(job.at)
        for _ in range(KILLS):
            children[-1].until(children[-1].steps, "a step")
            faults.to_driver(signal.SIGKILL)(children[-1])
            bad += children[-1].leaks()
            children.append(job.start("resume=auto"))
        code = children[-1].wait()
        bad += children[-1].leaks() + broken(children[-1].run)
    finally:
        for child in children:
            child.end()
    if code:
        bad.append(f"it ended with exit code {code}: {children[-1].last_words()}")
    runs = {child.run for child in children}
    taken = [len(list((run / FENCES).glob("*.json"))) for run in runs]
    if len(runs) != len(children) or set(taken) != {1}:
        bad.append(f"{len(children)} drivers made {len(runs)} runs, with attempts {taken}")
    return _compared(context, children[-1], bad, f"resumed {KILLS} times")


def preempt_worker(context: Context) -> Outcome:
    """SIGTERM to a rank, as the notice of a machine that is taken away."""
    job = context.job("preempt-worker")
    trial = job.disturb(job.start(), faults.to_worker(signal.SIGTERM))
    return context.judge(trial, most_lost=0)


def freeze_worker(context: Context) -> Outcome:
    """SIGSTOP to a rank: it is there, and answers nothing."""
    job = context.job("freeze-worker")
    trial = job.disturb(job.start(), faults.to_worker(signal.SIGSTOP))
    return context.judge(trial, most_lost=context.interval, itself=True, within_s=RUNNING_AGAIN_S)


def full_disk(context: Context) -> Outcome:
    """The disk of the outputs fills up; later there is room again."""
    run = context.reference.run
    used = sum(file.stat().st_size for file in run.parents[1].rglob("*") if file.is_file())
    job = context.job("full-disk")
    with faults.small_disk(job.outputs, megabytes=16 + 3 * used // MEGABYTE):
        trial = job.disturb(job.start(), lambda _: faults.no_room(job.outputs / "filler", FULL_S))
        outcome = context.judge(trial, most_lost=context.interval, itself=True)
        outcome.run = None  # it is gone with its disk
    return outcome


def corrupt_checkpoint(context: Context) -> Outcome:
    """The driver is killed, and a bit of the newest checkpoint flips before it is resumed."""
    if context.at <= 2 * context.interval:
        raise DrillError(
            f"at={context.at} must be greater than 2 x stage.checkpoint_every = "
            f"{2 * context.interval}, or there is no checkpoint to fall back on"
        )
    job = context.job("corrupt-checkpoint")
    child, damaged = job.start(), []

    def damage() -> None:
        folder = faults.newest_checkpoint(child.run)
        damaged.append(max(folder.rglob("*"), key=lambda file: file.stat().st_size))
        faults.flip(damaged[0])

    trial = job.disturb(child, faults.to_driver(signal.SIGKILL), damage)
    reasons = [str(e["reason"]) for e in trial.child.events("checkpoint_rejected")]
    named = any(damaged[0].name in reason for reason in reasons)
    bad = [] if named else [f"nothing said that {damaged[0]} is damaged: {reasons}"]
    return context.judge(trial, most_lost=2 * context.interval, more=bad)


def corrupt_shard(context: Context) -> Outcome:
    """A bit of the data flips on the disk; a cache of its own keeps the user's from harm."""
    if "data" not in context.config.stage.reads:
        raise DrillError(f"stage={context.config.stage.name} reads no shards")
    job, policy = context.job("corrupt-shard"), context.config.data.on_bad_block
    cache = {"ORCHESTRATE_CACHE": str(job.outputs / "cache")}
    words = [sys.executable, "-m", "orchestrator", "data", "prepare", *context.overrides]
    made = subprocess.run(words, env={**os.environ, **cache}, capture_output=True, text=True)
    if made.returncode:
        raise DrillError(f"its data could not be prepared: {made.stderr.strip()}")
    shards = Path(cache["ORCHESTRATE_CACHE"]).rglob("*.arrow")
    shard = max(shards, key=lambda file: file.stat().st_size)
    faults.flip(shard, at=shard.stat().st_size // 4)
    child = job.start(**cache)
    try:
        code, error = child.wait(), failure_of(child)
        bad = child.leaks() + broken(child.run)
    finally:
        child.end()
    skipped = child.events("data_skipped")
    if policy == "skip" and (code or not skipped):
        bad.append(f"data.on_bad_block=skip, and nothing was skipped: {child.last_words()}")
    if policy == "stop" and code == 0:
        return Outcome(None, [f"no step needed the damaged block of {shard.name}; use more steps"])
    named = error.get("class") == "bad_data" and shard.name in str(error.get("message"))
    if policy == "stop" and not named:
        bad.append(f"{shard.name} was damaged, and it said: {child.last_words()}")
    told = f"{len(skipped)} stretches skipped" if policy == "skip" else str(error.get("message"))
    return Outcome(not bad, bad or [told], run=str(child.run))


def kill_tracking_server(context: Context) -> Outcome:
    """SIGKILL to a real MLflow server, which comes back when the job is over."""
    job = context.job("kill-tracking-server")
    server = faults.TrackingServer(job.outputs / "server")
    server.start()
    to_it = ("tracking=mlflow", f"tracking.uri={server.uri}", "tracking.experiment=drill")
    child = job.start(*to_it, "tracking.finish_timeout_seconds=3")
    try:
        child.until_step(job.at)
        server.kill()
        killed_at = child.steps()[-1]["time_ms"]
        code = child.wait()
        bad = child.leaks() + broken(child.run)
    finally:
        child.end()
    if code:
        bad.append(f"it ended with exit code {code}: {child.last_words()}")
    pending = "metrics pending" in child.screen.read_text(encoding="utf-8")
    server.start()
    try:
        bad += _send_the_rest(child, server.database)
    finally:
        server.kill()
    before, after = _steps_around(child, killed_at)
    note = f"a step took {after / before:.2f} of its time before; pending at its end: {pending}"
    return _compared(context, child, bad, note)


def lock_tracking_store(context: Context) -> Outcome:
    """Another process locks the SQLite store of MLflow until the job is over."""
    job = context.job("lock-tracking-store")
    child = job.start("tracking=mlflow", "tracking.finish_timeout_seconds=3")
    database = job.outputs / "mlflow.db"
    try:
        child.until_step(job.at)
        child.until(database.exists, "a store")
        with faults.locked(database):
            code = child.wait()
        bad = child.leaks() + broken(child.run)
    finally:
        child.end()
    if code:
        bad.append(f"it ended with exit code {code}: {child.last_words()}")
    bad += _send_the_rest(child, database)
    return _compared(context, child, bad, "locked until the job was over")


def _send_the_rest(child: Child, database: Path) -> list[str]:
    """What a user types after an outage, and whether MLflow then has each point once."""
    words = [sys.executable, "-m", "orchestrator", "sync", str(child.run)]
    sent = subprocess.run(words, capture_output=True, text=True)
    if sent.returncode:
        return [f"orchestrate sync said: {(sent.stdout + sent.stderr).strip()}"]
    return differing_points(child.run, database)


def _steps_around(child: Child, time_ms: int) -> tuple[float, float]:
    """Median seconds of a step before a time, and after it."""
    both: tuple[list[float], list[float]] = ([], [])
    for line in child.steps():
        both[line["time_ms"] > time_ms].append(line["metrics"]["train/step_seconds"])
    first, second = (statistics.median(times) if times else float("nan") for times in both)
    return first, second


def _compared(context: Context, child: Child, bad: list[str], note: str) -> Outcome:
    """Of a job that was not interrupted."""
    differing = differences(find(context.reference.run), find(child.run))
    bad = bad + differing
    return Outcome(not bad, bad or [note], lost_steps=0, equal=not differing, run=str(child.run))


def out_of_memory(context: Context) -> Outcome:
    """Another process in the job's memory group takes all there is, and the kernel kills a rank.

    Where no such group can be made, a rank is refused all address space that it asks for.
    """
    job = context.job("out-of-memory")
    try:
        box = faults.MemoryBox()
    except OSError:
        child = job.start()
        return _judge_memory(context, child, job.disturb(child, faults.no_more_addresses))
    try:
        job.through = box.entering
        child = job.start()
        return _judge_memory(
            context,
            child,
            job.disturb(child, lambda child: box.fill(child.last_worker()[1]), box.empty),
        )
    finally:
        box.close()


def _judge_memory(context: Context, child: Child, trial: Trial) -> Outcome:
    """Of a job whose memory ran out: told as that, tried again once, and how to need less."""
    told, error = [event.get("cause") for event in child.events("failed")], failure_of(child)
    if not told:
        return Outcome(None, ["the job needed no more memory after that"])
    bad = [f"it was taken for {cause}" for cause in told if cause != OUT_OF_MEMORY]
    if len(told) > 2:
        bad.append(f"it was tried {len(told)} times")
    if error and (error.get("class") != OUT_OF_MEMORY or "; try " not in str(error.get("remedy"))):
        bad.append(f"no setting was named that needs less: {error}")
    return context.judge(trial, most_lost=context.interval, more=bad)


def diverge(context: Context) -> Outcome:
    """A learning rate with which no model learns: the job must end soon, and say why."""
    job = context.job("diverge")
    child = job.start("optim.learning_rate=1e30", "optim.warmup_steps=0")
    try:
        code, error = child.wait(), failure_of(child)
        bad = child.leaks() + broken(child.run)
    finally:
        child.end()
    attempts = child.result.get("attempts", 1)
    if code != 1 or error.get("class") != "numerical":
        bad.append(f"exit code {code}, and it said: {child.last_words()}")
    if attempts > 2:
        bad.append(f"it was tried {attempts} times")
    return Outcome(not bad, bad or [str(error.get("message"))], run=str(child.run))


def hang_worker(context: Context) -> Outcome:
    """The thread that trains is stopped, its process is not: only its steps tell."""
    job = context.job("hang-worker")
    child = job.start()
    trial = job.disturb(child, faults.hang)
    hung = child.events("hung")
    bad = [] if hung else ["no rank was named"]
    bad += [f"no stacks were saved: {event}" for event in hung if not event.get("stacks")]
    bound = SEEN_HANGING_S + RUNNING_AGAIN_S
    return context.judge(trial, most_lost=context.interval, itself=True, within_s=bound, more=bad)


def slow_worker(context: Context) -> Outcome:
    """A rank gets a fifth of its processor time: it is named, and nothing is restarted."""
    job = context.job("slow-worker")
    child = job.start()
    try:
        child.until_step(job.at)
        rank, pid = child.last_worker()
        step = child.steps()[-1]["step"]

        def named_or_late() -> bool:
            since = [line for line in child.steps() if line["step"] > step]
            lasted_s = sum(line["metrics"][STEP_SECONDS] for line in since)  # not of evaluations
            late = len(since) > NAMED_STEPS and lasted_s > NAMED_S
            return late or bool(child.events("slow_rank"))

        with faults.throttled(pid):
            child.until(named_or_late, "a slow rank was named")
        code = child.wait()
        bad = child.leaks() + broken(child.run)
    finally:
        child.end()
    if code or child.events("failed"):
        bad.append(f"it was disturbed: {child.last_words()}")
    told = child.events("slow_rank")
    if not any(event["rank"] == rank for event in told):
        bad.append(f"rank {rank} was not named within {NAMED_STEPS} steps and {NAMED_S:g} s")
    bad += [f"{sentence(event)}; it was rank {rank}" for event in told if event["rank"] != rank]
    note = f"{sentence(told[0])}, {told[0]['step'] - step} steps after it was" if told else ""
    return _compared(context, child, bad, note)


NO_SERVICE = "each rank reads its shards from the disk of its host"
DRILLS = {
    "kill-worker": Drill(1, "SIGKILL to a rank", kill_worker),
    "kill-node": Drill(2, "a node dies, another is free", kill_node),
    "shrink": Drill(3, "a node dies, none is free", shrink),
    "grow": Drill(4, "a node comes", grow),
    "kill-driver": Drill(5, "SIGKILL to what the user started", kill_driver),
    "kill-queue": Drill(6, "SIGKILL to the queue of jobs", None, "a drill's job waits in no queue"),
    "restart-head": Drill(7, "the head process is away for a while", restart_head),
    "kill-head": Drill(8, "the head of the cluster dies for good", kill_head),
    "cut-network": Drill(9, "no packet between two hosts, for 5 s and for 60 s", cut_network),
    "preempt-worker": Drill(10, "SIGTERM to a rank, as a notice", preempt_worker),
    "hang-worker": Drill(11, "the thread of a rank that trains is stopped", hang_worker),
    "freeze-worker": Drill(12, "SIGSTOP to a rank", freeze_worker),
    "slow-worker": Drill(13, "a rank gets a fifth of its time", slow_worker),
    "full-disk": Drill(14, "the disk of the outputs fills up", full_disk),
    "corrupt-checkpoint": Drill(15, "a bit flips in the newest checkpoint", corrupt_checkpoint),
    "corrupt-shard": Drill(16, "a bit flips in the data", corrupt_shard),
    "kill-data-service": Drill(17, "SIGKILL to what serves the data", None, NO_SERVICE),
    "kill-tracking-server": Drill(18, "SIGKILL to the MLflow server", kill_tracking_server),
    "lock-tracking-store": Drill(19, "the SQLite store of MLflow is locked", lock_tracking_store),
    "out-of-memory": Drill(20, "the memory of the job runs out", out_of_memory),
    "diverge": Drill(21, "the loss becomes NaN", diverge),
    "kill-drivers": Drill(22, "SIGKILL to each driver that resumes, ten times", kill_drivers),
}
