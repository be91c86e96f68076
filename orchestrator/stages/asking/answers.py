"""Requests answered once: each reply is on the disk, by a hash of what was asked, before its use.

Who is killed and asks again gets what was answered before, at no cost; at most the requests that
were under way are sent twice. Each process appends to a file of its own.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from data.files import write_text_atomic
from orchestrator.stages.asking.requests import Asked, Reply, Request
from orchestrator.stages.asking.spending import Spent
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.patience import SAMPLING

FOLDER = "answers"
"""Below the outputs, beside the run folders, for all runs."""
EVERY = 20  # requests between two lines of progress, at least
LINES = 10  # of progress, about


class Stopped(Exception):
    """The job was asked to leave; what was answered is kept."""


class Kept:
    """The replies of one that is asked, on the disk."""

    def __init__(self, outputs: Path, who: str) -> None:
        """Those below `outputs`; nothing is made before the first reply."""
        self._folder = outputs / FOLDER / sha256(who.encode()).hexdigest()[:16]
        self._file = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}.jsonl"

    def read(self) -> dict[str, Reply]:
        """All there are; a line that was not written to its end is none."""
        found: dict[str, Reply] = {}
        for path in sorted(self._folder.glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                with suppress(ValueError, TypeError, KeyError):
                    row = json.loads(line)
                    found[row["key"]] = Reply(**row["reply"])
        return found

    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply; it is on the disk when this returns."""
        self._folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, "reply": asdict(reply)}, ensure_ascii=False)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())


def ask_all(asked: Asked, requests: Sequence[Request], run: Run, spent: Spent) -> list[Reply]:
    """The reply to each request, from what is kept or asked for now. Every rank calls it.

    Args:
        asked: answers; each rank has its own, of the same name.
        requests: the same on every rank; equal ones are asked once.
        run: whose outputs keep the replies.
        spent: counts what was asked for now, over all ranks.

    Raises:
        Stopped: the job was asked to leave meanwhile.
    """
    kept = Kept(run.folder.resolve().parents[1], asked.who)
    keys = [request.key(asked.who) for request in requests]
    known = distributed.broadcast_object(kept.read() if distributed.rank() == 0 else {})
    new = dict(zip(keys, requests, strict=True))
    spent.known += sum(key in known for key in new)
    missing = [key for key in new if key not in known]
    rank, ranks = distributed.rank(), distributed.world_size()
    own = missing[rank::ranks]
    mine: dict[str, Reply] = {}
    new_spent = Spent()
    tell = _progress(run, len(own))
    with closing(asked.ask([new[key] for key in own])) as replies:
        for place, reply in replies:
            run.heart.beat(SAMPLING)
            mine[own[place]] = reply
            new_spent.count(reply)
            if reply.problem is None:
                kept.add(own[place], reply)
            tell(len(mine))
            if ranks == 1 and run.should_stop():  # several would wait for each other
                raise Stopped("what was answered is kept; type the same again to go on")
    new_spent.again = dict(asked.again)
    for own_replies, other in distributed.gather_objects((mine, new_spent)):
        known |= own_replies
        spent.add(other)
    return [known[key] for key in keys]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSONL file, whole or not at all."""
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    write_text_atomic(path, text)


def _progress(run: Run, number: int) -> Callable[[int], None]:
    """Called with how many of so many are answered, records that now and then."""
    every = max(EVERY, number // LINES)

    def tell(done: int) -> None:
        if done % every == 0 and done < number:
            run.event("asked", done=done, of=number)

    return tell
