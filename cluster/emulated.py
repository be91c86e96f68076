"""A Ray cluster whose nodes are raylets on this machine, to rehearse the loss of one.

    with emulated_cluster(nodes=2) as cluster:  # of one core each
        ... a job with the environment `cluster.environment` ...
        os.kill(cluster.nodes[-1].raylet, signal.SIGKILL)
        cluster.add()

A process of its own, `python -m cluster.emulated`, starts the servers, which end with it, and it
with its standard input. All that is told apart on real machines but addresses, processor and disk
is apart here, too: each node has a Ray id, room and workers of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from cluster.connection.authentication import own_token
from cluster.connection.folder import ray_folder
from cluster.connection.session import WAITING_WORKERS
from cluster.connection.starting import ONE_HEAP, handlers_kept, ray_log, servers_alone
from cluster.host.processes import end_processes

if TYPE_CHECKING:
    from ray._private.node import Node

STORE_BYTES = 80 * 2**20
HEAD_AWAY = "head-away"


class NotEmulated(Exception):
    """The servers of the cluster did not start, or did not do what they were asked."""


@dataclass(frozen=True)
class Raylet:
    """A node."""

    node: str
    """Its Ray id."""
    raylet: int
    """Process id of its server; its workers end with it."""
    head: int | None
    """Process id of the cluster's head process, if that is here."""


@dataclass
class EmulatedCluster:
    """A running cluster, as who started it sees it."""

    environment: dict[str, str]
    """For a job that is to run on it: where it is, and what lets one in."""
    nodes: list[Raylet]
    """In the order in which they came, lost ones too."""
    _process: subprocess.Popen[str] = field(repr=False)

    @property
    def address(self) -> str:
        """Of its head process."""
        return self.environment["RAY_ADDRESS"]

    def add(self) -> Raylet:
        """Another node joins, with as much room as the others."""
        self.nodes.append(Raylet(**self._ask("add")))
        return self.nodes[-1]

    def drain(self, node: str, seconds: int = 60) -> None:
        """Tell Ray that a node will be taken away after so long, as an autoscaler would."""
        self._ask("drain", node, str(seconds))

    def head_away(self, seconds: float) -> None:
        """SIGKILL to the head process, and another one at the same address after so long."""
        self._ask(HEAD_AWAY, str(seconds))

    def left(self) -> list[str]:
        """What jobs that are over have left in the cluster, in a sentence each."""
        found: list[str] = self._ask("left")
        return found

    def _ask(self, *words: str) -> Any:
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)
        return answer_of(self._process)


@contextmanager
def emulated_cluster(
    nodes: int,
    cpus: int = 1,
    *,
    ip: str | None = None,
    log: Path | None = None,
    within: Sequence[str] = (),
    **more: str,
) -> Iterator[EmulatedCluster]:
    """A cluster of so many nodes, the head among them, while the block runs.

    Args:
        nodes: at least 1.
        cpus: of each.
        ip: at which the nodes are reached. None: Ray chooses.
        log: gets what they say. None: nobody does.
        within: what the command begins with, where the nodes are to be apart.
        more: environment variables for the servers.

    Raises:
        NotEmulated: with what they said.
    """
    token = own_token()
    with _servers(cpus, ip, None, log, within, {**more, **token}) as (process, begun):
        environment = {"RAY_ADDRESS": begun.pop("address"), **token}
        here = EmulatedCluster(environment, [Raylet(**begun)], process)
        for _ in range(nodes - 1):
            here.add()
        yield here


@contextmanager
def joined(
    cluster: EmulatedCluster,
    cpus: int = 1,
    *,
    ip: str | None = None,
    log: Path | None = None,
    within: Sequence[str] = (),
) -> Iterator[Raylet]:
    """One more node of a cluster while the block runs, on its own; arguments as above."""
    token, address = cluster.environment, cluster.address
    with _servers(cpus, ip, address, log, within, token) as (_, begun):
        yield Raylet(**{name: value for name, value in begun.items() if name != "address"})


@contextmanager
def _servers(
    cpus: int,
    ip: str | None,
    join: str | None,
    log: Path | None,
    within: Sequence[str],
    environment: Mapping[str, str],
) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A process with a node, and what it says of it."""
    options = {"--ip": ip, "--join": join, "--log": log}
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    own = {**WAITING_WORKERS, **ONE_HEAP, "RAY_USAGE_STATS_ENABLED": "0", **environment}
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with (
        (log or Path(os.devnull)).open("ab") as said,
        subprocess.Popen(
            [*within, sys.executable, "-m", "cluster.emulated", str(cpus), *given],
            cwd=Path(__file__).parents[1],
            env={**os.environ, **own},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process, answer_of(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def answer_of(process: subprocess.Popen[str]) -> Any:
    """The next line that a cluster's process says. Raises NotEmulated if it is a complaint."""
    assert process.stdout is not None
    line = process.stdout.readline()
    answer = json.loads(line) if line else {"error": "it ended"}
    if isinstance(answer, dict) and "error" in answer:
        raise NotEmulated(f"the cluster of several nodes on this machine: {answer['error']}")
    return answer


