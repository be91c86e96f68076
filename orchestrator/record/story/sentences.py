"""Events as sentences: what happened, on which rank and host, why, what was done, what was lost.

One function per kind, in one table, for the screen of a job, `orchestrate why` and the run's page
in MLflow. A journal may come from somebody else or from another version: a fact that is missing is
left out of its sentence, and an event of an unknown kind is told by its facts.
"""

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from data.messages import counted, size

Event = Mapping[str, Any]

UNTOLD = (
    *("artifact", "baselines", "dataset", "evaluated", "imported", "sampled", "tokenizer"),
    "own_work",
    "training",
)
"""Kinds that are for programs, or that somebody else shows."""
LIVE = (
    *("checkpoint_rejected", "data_skipped", "failed", "fenced", "gave_up", "hung", "preempted"),
    *(
        "asked",
        "checkpoint_waited",
        "copy_failed",
        "copy_fenced",
        "copy_pending",
        "engine",
        "recovered",
        "resized",
        "restarting",
        "resumed",
        "rolled_back",
        "slow_rank",
        "spike",
        "waited_for_disk",
    ),
)
"""Kinds that a job says on its screen when they happen; the others it shows by other means."""
OWN = ("event", "time_ms", "attempt")  # facts of every event


def sentence(event: Event) -> str | None:
    """An event in a sentence. None: it is not for readers."""
    kind = str(event.get("event"))
    if kind in UNTOLD:
        return None
    return SENTENCES.get(kind, _unknown)(event)


def where(event: Event) -> str:
    """Who an event is about: `rank 1 on host a`; "" if it does not say."""
    rank, host = event.get("rank"), event.get("host")
    parts = [f"rank {rank}"] * (rank is not None) + [f"host {host}"] * (host is not None)
    return " on ".join(parts)


