"""What Ray would do to this process or leave open to others while it starts, and is kept from."""

from __future__ import annotations

import ctypes
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ACTION_BYTES = 1024  # more than a struct sigaction of any C library
POINTER_BYTES = ctypes.sizeof(ctypes.c_void_p)  # its first member is the handler


@contextmanager
def without_dashboard_dependencies() -> Iterator[None]:
    """Start Ray as if its web dashboard were not installed.

    Even with include_dashboard=False, ray[default] starts an agent with an HTTP server and
    metrics, which nobody here asks. Whether this also starts faster is unclear: 3.0 and 4.4 s
    against 4.8 to 6.9 s on an idle machine, no difference in five pairs on a busy one.
    """
    name = "ray.dashboard.optional_deps"
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that starts listen on the loopback interface alone.

    Nobody else has business there, and some of its servers ask for no token. Ray does so where it
    knows no clusters, as on macOS; any other address of this host it makes public.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def ray_log(path: Path | None) -> Iterator[None]:
    """Send what Ray's Python logs in this process to a file, not to the screen."""
    logger = logging.getLogger("ray")
    handler: logging.Handler = logging.NullHandler()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, delay=True)
    before = (list(logger.handlers), logger.propagate, logger.level)
    # The raylet's messages ("A worker died ...") are printed whatever log_to_driver says.
    from ray._private import worker as driver

    show = driver.print_to_stdstream
    driver.print_to_stdstream = lambda data, ignore_prefix: logger.info("\n".join(data["lines"]))
    logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[1]
        logger.setLevel(before[2])
        driver.print_to_stdstream = show
        handler.close()


@contextmanager
def handlers_kept() -> Iterator[None]:
    """At the end of the block, SIGTERM means what it meant before.

    Ray's C++ takes it for a crash: its handler writes a stack to the screen and aborts the process
    3 s later, in the middle of the checkpoint that SIGTERM asks for. `signal.signal` would not do
    here: it works in the main thread only.
    """
    before = {number: _action(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    try:
        yield
    finally:
        alarmed = _handler(_action(signal.SIGALRM)) != _handler(before[signal.SIGALRM])
        for number, action in before.items():
            ctypes.CDLL(None).sigaction(int(number), action, None)
        if alarmed:  # SIGTERM came in the block, and Ray has set the clock for the end
            signal.alarm(0)


def _action(number: int) -> ctypes.Array[ctypes.c_char]:
    action = ctypes.create_string_buffer(ACTION_BYTES)
    ctypes.CDLL(None).sigaction(int(number), None, action)
    return action


def _handler(action: ctypes.Array[ctypes.c_char]) -> bytes:
    return action.raw[:POINTER_BYTES]
