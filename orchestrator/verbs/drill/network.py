"""A second host on this machine: a network namespace at the other end of a virtual cable."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.verbs.drill.rehearsal import NotPossible

NEAR, FAR = "198.18.77.1", "198.18.77.2"  # of the range for tests of networks (RFC 2544)


class Cable:
    """A cable from this host to the other, by the name of its near end and of the namespace."""

    def __init__(self, name: str) -> None:
        """It is there, and nothing is cut."""
        self.name = name
        self.within = ("ip", "netns", "exec", name)
        """What a command begins with that is to run on the other host."""

    def cut(self, seconds: float) -> None:
        """No packet comes through for so long."""
        _ip(f"link set {self.name} down")
        try:
            time.sleep(seconds)
        finally:
            _ip(f"link set {self.name} up")


@contextmanager
def cable() -> Iterator[Cable]:
    """Another host while the block runs. Raises NotPossible where this user can't make one."""
    name = f"o{os.getpid()}"
    try:
        _ip(f"netns add {name}")
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise NotPossible(
            f"a network of its own needs root and iproute2: {said.strip()}"
        ) from error
    try:
        _ip(f"link add {name} type veth peer name far netns {name}")
        _ip(f"addr add {NEAR}/30 dev {name}")
        _ip(f"link set {name} up")
        for words in ("link set lo up", f"addr add {FAR}/30 dev far", "link set far up"):
            _ip(f"-n {name} {words}")
        yield Cable(name)
    finally:
        _ip(f"netns del {name}")  # and the cable with it


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True)
