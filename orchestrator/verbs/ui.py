"""`orchestrate ui [RUN]`: the record of all runs in the MLflow UI, until Ctrl-C.

1. The store is found: that of RUN, else mlflow.db in the outputs folder.
2. `mlflow server` is started on it, for this machine only unless --host says otherwise.
3. When it answers, the link to the run, or to the newest experiment, is printed.
A store that is a server already only has its link printed.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from orchestrator.record.mlflow.mirror import ENVIRONMENT, TRAINING_VIEW, State
from orchestrator.record.redaction import public_url

PORT = 5000
START_SECONDS = 120.0


def main(argv: Sequence[str]) -> int:
    """Show the UI; returns the exit code."""
    options = parser().parse_args(argv)
    try:
        uri, page = find_store(options.outputs, options.run)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if uri.startswith("http"):
        print(f"{public_url(uri)}{page}")
        return 0
    try:
        port = choose_port(options.host, options.port)
    except OSError as error:
        print(
            f"--port={options.port} on --host={options.host} can't be used: {error.strerror}; "
            "leave --port out to take a free one",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryFile() as output, serve(uri, options.host, port, output) as server:
        base = f"http://{options.host}:{port}"
        if not _answers(base, server):
            output.seek(0)
            words = output.read().decode(errors="replace")
            print(f"mlflow server did not start, it said:\n{words}", file=sys.stderr)
            return 1
        print(f"{base}{page}\nCtrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            return server.wait()
    return 0


def find_store(outputs: Path, run: Path | None) -> tuple[str, str]:
    """Tracking URI and page to open.

    Raises:
        ValueError: there is nothing to show yet.
    """
    if run is not None:
        state = State.load(run)
        if state is None:
            raise ValueError(
                f"{run} was not sent to MLflow: it has no mlflow.json; "
                f"send it with: orchestrate sync {run}"
            )
        uri, page = state.tracking_uri, state.page
    else:
        uri, page = (
            f"sqlite:///{outputs.resolve() / 'mlflow.db'}",
            f"/#/experiments?{TRAINING_VIEW}",
        )
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///"))
        if not database.exists():
            raise ValueError(
                f"{database} does not exist: no run was sent to it yet; start one with "
                "`orchestrate run`, or name another folder with --outputs"
            )
    return uri, page


def choose_port(host: str, port: int | None) -> int:
    """`port` if it is free; without one, 5000 or else any free one.

    Raises:
        OSError: the port that was asked for, or the host, can't be used.
    """
    for candidate in (PORT, 0) if port is None else (port,):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError:
                if candidate != PORT or port is not None:
                    raise
            else:
                return int(probe.getsockname()[1])
    raise AssertionError("port 0 was refused without an error")


@contextlib.contextmanager
def serve(uri: str, host: str, port: int, output: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `mlflow server` on a store; on leaving, it and all it started are gone."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    if uri.startswith("sqlite:///"):
        artifacts = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts"
        command += ["--default-artifact-root", artifacts.as_uri(), "--no-serve-artifacts"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "UVICORN_LOG_LEVEL": "warning"}
    environment = {**os.environ, **ENVIRONMENT, **quiet}
    # A session of its own: Ctrl-C reaches us alone, and the group can be ended as one.
    server = subprocess.Popen(
        command, env=environment, stdout=output, stderr=output, start_new_session=True
    )
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield server
    finally:
        signal.signal(signal.SIGTERM, previous)
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(5)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _answers(base: str, server: "subprocess.Popen[bytes]") -> bool:
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
    new.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of all runs")
    return new