def seconds(value: Any) -> str | None:
    """A duration for a reader. None: it is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return f"{value:.3g} s" if abs(value) < 100 else f"{value:,.0f} s"


def _started(e: Event) -> str:
    return _joined("started", _if(e, "host", " on host {}"), _if(e, "pid", " by process {}"))


def _admitted(e: Event) -> str:
    workers = [worker for worker in _list(e, "workers") if isinstance(worker, Mapping)]
    hosts = dict.fromkeys(str(worker.get("host")) for worker in workers)
    shown = ", ".join(hosts) if len(hosts) < 5 else counted(len(hosts), "host")
    return f"{counted(len(workers), 'worker')} on {shown or 'no host'}"


def _memory(e: Event) -> str:
    return f"rank 0 had at most {size(float(e.get('bytes') or 0))} of memory"


def _first_step(e: Event) -> str:
    parts = e.get("parts")
    most = ""
    if isinstance(parts, Mapping) and parts:
        slowest = sorted(parts.items(), key=lambda part: -float(part[1]))[:2]
        most = ", most of it " + " and ".join(f"{name} {took}" for name, took in slowest)
    return _joined(f"first step after {seconds(e.get('seconds')) or '?'}", most)


def _resumed(e: Event) -> str:
    return f"resumed after step {e.get('step')} from {e.get('path')}"


def _weights(e: Event) -> str:
    return f"{e.get('role')} began with the weights of {e.get('path')} after step {e.get('step')}"


def _checkpoint(e: Event) -> str:
    parts = [f"saved step {e.get('step')}"]
    if isinstance(e.get("bytes"), int):
        parts.append(size(e["bytes"]))
    if stall := seconds(e.get("stall_s")):
        parts.append(f"training stood for {stall}")
    if written := seconds(e.get("write_s")):
        parts.append(f"written in {written}")
    return ", ".join(parts)


def _asked(e: Event) -> str:
    return f"{e.get('done')} of {e.get('of')} requests answered"


def _best(e: Event) -> str:
    return f"best so far after step {e.get('step')}: {e.get('metric')} {_number(e.get('value'))}"


def _checkpoint_waited(e: Event) -> str:
    return (
        f"step {e.get('step')} stood for {seconds(e.get('seconds')) or '?'} until the checkpoint "
        "before was written; a larger stage.checkpoint_every saves that"
    )


def _waited_for_disk(e: Event) -> str:
    return f"stood for {seconds(e.get('seconds')) or '?'} until there was room on the disk again"


def _checkpoint_rejected(e: Event) -> str:
    return f"passed over: {e.get('reason')}"


def _engine(e: Event) -> str:
    return f"rollout engine: {e.get('message')}"


def _copied(e: Event) -> str:
    took = seconds(e.get("seconds"))
    return _joined(f"copied step {e.get('step')} to {e.get('url')}", f" in {took}" if took else "")


def _copy_failed(e: Event) -> str:
    return (
        f"a checkpoint could not be copied: {e.get('reason')}; training goes on, and it is tried "
        "again"
    )


def _copy_fenced(e: Event) -> str:
    return f"no more checkpoints are copied to {e.get('url')}: {e.get('reason')}"


def _copy_pending(e: Event) -> str:
    left = ", ".join(map(str, _list(e, "checkpoints")))
    return (
        f"not copied to {e.get('url')}: {left}; they are whole in the run folder, copy them with "
        "`orchestrate checkpoint copy RUN`"
    )


def _data_skipped(e: Event) -> str:
    return (
        f"tokens {_number(e.get('start'))} to {_number(e.get('stop'))} of {e.get('dataset')} "
        "are damaged and left out"
    )


def _drift(e: Event) -> str:
    found = "; ".join(map(str, _list(e, "findings")))
    return f"{e.get('dataset')} compared with the reference: {found or 'no drift'}"


def _failed(e: Event) -> str:
    who, what = where(e), str(e.get("message") or e.get("cause") or "unknown")
    found = seconds(e.get("detect_s"))
    return _joined(f"{who} {what}" if who else what, f"; found after {found}" if found else "")


def _restarting(e: Event) -> str:
    lost, workers = e.get("lost_steps"), e.get("workers")
    return _joined(
        f"attempt {e.get('attempt')} goes on from step {e.get('from_step')}",
        f" with {counted(workers, 'worker')}" if isinstance(workers, int) else "",
        f"; {_lost(lost)}" if isinstance(lost, int) else "",
        _if(e, "remedy", "; {}"),
    )


def _lost(steps: int) -> str:
    if not steps:
        return "no step is lost"
    return f"{counted(steps, 'step')} {'is' if steps == 1 else 'are'} lost and done again"


def _recovered(e: Event) -> str:
    took = seconds(e.get("seconds"))
    return _joined(
        f"running again at step {e.get('step')}", f", {took} after the failure" if took else ""
    )


def _gave_up(e: Event) -> str:
    attempts, budget = e.get("attempts"), e.get("budget")
    return _joined(
        "gave up",
        f" after {counted(attempts, 'attempt')}" if isinstance(attempts, int) else "",
        _if(e, "cause", ": {}"),
        f", with {counted(budget, 'restart')} in a row at most" if isinstance(budget, int) else "",
    )


def _resized(e: Event) -> str:
    workers = e.get("workers")
    many = counted(workers, "worker") if isinstance(workers, int) else "other workers"
    return _joined(f"{many} instead of {e.get('workers_before')}", _if(e, "reason", ": {}"))


def _preempted(e: Event) -> str:
    return _joined(
        f"{where(e) or 'a worker'} must leave", _if(e, "notice", ", {}"), ": saving a checkpoint"
    )


def _hung(e: Event) -> str:
    return _joined(
        f"{where(e) or 'every rank'} hangs",
        _if(e, "phase", " in its {}"),
        _if(e, "step", ", at step {}"),
        f", silent for {silent}" if (silent := seconds(e.get("silent_s"))) else "",
        _if(e, "stacks", "; the stacks of all ranks are in {}"),
    )


def _slow_rank(e: Event) -> str:
    return _joined(
        f"{where(e) or 'a rank'} is slow",
        f": {_number(e.get('factor'))} times the time of the others" if "factor" in e else "",
        _if(e, "step", ", seen at step {}"),
    )


def _spike(e: Event) -> str:
    return _joined(
        f"the loss of step {e.get('step')} is not to be trusted", _if(e, "reason", ": {}")
    )


def _rolled_back(e: Event) -> str:
    return _joined(
        f"the batch of step {e.get('step')} is left out",
        _if(e, "from_step", ", from step {} on all is done again"),
        _if(e, "reason", ": {}"),
        f"; the batch is in {PurePath(str(e['batch']))}" if e.get("batch") else "",
    )


def _fenced(e: Event) -> str:
    return _joined("another process has taken over the run", _if(e, "reason", ": {}"))


def _ended_early(e: Event) -> str:
    return f"ended early: {e.get('reason')}"


def _finished(e: Event) -> str:
    error = e.get("error")
    if isinstance(error, Mapping) and e.get("status") != "done":
        return f"{e.get('status')}: {_failed(error)}"
    return str(e.get("status"))


def _unknown(e: Event) -> str:
    facts = [
        f"{name} {value}" for name, value in e.items() if name not in OWN and value is not None
    ]
    return " ".join([str(e.get("event")).replace("_", " "), ", ".join(facts)]).strip()


SENTENCES: dict[str, Callable[[Event], str]] = {
    "started": _started,
    "admitted": _admitted,
    "first_step": _first_step,
    "memory": _memory,
    "resumed": _resumed,
    "weights": _weights,
    "checkpoint": _checkpoint,
    "asked": _asked,
    "best": _best,
    "checkpoint_waited": _checkpoint_waited,
    "checkpoint_rejected": _checkpoint_rejected,
    "engine": _engine,
    "copied": _copied,
    "copy_failed": _copy_failed,
    "copy_fenced": _copy_fenced,
    "copy_pending": _copy_pending,
    "data_skipped": _data_skipped,
    "drift": _drift,
    "waited_for_disk": _waited_for_disk,
    "failed": _failed,
    "restarting": _restarting,
    "recovered": _recovered,
    "gave_up": _gave_up,
    "resized": _resized,
    "preempted": _preempted,
    "hung": _hung,
    "slow_rank": _slow_rank,
    "spike": _spike,
    "rolled_back": _rolled_back,
    "fenced": _fenced,
    "ended_early": _ended_early,
    "finished": _finished,
}


def _joined(*parts: str) -> str:
    return "".join(parts)


def _if(e: Event, name: str, text: str) -> str:
    """The text with the fact in it; "" if there is no such fact."""
    return "" if e.get(name) in (None, "") else text.format(e[name])


def _list(e: Event, name: str) -> list[Any]:
    found = e.get(name)
    return found if isinstance(found, list) else []


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
