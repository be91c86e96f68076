"""`orchestrate quota [owner|project NAME LIMIT=N ...]`: what jobs may hold at any time."""

import argparse
from collections.abc import Sequence

from cluster.queue.client import connect
from cluster.queue.job import QueueError
from orchestrator.terminal import columns, say

LIMITS = ("cpus", "gpus", "memory_bytes", "jobs")
HEADINGS = ("of", "name", *LIMITS)


def main(argv: Sequence[str]) -> int:
    """Set one, or print all; returns the exit code.

    Raises:
        QueueError: no queue answers, it is not ours to set, or it is no quota.
    """
    options = parser().parse_args(argv)
    queue = connect()
    if options.kind is not None:
        if options.name is None or not options.limits:
            raise QueueError(f"whose quota, and which? e.g. quota {options.kind} ann gpus=4 jobs=2")
        queue.set_quota({"kind": options.kind, "name": options.name, **_limits(options.limits)})
    found = queue.quotas()
    if not found:
        say("no quotas: everybody may hold all there is; e.g. orchestrate quota owner '*' gpus=4")
        return 0
    rows = [(one["kind"], one["name"], *(_shown(one[limit]) for limit in LIMITS)) for one in found]
    for line in columns([HEADINGS, *rows]):
        say(line)
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate quota", description=__doc__)
    new.add_argument("kind", nargs="?", choices=("owner", "project"), help="without it: list all")
    new.add_argument("name", nargs="?", help="'*': each one that has no quota of its own")
    new.add_argument(
        "limits", nargs="*", help=f"{', '.join(f'{one}=N' for one in LIMITS)}; none: no quota"
    )
    return new


def _limits(words: Sequence[str]) -> dict[str, int]:
    if list(words) == ["none"]:
        return {}
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in LIMITS or not value.isdecimal():
            raise QueueError(f"{word}: a limit is {', '.join(LIMITS)} = a whole number, or none")
        found[name] = int(value)
    return found


def _shown(limit: int | None) -> str:
    return "-" if limit is None else f"{limit:,}"
