"""The mirror with a real MLflow server that goes away, comes back, and fails in between."""

import base64
import importlib.util
import json
import os
import secrets
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
from orchestrator.record.mlflow.serving import QUIET
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

AUTH = importlib.util.find_spec("flask_wtf") is not None
"""Whether `mlflow server` can ask for passwords here, by `pip install mlflow[auth]`."""


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "outputs"


class Server:
    """A real `mlflow server` on this machine that can be killed and started again."""

    def __init__(self, folder, logins=None):
        folder.mkdir()
        self.folder, self.database, self.process = folder, folder / "server.db", None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.logins = logins
        (folder / "basic_auth.ini").write_text(
            "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
            f"admin_password = {(logins or {}).get('admin')}\n"
            f"database_uri = sqlite:///{folder}/users.db\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.database}", "--port", str(self.port)]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        command += ["--app-name", "basic-auth"] if self.logins else []
        config = {"MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "basic_auth.ini")}
        config["MLFLOW_FLASK_SERVER_SECRET_KEY"] = "of this test alone"
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **ENVIRONMENT, **QUIET, **config},
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

    def add_user(self, name):
        """As an administrator does it."""
        body = json.dumps({"username": name, "password": self.logins[name]}).encode()
        login = base64.b64encode(f"admin:{self.logins['admin']}".encode()).decode()
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {login}"}
        place = f"{self.uri}/api/2.0/mlflow/users/create"
        urllib.request.urlopen(urllib.request.Request(place, body, headers)).close()

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


@pytest.fixture
def guarded(tmp_path):
    """A server that asks for passwords, and has two users."""
    server = Server(tmp_path / "guarded", {name: secrets.token_hex(8) for name in ("admin", "ann")})
    server.start()
    server.add_user("ann")
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


@pytest.mark.drill  # a server that checks a password with every call takes its time
@pytest.mark.skipif(not AUTH, reason="mlflow[auth] is not installed: pip install flask-wtf")
def test_a_server_that_asks_for_a_password_gets_it_from_a_file_and_no_record_has_it(
    outputs, guarded, tmp_path, monkeypatch
):
    folder = make_run(outputs, "secret-pretrain-4")
    play(folder)
    result = json.loads((folder / "result.json").read_text())
    result["checkpoint"] = "checkpoints/step_00000060"
    (folder / "result.json").write_text(json.dumps(result))
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["tracking"] = {"uri": guarded.uri, "experiment": "ann's"}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))

    monkeypatch.setenv("HOME", str(tmp_path))
    unknown = sync(folder)
    assert unknown.returncode == 1, unknown.stdout + unknown.stderr
    assert f"the MLflow server {guarded.uri} does not let in who names no user" in unknown.stderr
    file = tmp_path / ".mlflow" / "credentials"
    file.parent.mkdir()
    for password in ("wrong", guarded.logins["ann"]):
        file.write_text(
            f"[mlflow]\nmlflow_tracking_username=ann\nmlflow_tracking_password={password}\n"
        )
        sent = sync(folder)
        if password == "wrong":
            assert sent.returncode == 1
            assert "let in user ann, or the password is wrong (401); set MLFLOW" in sent.stderr
    assert sent.returncode == 0, sent.stdout + sent.stderr
    state = State.load(folder)
    assert points(guarded.database, state.run_id) == expected_points(folder)
    versions = rows(guarded.database, "SELECT name, run_id FROM model_versions")
    assert versions == [("pretrain-ffffff", state.run_id)]
    kept = [path.read_bytes() for path in outputs.rglob("*") if path.is_file()]
    kept += [guarded.database.read_bytes()]
    assert not any(guarded.logins["ann"].encode() in content for content in kept)