def main(arguments: Sequence[str] | None = None) -> None:
    """Start a node, then do what is asked, a line at a time, until there is no more to come."""
    parser = argparse.ArgumentParser(description="a node of an emulated cluster, or several")
    parser.add_argument("cpus", type=int)
    parser.add_argument("--ip", help="at which it is reached; without, Ray chooses")
    parser.add_argument("--join", help="address of the head; without, this is the head")
    parser.add_argument("--log", type=Path)
    asked = parser.parse_args(arguments)
    with ray_folder() as folder, ray_log(asked.log), servers_alone(), handlers_kept():
        nodes: list[Node] = []
        try:
            first = _node(asked.cpus, asked.ip, folder, asked.join)
            nodes.append(first)
            _say({**_told(first), "address": first.gcs_address})
            for line in sys.stdin:
                _say(_do(line.split(), asked.cpus, nodes, folder))
        except Exception as error:
            _say({"error": f"{type(error).__name__}: {error}"})
        finally:
            started = psutil.Process().children(recursive=True)
            for node in reversed(nodes):
                node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
            end_processes(started, grace_s=0)  # workers end with their raylet, on a busy host late


def _do(words: list[str], cpus: int, nodes: list[Node], folder: Path) -> Any:
    """Carry out one request; returns the answer."""
    head = nodes[0]
    match words:
        case ["add"]:
            nodes.append(_node(cpus, head.node_ip_address, folder, head.gcs_address))
            return _told(nodes[-1])
        case ["drain", node, seconds]:
            return _drain(head.gcs_address, node, int(seconds))
        case ["left"]:
            return _left(head.gcs_address)
        case [way, seconds] if way == HEAD_AWAY:
            # From this thread: with the one that starts a server, Linux ends the server.
            head.kill_gcs_server(check_alive=False)
            time.sleep(float(seconds))
            head.start_gcs_server()  # type: ignore[no-untyped-call]
            return True
    raise ValueError(f"{words} is nothing that can be asked for")


def _node(cpus: int, ip: str | None, folder: Path, join: str | None) -> Node:
    from ray._private.node import Node
    from ray._private.parameter import RayParams
    from ray._private.services import wait_for_node

    parameters = RayParams(
        num_cpus=cpus,
        num_gpus=0,
        object_store_memory=STORE_BYTES,
        node_ip_address=ip,
        gcs_address=join,
        node_manager_port=0,
        min_worker_port=0,
        max_worker_port=0,
        temp_dir=str(folder),
        include_dashboard=False,
    )
    node = Node(parameters, head=join is None, spawn_reaper=True, shutdown_at_exit=False)
    wait_for_node(node.gcs_address, node.plasma_store_socket_name)
    return node


def _told(node: Node) -> dict[str, Any]:
    pids = {name: found[0].process.pid for name, found in node.all_processes.items()}
    return {"node": node.node_id, "raylet": pids["raylet"], "head": pids.get("gcs_server")}


def _drain(address: str, node: str, seconds: int) -> bool:
    from ray import _raylet
    from ray.core.generated import autoscaler_pb2

    pb2: Any = autoscaler_pb2  # generated, without types
    reason = pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = time.time_ns() // 1_000_000 + 1000 * seconds
    client = _raylet.GcsClient(address=address)  # type: ignore[attr-defined]
    accepted, why_not = client.drain_node(node, reason, "wanted", deadline_ms)
    if not accepted:
        raise ValueError(f"Ray does not drain node {node}: {why_not}")
    return True


def _left(address: str) -> list[str]:
    """Actors and placement groups that there are, as Ray's own tools ask for them."""
    from ray import _raylet
    from ray._private.state import GlobalState

    state = GlobalState()  # type: ignore[no-untyped-call]
    options = {"allow_cluster_id_nil": True, "fetch_cluster_id_if_nil": False}
    where = _raylet.GcsClientOptions.create(address, None, **options)  # type: ignore[attr-defined]
    state._initialize_global_state(where)
    try:
        actors = [own for own in state.actor_table(None).values() if own["State"] != "DEAD"]
        known = state.placement_group_table()  # type: ignore[no-untyped-call]
        groups = [own for own in known.values() if own["state"] != "REMOVED"]
    finally:
        state.disconnect()  # type: ignore[no-untyped-call]
    return [f"actor {own['ActorID']} is left in the cluster" for own in actors] + [
        f"placement group {own['placement_group_id']} is left in the cluster" for own in groups
    ]


def _say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
