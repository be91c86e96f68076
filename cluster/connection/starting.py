"""What Ray would do to this process or leave open to others while it starts, and is kept from."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

ACTION_BYTES = 1024  # more than a struct sigaction of any C library
POINTER_BYTES = ctypes.sizeof(ctypes.c_void_p)  # its first member is the handler
AGENT_PORTS = (
    "METRICS_AGENT_PORT_NAME",
    "METRICS_EXPORT_PORT_NAME",
    "DASHBOARD_AGENT_LISTEN_PORT_NAME",
    "RUNTIME_ENV_AGENT_PORT_NAME",
)
ONE_HEAP = {
    "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "1"),
    "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"),
}
"""For the workers of a private Ray, which inherit it; glibc reads it when a process starts.

A worker's target runs in a thread of its own. With an arena of its own, too, what mallopt says of
keeping freed memory would not be heard: thousands of page faults in every step of a training.

Tensors are aligned to 64 bytes. glibc cuts each from a block 96 bytes larger, and gives the rest of
it to its cache of small blocks: what is freed then has no neighbours to grow by, and is too small
for the next tensor of that very size. An evaluation of 26 batches grew a worker of 440 MB to 700,
another number each time; without that cache by 50."""


@contextmanager
def servers_alone() -> Iterator[None]:
    """Start Ray without what serves its dashboard, its autoscaler and its runtime environments.

    Nobody here asks any of the five Python processes, which take 2.5 s of CPU and most of the time
    that a private Ray needs to come up. Two are agents without which the raylet does not run: it
    gets stand-ins, and is told with the ports which it waits for that nobody listens (-1), as
    Ray's own agents say where the dashboard is not installed.
    """
    from ray import _raylet
    from ray._private import services, utils
    from ray._private.node import Node

    def start_raylet(node: Node, *arguments: Any, **options: Any) -> None:
        folder = node.get_session_dir_path()  # type: ignore[no-untyped-call]
        for port in AGENT_PORTS:
            name = getattr(_raylet, port)
            _raylet.persist_port(folder, node.node_id, name, -1)  # type: ignore[attr-defined]
        raylet_of_node(node, *arguments, **options)

    def stand_in(*_: object, **__: object) -> list[str]:
        return [sys.executable, "-I", "-S", str(Path(__file__).with_name("stand_in.py"))]

    raylet_of_node = Node.start_raylet
    with ExitStack() as changes:
        for owner, name, instead in (
            (Node, "start_monitor", lambda node: None),
            (Node, "start_log_monitor", lambda node: None),
            (Node, "start_api_server", lambda node, **options: None),
            (Node, "start_raylet", start_raylet),
            # A signal to the group of this process, as by `timeout`, is not for the servers: they
            # end when it does, and until then it may save.
            (services, "ConsolePopen", partial(services.ConsolePopen, process_group=0)),
            (services, "_build_python_executable_command_memory_profileable", stand_in),
            # Whether there is a dashboard: the answer imports an HTTP server.
            (utils, "get_dashboard_dependency_error", lambda: ImportError("not asked for")),
        ):
            changes.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, instead)
        yield


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
