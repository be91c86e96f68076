"""The life of a few jobs under a keeper that is killed at its n-th write, for every n.

    python tests/cluster/killed_keeper.py FOLDER [EVERY]

For each n (each EVERY-th): a fresh queue, a keeper and client in one process that gets SIGKILL just
before its n-th write or beside its n-th start of a process, then another that goes on to the end.
Writes are statements that change a table, and commits; of the beats, which come all the time, only
those that go with a change. Prints what was wrong, and how many writes there were.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from sqlalchemy import event

from cluster.queue.drivers import Node
from cluster.queue.job import ENDED, Attempt, Bundle, Job, State
from cluster.queue.keeper import Keeper
from cluster.queue.processes import Processes
from cluster.queue.store import Store

AT_ONCE = 6
LIMIT_S = 60
ALONE = 'mkdir "busy-$ORCHESTRATE_JOB" || echo "overlap $ORCHESTRATE_JOB" >> ran; '
NOTED = ALONE + 'echo "$ORCHESTRATE_JOB.$ORCHESTRATE_JOB_ATTEMPT" >> ran; '
LEFT = 'rmdir "busy-$ORCHESTRATE_JOB"; '


def jobs() -> list[Job]:
    """One that ends, one whose driver dies once, one that is preempted, one that preempts it."""
    bodies = {
        "first": "",
        "dies": f"[ $ORCHESTRATE_JOB_ATTEMPT != 1 ] || {{ {LEFT} kill -9 $$; }}; ",
        "weak": f"trap '{LEFT} exit 130' TERM; until [ -e go ]; do sleep 0.02; done; ",
        "strong": "touch go; ",
    }
    needs = {"weak": (Bundle(1),), "strong": (Bundle(2),)}
    after = {"dies": ("first",), "strong": ("dies",)}
    return [
        Job(
            name,
            "ann",
            "p",
            needs.get(name, (Bundle(1),)),
            ("/bin/sh", "-c", NOTED + body + LEFT),
            priority=int(name == "strong"),
            after=after.get(name, ()),
        )
        for name, body in bodies.items()
    ]


class Fatal:
    """Counts writes, and kills this process before one of them."""

    def __init__(self, number: int | None) -> None:
        self.left = number
        self.changed = False

    def count(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, store: Store) -> None:
        @event.listens_for(store.database.engine, "before_cursor_execute")
        def statement(_c: object, _k: object, text: str, *_: object) -> None:
            beat = "ran_s=" in text or (text.startswith("UPDATE keepers") and "holder" not in text)
            if text.startswith(("INSERT", "DELETE", "UPDATE")) and not beat:
                self.changed = True
                self.count()

        @event.listens_for(store.database.engine, "commit")
        def commit(_: object) -> None:
            if self.changed:
                self.count()
            self.changed = False


class Watched(Processes):
    """Real processes, whose start is a write, too: kill before, and right after."""

    fatal: Fatal

    def start(self, attempt: Attempt) -> None:
        self.fatal.count()
        super().start(attempt)
        self.fatal.count()


def live(folder: Path, number: int | None) -> None:
    """Hand the jobs in and keep the queue until all have ended."""
    fatal = Fatal(number)
    store = Store(f"sqlite:///{folder}/queue.db")
    fatal.watch(store)
    drivers = Watched(folder / "attempts", [Node("here", 2)], folder)
    drivers.fatal = fatal
    keeper = Keeper(store, drivers, grace_s=5, lease_s=LIMIT_S)
    end = time.monotonic() + LIMIT_S
    store.add(jobs())
    while any(one.state not in ENDED for one in store.list()):
        keeper.tick()
        time.sleep(0.03)
        if time.monotonic() > end:
            sys.exit(f"not at its end: {[(one.job.id, str(one.state)) for one in store.list()]}")
    store.close()
    if number is not None:
        os._exit(7)  # it was not killed: there are fewer writes


def child(folder: Path, number: int | None) -> int:
    """Start a life in a process of its own."""
    pid = os.fork()
    if not pid:
        live(folder, number)
        os._exit(0)
    return pid


def faults(folder: Path) -> list[str]:
    """What is wrong after the end."""
    ran = Counter((folder / "ran").read_text().split("\n"))
    store = Store(f"sqlite:///{folder}/queue.db")
    found = [f"{line}: {count} times" for line, count in ran.items() if line and count > 1]
    found += [line for line in ran if line.startswith("overlap")]
    for record in store.list():
        if record.state is not State.DONE:
            found.append(f"{record.job.id} is {record.state}: {record.message}")
        if f"{record.job.id}.{record.attempt}" not in ran:
            found.append(f"attempt {record.attempt} of {record.job.id} never ran")
        steps = [event.state for event in store.events(record.job.id)]
        if steps.count(State.DONE) != 1 or steps.count(State.STARTING) != record.attempt:
            found.append(f"{record.job.id} went through {steps}")
    if len(store.list()) != 4:
        found.append("a job is lost")
    store.close()
    return found


def main() -> None:
    """Go through all numbers, several at a time, for most of a life is waiting."""
    base, every = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    number, wrong, reached = 1, 0, 0
    while not reached:
        batch = [number + every * place for place in range(AT_ONCE)]
        number = batch[-1] + every
        folders = {one: base / str(one) for one in batch}
        for folder in folders.values():
            folder.mkdir()
        first = {child(folder, one): one for one, folder in folders.items()}
        second = {}
        for pid, one in first.items():
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if code == 7:
                reached = reached or one
            elif code == -signal.SIGKILL:
                second[child(folders[one], None)] = one
            else:
                wrong += 1
                print(f"write {one}: the first keeper ended with {code}")
        for pid, one in second.items():
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            found = faults(folders[one]) if code == 0 else [f"the second ended with {code}"]
            wrong += bool(found)
            for fault in found:
                print(f"write {one}: {fault}")
    print(f"killed before each of {reached - 1} writes (every {every}): {wrong} went wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
