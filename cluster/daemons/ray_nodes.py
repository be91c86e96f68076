"""A node of a Ray cluster as a daemon: `python -m cluster.daemons.ray_nodes`.

The head takes jobs at its HTTP address and keeps a file of all nodes up to date; another node joins
it. When a process of the node ends, all of it does, and who watches starts it again: half a node
would take work that it can't carry out.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.connection.session import WAITING_WORKERS
from cluster.connection.starting import ONE_HEAP
from cluster.daemons.daemon import Daemon
from cluster.daemons.home import Home, read, write
from cluster.host.network import free_port
from cluster.host.processes import is_alive

if TYPE_CHECKING:
    from ray._private.node import Node

LOOK_S = 0.5
LOOPBACK = "127.0.0.1"
# Ray makes 127.0.0.1 a public address of the host, in all its processes, but where it knows of no
# clusters, as it does on macOS.
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
NODES = "nodes.json"
STOP_S = 24 * 3600  # the queue knows how long a job may take; Ray's own 3 s cost a checkpoint
SAVE_S = 120.0  # for drivers to save and leave before Ray ends
OTHERS = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_JOB_CONFIG_JSON_ENV_VAR")


def head(
    home: Home,
    *,
    host: str,
    port: int,
    http_port: int,
    cpus: int,
    gpus: int,
    temporary: Path,
    drivers: str,
) -> Daemon:
    """The head of a cluster, which is a node, too.

    Args:
        home: holds the token that lets others in.
        host: address at which other hosts reach it; LOOPBACK: none does.
        port: of Ray; what RAY_ADDRESS means.
        http_port: where jobs are handed in, on loopback.
        cpus: that it offers.
        gpus: that it offers.
        temporary: of Ray's sockets and logs, with a short path.
        drivers: files below the home, as a glob, with the processes that are told to save and leave
            before Ray ends.
    """
    words = ["--host", host, "--port", port, "--http-port", http_port]
    words += ["--cpus", cpus, "--gpus", gpus, "--temporary", temporary]
    words += ["--nodes", home.folder / NODES, "--drivers", drivers]
    url = f"http://{LOOPBACK}:{http_port}/api/version"
    alone = ALONE if host == LOOPBACK else {}
    return _daemon(home, [str(word) for word in words], url, alone)


def node(home: Home, *, join: str, cpus: int, gpus: int, temporary: Path) -> Daemon:
    """A node of the cluster whose head is at `join`; the others as of `head`."""
    words = ["--join", join, "--cpus", cpus, "--gpus", gpus, "--temporary", temporary]
    words += ["--nodes", home.folder / NODES]
    return _daemon(home, [str(word) for word in words], (home.folder / NODES).as_uri(), {})


def nodes(home: Home) -> list[dict[str, Any]]:
    """The nodes alive, as the head has seen them last: name, id, address, resources, labels."""
    return list(read(home.folder / NODES) or [])


def _daemon(home: Home, words: list[str], url: str, more: Mapping[str, str]) -> Daemon:
    return Daemon(
        "ray",
        (sys.executable, "-P", "-m", "cluster.daemons.ray_nodes", *words),
        url,
        {
            **WAITING_WORKERS,
            **ONE_HEAP,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(home.ray_token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S),
            **more,
        },
        OTHERS,
        goodbye_s=SAVE_S + 10.0,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Be a node until SIGTERM, or until a process of it ends; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=None)
    parser.add_argument("--port", type=int)
    parser.add_argument("--http-port", type=int)
    parser.add_argument("--cpus", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--temporary", required=True)
    parser.add_argument("--nodes", type=Path, required=True, help="file that says who is there")
    parser.add_argument("--drivers", default="", help="files of the processes that use Ray")
    parser.add_argument("--join", help="address of the head")
    asked = parser.parse_args(arguments)
    leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())
    asked.nodes.unlink(missing_ok=True)
    with _few_servers():
        node = _start(asked, None if asked.host == LOOPBACK else asked.host)
        try:
            code = _watch(node, asked.nodes, leave)
            if code == 0 and asked.drivers:
                _let_save(asked.nodes.parent, asked.drivers)
            return code
        finally:
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)


def _start(asked: argparse.Namespace, ip: str | None) -> Node:
    from ray._private.node import Node
    from ray._private.parameter import RayParams
    from ray._private.services import wait_for_node

    first = asked.join is None
    parameters = RayParams(
        node_ip_address=ip,
        gcs_address=asked.join,
        gcs_server_port=asked.port,
        num_cpus=asked.cpus,
        num_gpus=asked.gpus,
        node_manager_port=0,
        min_worker_port=0,
        max_worker_port=0,
        temp_dir=asked.temporary,
        include_dashboard=first,
        dashboard_host=LOOPBACK,
        dashboard_port=asked.http_port,
        dashboard_agent_listen_port=free_port(),  # else one for all of a host, and the first has it
        no_monitor=True,
    )
    node = Node(parameters, head=first, spawn_reaper=True, shutdown_at_exit=True)
    wait_for_node(node.gcs_address, node.plasma_store_socket_name)
    return node


def _watch(node: Node, file: Path, leave: threading.Event) -> int:
    """Keep the file of nodes up to date; returns 1 once a process of this one has ended."""
    from ray import _raylet
    from ray._private.state import GlobalState

    state = GlobalState()  # type: ignore[no-untyped-call]
    options = {"allow_cluster_id_nil": True, "fetch_cluster_id_if_nil": False}
    where = _raylet.GcsClientOptions.create(node.gcs_address, None, **options)  # type: ignore[attr-defined]
    state._initialize_global_state(where)
    said: list[dict[str, Any]] | None = None
    while not leave.wait(LOOK_S):
        if dead := [name for name, _ in node.dead_processes()]:  # type: ignore[no-untyped-call]
            print(f"{', '.join(map(str, dead))} of Ray ended, and so does this node", flush=True)
            return 1
        if (now := _alive(state)) != said:
            write(file, now)
            said = now
    return 0


def _let_save(folder: Path, drivers: str) -> None:
    """SIGTERM to all drivers, and wait until they have gone, at most so long."""
    running = {}
    for file in folder.glob(drivers):
        with suppress(OSError, ValueError):
            pid, begun = map(int, file.read_text().split())
            if is_alive(pid, begun):
                running[pid] = begun
                os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + SAVE_S
    while any(is_alive(*own) for own in running.items()) and time.monotonic() < deadline:
        time.sleep(0.1)


def _alive(state: Any) -> list[dict[str, Any]]:
    there = [node for node in state.node_table() if node["Alive"]]
    hosts = Counter(node["NodeManagerHostname"] for node in there)
    return [
        {
            "name": host if hosts[host] == 1 else f"{host}-{node['NodeID'][:6]}",
            "id": node["NodeID"],
            "address": node["NodeManagerAddress"],
            "resources": node["Resources"],
            "labels": node.get("Labels", {}),
        }
        for node in there
        for host in (node["NodeManagerHostname"],)
    ]


@contextmanager
def _few_servers() -> Iterator[None]:
    """Of the dashboard only what takes jobs, and nobody who prints logs: each is 100 MB."""
    from ray._private import services
    from ray._private.node import Node

    def start(command: list[str], kind: str, *arguments: Any, **options: Any) -> Any:
        if kind == "dashboard":
            command = [*command, "--modules-to-load=JobHead,NodeHead"]
        return start_process(command, kind, *arguments, **options)

    start_process = services.start_ray_process
    with ExitStack() as changes:
        for owner, name, instead in (
            (services, "start_ray_process", start),
            (Node, "start_log_monitor", lambda node: None),
        ):
            changes.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, instead)
        yield


if __name__ == "__main__":
    sys.exit(main())
