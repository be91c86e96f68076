"""`orchestrate ui [RUN]`: which run won, in the MLflow UI, until Ctrl-C.

1. With --sync, what MLflow lacks of runs that are over is sent; else that is done meanwhile.
2. The page is found: that of RUN, else the runs of the newest run's experiment, best first.
3. Its link is printed, after that of RUN the one of the table that it is a row of, and `mlflow
   server` is started on the store, for this machine only unless --host says otherwise.
4. When it answers, the page is opened, where there is a screen to open it on.
A store that is a server already only has its link printed.
"""

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from data.addresses import public
from data.messages import counted
from orchestrator.job.signals import handled, interrupt
from orchestrator.record.mlflow import serving
from orchestrator.record.mlflow.leftover import left_over, sending_left_over
from orchestrator.record.mlflow.mirror import STATE, TRAINING_MODE, State
from orchestrator.record.mlflow.sqlite import sqlite_path, sqlite_url
from orchestrator.record.mlflow.store import settle
from orchestrator.terminal import say
from orchestrator.verbs.sync import send_all

PORT = 5000
START_SECONDS = 120.0


def main(argv: Sequence[str]) -> int:
    """Show the UI; returns the exit code."""
    options = parser().parse_args(argv)
    if options.sync:
        send_all(left_over(options.outputs))
    try:
        uri, *pages = find_store(options.outputs, options.run)
    except ValueError as error:
        say(str(error), sys.stderr)
        return 2
    if uri.startswith("http"):
        if lacking := left_over(options.outputs):
            say(f"MLflow lacks a part of {counted(len(lacking), 'run')}: orchestrate ui --sync")
        _show(public(uri), pages)
        _open(f"{public(uri)}{pages[0]}")
        return 0
    try:
        port = choose_port(options.host, options.port)
    except OSError as error:
        say(
            f"--port={options.port} on --host={options.host} can't be used: {error.strerror}; "
            "leave --port out to take a free one",
            sys.stderr,
        )
        return 2
    base = f"http://{options.host}:{port}"
    _show(base, pages)
    say("starting the server of this page, which takes some seconds")
    with (
        contextlib.suppress(KeyboardInterrupt),
        tempfile.TemporaryFile() as output,
        tempfile.NamedTemporaryFile() as log,
        sending_left_over(options.outputs, Path(log.name)) as lacking,
        serve(uri, options.host, port, output) as server,
    ):
        if not answers(base, server):
            output.seek(0)
            words = output.read().decode(errors="replace")
            say(f"mlflow server did not start, it said:\n{words}", sys.stderr)
            return 1
        say("the page is there; Ctrl-C ends it")
        if lacking:
            say(f"what it lacks of {counted(len(lacking), 'run')} is being sent meanwhile")
        _open(f"{base}{pages[0]}")
        return server.wait()
    return 0


def find_store(outputs: Path, run: Path | None) -> tuple[str, ...]:
    """Tracking URI and page to open; of a run also that of the runs of its stage, best first.

    Raises:
        ValueError: there is nothing to show yet.
    """
    pages: tuple[str, ...]
    if run is not None:
        state = State.load(run)
        if state is None:
            raise ValueError(
                f"{run} was not sent to MLflow: it has no mlflow.json; "
                f"send it with: orchestrate sync {shlex.quote(str(run))}"
            )
        uri, pages = state.tracking_uri, (state.page, state.ranking)
    elif (newest := _newest(outputs)) is not None:
        uri, pages = newest.tracking_uri, (newest.ranking,)
    else:
        uri = sqlite_url(outputs.resolve() / "mlflow.db")
        pages = (f"/#/experiments?{TRAINING_MODE}",)
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        raise ValueError(
            f"{database} does not exist: no run was sent to it yet; start one with "
            "`orchestrate run`, or name another folder with --outputs"
        )
    if database is not None:
        settle(database)
    return uri, *pages


def _show(base: str, pages: Sequence[str]) -> None:
    """Print the links: that of the page first, alone on its line, as programs read it."""
    say(f"{base}{pages[0]}")
    for ranking in pages[1:]:
        say(f"its table, best first: {base}{ranking}")


def _newest(outputs: Path) -> State | None:
    """The state of the newest run that MLflow knows; run folders are named by their time."""
    for path in sorted(outputs.glob(f"*/*/{STATE}"), reverse=True):
        state = State.load(path.parent)
        if state is not None and state.run_id is not None:
            return state
    return None


def choose_port(host: str, port: int | None, usual: int = PORT) -> int:
    """`port` if it is free; without one, the usual one or else any free one.

    Raises:
        OSError: the port that was asked for, or the host, can't be used.
    """
    for candidate in (usual, 0) if port is None else (port,):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError:
                if candidate != usual or port is not None:
                    raise
            else:
                return int(probe.getsockname()[1])
    raise AssertionError("port 0 was refused without an error")


@contextlib.contextmanager
def serve(uri: str, host: str, port: int, output: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `mlflow server` on a store; on leaving, it and all it started are gone."""
    command, environment = serving.server(uri, host, port)
    # Whatever ends us, a closed terminal too, ends the server: so not before we listen for it.
    with handled(interrupt):
        # A session of its own: Ctrl-C reaches us alone, and the group can be ended as one.
        server = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield server
        finally:
            with handled(lambda *_: None):  # a second one would leave the server behind
                for sign in (signal.SIGTERM, signal.SIGKILL):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(server.pid, sign)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        server.wait(5)


def _open(link: str) -> None:
    """Open the link where its user sits: in a terminal of a desktop, not over ssh."""
    desktop = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if desktop and sys.stdout.isatty() and "SSH_CONNECTION" not in os.environ:
        webbrowser.open(link)


def answers(base: str, server: "subprocess.Popen[bytes]") -> bool:
    """Wait for the server's /health."""
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError):
            # Only this machine is asked, whatever proxy the environment names.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{base}/health", timeout=2):
                return True
        time.sleep(0.2)
    return False


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate ui", description=__doc__.splitlines()[0])
    new.add_argument("run", nargs="?", type=Path, help="run folder; without it, all runs")
    new.add_argument("--port", type=int, help=f"default: {PORT}, or a free one if it is taken")
    new.add_argument("--host", default="127.0.0.1", help="address to listen on")
    new.add_argument("--sync", action="store_true", help="first send what MLflow lacks of runs")
    new.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of all runs")
    return new
