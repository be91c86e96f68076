"""`orchestrate up`: a cluster on this machine, in the background until `orchestrate down`.

1. A supervisor is started, which outlives this terminal and starts again what dies.
2. It starts the head of a Ray cluster, an MLflow server on the store of `ui`, and the queue.
3. With --hosts the hosts of a list become nodes of it, over ssh, which asks for no password.
4. When all of them answer, their addresses are printed.

With --join this machine becomes a node of somebody's cluster instead. Everything listens on this
machine alone, unless --host says otherwise, and lets nobody in without a token; tokens are in files
that only their owner can read, and never on a command line.
"""

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import gettempdir, mkdtemp

from cluster.daemons import control, ray_nodes, remote
from cluster.daemons.daemon import Daemon
from cluster.daemons.home import Home, HomeRefused, home, user, write, write_private
from cluster.daemons.ray_nodes import LOOPBACK
from cluster.host.network import free_port
from cluster.nodes import local_devices
from cluster.queue import service
from orchestrator.config import TrackingConfig
from orchestrator.plan.outputs import check_outputs
from orchestrator.record.mlflow import new_state
from orchestrator.record.mlflow.mirror import SENDER
from orchestrator.record.mlflow.sqlite import sqlite_path
from orchestrator.terminal import say
from orchestrator.verbs import status
from orchestrator.verbs.ui import choose_port

TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def main(argv: Sequence[str]) -> int:
    """Start what is not up; returns the exit code. Raises ValueError if it can't be started."""
    options = parser().parse_args(argv)
    own = home()
    if options.user is not None:
        return _admit(own, options.user)
    facts = control.look(own)
    if facts.plan and control.mend(own):
        say("the supervisor had died; another one watches now")
    elif facts.plan:
        if options.database not in (None, kept := facts.plan.get("database")):
            raise HomeRefused(
                f"--database={options.database} is for a queue that starts, and this one is up "
                f"with its jobs in {kept}; `orchestrate down` first"
            )
        if more := _hosts(options, facts.plan.get("host", LOOPBACK)):
            hosts = list(dict.fromkeys([*facts.plan.get("hosts", []), *more]))
            write(own.plan, {**facts.plan, "hosts": hosts})
        say("the cluster is up already; `orchestrate down` ends it")
    elif options.join is not None:
        _join(own, options)
    else:
        _start(own, options)
    try:
        control.wait(own, say)
    except control.NotUp as error:
        say(f"error: {error}", sys.stderr)
        say("what does answer stays; `orchestrate down` ends it", sys.stderr)
        return 1
    lacks = _let_join(own)
    return status.main([]) or lacks


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(
        prog="orchestrate up",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    new.add_argument("--host", default=LOOPBACK, help="address for other hosts [%(default)s]")
    new.add_argument("--cpus", type=int, help="cores to offer [all]")
    new.add_argument("--gpus", type=int, help="GPUs to offer [all]")
    new.add_argument("--mlflow-port", type=int, help="of the MLflow page [5000, or a free one]")
    new.add_argument("--outputs", type=Path, default=Path("outputs"), help="[%(default)s]")
    new.add_argument(
        "--hosts", metavar="A,B", help="or a file with one on each line: they join, over ssh"
    )
    new.add_argument(
        "--database",
        metavar="URL",
        help="of the queue, e.g. postgresql+psycopg://me@host/queue [that of the last time, else a "
        "file]",
    )
    new.add_argument("--join", metavar="ADDRESS", help="be a node of the cluster there")
    new.add_argument("--user", metavar="NAME", help="make a token for somebody else, and end")
    return new


def _start(own: Home, options: argparse.Namespace) -> None:
    outputs = options.outputs.absolute()
    check_outputs(outputs)  # also whether it is ours to write to
    state = new_state(TrackingConfig(), outputs)
    served = sqlite_path(state.tracking_uri) is not None
    page = _port("--mlflow-port", LOOPBACK, options.mlflow_port) if served else None
    port, http, queue = free_port(), free_port(), free_port()
    if options.host != LOOPBACK:
        _port("--host", options.host, 0)
    hosts = _hosts(options, options.host)
    database = service.check_database(own, options.database)
    if not own.ray_token.exists():
        write_private(own.ray_token, os.urandom(32).hex())
    own.admit(user())
    cpus, gpus = _room(options)
    temporary = Path(mkdtemp(prefix="orchestrate-", dir=_short_temporary()))
    daemons = [
        ray_nodes.head(
            own,
            host=options.host,
            port=port,
            http_port=http,
            cpus=cpus,
            gpus=gpus,
            temporary=temporary,
            drivers=service.DRIVERS,
        )
    ]
    if page is not None:
        words = ("orchestrator.record.mlflow.serving", str(outputs), LOOPBACK, str(page))
        command = (sys.executable, "-P", "-m", *words)
        daemons.append(Daemon("mlflow", command, f"http://{LOOPBACK}:{page}/health"))
    daemons.append(service.daemon(own, queue))
    say("starting Ray, MLflow and the queue, which takes some seconds")
    control.start(
        own,
        daemons,
        host=options.host,
        ray={"address": f"{options.host}:{port}", "http": f"http://{LOOPBACK}:{http}"},
        mlflow={
            "uri": state.tracking_uri,
            "page": f"http://{LOOPBACK}:{page}" if page else state.tracking_uri,
        },
        queue=f"http://{LOOPBACK}:{queue}",
        hosts=hosts,
        database=database,
        closes=[sys.executable, "-P", "-m", SENDER],
        temporary=str(temporary),
    )


def _hosts(options: argparse.Namespace, reached_at: str) -> list[str]:
    """Those that are to join a cluster which is reached at an address."""
    if options.hosts is None:
        return []
    hosts = remote.hosts_of(options.hosts)
    if reached_at == LOOPBACK:
        raise HomeRefused(
            f"--hosts={options.hosts} can't reach this machine at {LOOPBACK}; type --host ADDRESS, "
            "too, that of this machine in their network, when the cluster is started"
        )
    return hosts


def _let_join(own: Home) -> int:
    """Let the hosts of the plan join; returns the exit code."""
    plan = control.look(own).plan
    if not (hosts := plan.get("hosts")):
        return 0
    say(f"{', '.join(hosts)} join over ssh, which takes some seconds")
    failed = remote.join(own, hosts, plan["ray"]["address"])
    for host, why in failed.items():
        say(f"error: {host} did not join: {why}", sys.stderr)
        say(f"look:  {remote.by_hand(own, host, 'status')}", sys.stderr)
    if failed:
        say("the others are in; type the same `orchestrate up` to try these again", sys.stderr)
    return 1 if failed else 0


def _join(own: Home, options: argparse.Namespace) -> None:
    if options.hosts is not None:
        raise HomeRefused(
            f"--join={options.join} makes this machine a node, and --hosts={options.hosts} is for "
            "the head of a cluster; leave one of them out"
        )
    host, _, port = options.join.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
    except (OSError, ValueError) as error:
        raise HomeRefused(
            f"--join={options.join}: no Ray cluster answers there ({error}); type what "
            "`orchestrate status` prints on its head, which must have been started with --host"
        ) from None
    token, file = (os.environ.get(name) for name in TOKENS)
    if not token and not file:
        raise HomeRefused(
            f"--join={options.join} needs the token of that cluster: copy the file that "
            "`orchestrate status` names there, for you alone to read, and type "
            f"{TOKENS[1]}=FILE before this"
        )
    write_private(own.ray_token, token or Path(str(file)).expanduser().read_text().strip())
    cpus, gpus = _room(options)
    temporary = Path(mkdtemp(prefix="orchestrate-", dir=_short_temporary()))
    joined = ray_nodes.node(own, join=options.join, cpus=cpus, gpus=gpus, temporary=temporary)
    say(f"joining the cluster at {options.join}")
    control.start(own, [joined], join=options.join, temporary=str(temporary))


def _admit(own: Home, name: str) -> int:
    path = own.admit(name)
    say(f"the token of {name} is in {path}; give it to {name} alone, who then types")
    plan = control.look(own).plan
    say(
        f"  ORCHESTRATE_CLUSTER={plan.get('queue', 'http://HOST:PORT')} ORCHESTRATE_TOKEN_PATH=FILE"
    )
    say("before `orchestrate submit`; all jobs run as the user who typed `orchestrate up`")
    return 0


def _room(options: argparse.Namespace) -> tuple[int, int]:
    """CPUs and GPUs to offer."""
    here, room = local_devices(), []
    for name, there in (("cpus", here.cpus), ("gpus", here.gpus)):
        asked = getattr(options, name)
        least = 1 if name == "cpus" else 0
        if asked is not None and not least <= asked <= there:
            raise HomeRefused(
                f"--{name}={asked} must be from {least} to {there}, as many as this machine has"
            )
        room.append(there if asked is None else asked)
    return room[0], room[1]


def _port(flag: str, host: str, port: int | None) -> int:
    try:
        return choose_port(host, port)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise HomeRefused(
            f"{flag}={port or host} can't be used: {said}; leave {flag} out, or type another"
        ) from None


def _short_temporary() -> str:
    """For Ray's sockets, whose paths have at most 107 bytes."""
    return "/tmp" if Path("/tmp").is_dir() else gettempdir()
