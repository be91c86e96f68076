"""The mirror with a real MLflow server that goes away, comes back, and fails in between."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from orchestrator.config import TrackingConfig
from orchestrator.record.lines import last_line
from orchestrator.record.mlflow import Done, Pending, State, start_mirror
from orchestrator.record.mlflow.mirror import ENVIRONMENT
from tests.orchestrator.tracked import (
    COUNT_STEPS,
    assert_sent,
    expected_points,
    make_run,
    play,
    points,
    rows,
    sync,
    wait_until,
)


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "outputs"


class Server:
    """A real `mlflow server` on this machine that can be killed and started again."""

    def __init__(self, folder):
        folder.mkdir()
        self.folder, self.database, self.process = folder, folder / "server.db", None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.database}", "--port", str(self.port)]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1).close()
            except OSError:
                time.sleep(0.2)
            else:
                return
        raise AssertionError((self.folder / "log").read_text())

    def kill(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("mlflow") / "server")
    yield server
    server.kill()


def test_points_written_while_the_server_is_away_are_sent_when_it_is_back(outputs, server):
    config = TrackingConfig(uri=server.uri, flush_seconds=0.2)

    never = make_run(outputs, "never-pretrain-1")
    mirror = start_mirror(never, config, outputs)
    play(never)
    told = []
    wait_until(lambda: told.append(mirror.news()) or told[-1])
    assert told[-1] == f"the MLflow server {server.uri} is down: Connection refused"
    began = time.monotonic()
    pending = mirror.finish(3)
    assert time.monotonic() - began < 5
    assert isinstance(pending, Pending)
    assert pending.sent_bytes == 0
    assert pending.why is mirror.news() is None, "it was told"
    assert mirror.process.poll() is not None
    assert str(never) in str(pending)

    server.start()
    folder = make_run(outputs, "cut-pretrain-2")
    mirror = start_mirror(folder, config, outputs)
    job = threading.Thread(target=play, args=(folder, 150, 0.05))
    job.start()
    wait_until(lambda: server.database.exists() and rows(server.database, COUNT_STEPS)[0][0] > 5)
    server.kill()
    wait_until(lambda: last_line(folder / "metrics.jsonl")["attempt"] == 2)
    server.start()
    job.join()
    done = mirror.finish(60)
    assert isinstance(done, Done), (folder / "logs/tracking.log").read_text()
    assert done.url.startswith(f"{server.uri}/#/experiments/")
    assert mirror.news() is None
    assert_sent(server.database, done.mlflow_run_id, folder)

    late = sync(never)
    assert late.returncode == 0, late.stdout + late.stderr
    assert points(server.database, State.load(never).run_id) == expected_points(never)


class Cuts:
    """A proxy before a server; it drops the second request that sends metrics, and its retry."""

    def __init__(self, server):
        outer, self.metrics_sent = self, []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.path.endswith("/log-batch") and b'"metrics"' in body:
                    outer.metrics_sent.append(len(body))
                    if len(outer.metrics_sent) in (2, 3):
                        self.close_connection = True  # and no answer
                        return
                kind = {"Content-Type": self.headers.get("Content-Type", "application/json")}
                request = urllib.request.Request(
                    server.uri + self.path, body or None, kind, method=self.command
                )
                try:
                    with urllib.request.urlopen(request, timeout=30) as answer:
                        code, text = answer.status, answer.read()
                except urllib.error.HTTPError as error:
                    code, text = error.code, error.read()
                self.send_response(code)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_POST = do_PATCH = do_PUT = do_GET  # noqa: N815

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def test_a_send_that_fails_between_two_attempts_loses_no_point(outputs, server):
    if server.process is None:
        server.start()
    proxy = Cuts(server)
    folder = make_run(outputs, "failing-pretrain-3")
    play(folder, steps=600, every=300)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["tracking"] = {"uri": proxy.uri}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    done = sync(folder)
    proxy.close()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "could not send" in done.stderr
    assert len(proxy.metrics_sent) > 3, "one chunk of the journal in several batches"
    assert points(server.database, State.load(folder).run_id) == expected_points(folder)
