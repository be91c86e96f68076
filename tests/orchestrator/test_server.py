"""What can be known of a store before a job starts, and of one that does not take its record."""

import base64
import json
import socket
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orchestrator.config import TrackingConfig
from orchestrator.record.mlflow.mirror import new_state
from orchestrator.record.mlflow.server import check_store, trouble


def state_of(uri, tmp_path):
    return new_state(TrackingConfig(uri=uri, experiment="mine"), tmp_path)


@contextmanager
def peer(status, body, seen=None):
    """A server that gives one answer to whatever it is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if seen is not None:
                seen.append((self.path, self.headers.get("Authorization")))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def experiment(stage):
    return json.dumps({"experiment": {"lifecycle_stage": stage}}).encode()


MISSING = json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST"}).encode()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, experiment("deleted"), r"experiment mine at http://127.* is deleted; name another"),
        (404, b"<html>", r"answers, but not as an MLflow server does"),
        (200, b"hello", r"answers, but not as an MLflow server does"),
        (200, experiment("active"), None),
        (404, MISSING, None),
        (401, b"who are you", None),
        (503, b"later", None),
    ],
)
def test_a_server_that_can_never_take_the_record_is_refused_and_one_that_may_is_not(
    tmp_path, status, body, words
):
    with peer(status, body) as uri:
        if words is None:
            check_store(state_of(uri, tmp_path))
        else:
            with pytest.raises(ValueError, match=words):
                check_store(state_of(uri, tmp_path))


def test_a_file_that_is_no_database_is_refused_and_a_new_one_is_not(tmp_path):
    check_store(new_state(TrackingConfig(), tmp_path))
    (tmp_path / "mlflow.db").write_text("text that is longer than the head of a database" * 100)
    with pytest.raises(ValueError, match=r"mlflow\.db is no database"):
        check_store(new_state(TrackingConfig(), tmp_path))


def test_a_server_that_refuses_hangs_or_is_down_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "0.2")
    error = RuntimeError("first line\nsecond line")
    with peer(401, b"") as uri:
        found = trouble(state_of(uri, tmp_path), error)
        assert f"{uri} does not let in who names no user (401); set MLFLOW_TRACKING_USER" in found
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
        assert "does not let in the token (401)" in trouble(state_of(uri, tmp_path), error)
    with peer(403, b"") as uri:
        found = trouble(state_of(uri.replace("//", "//ann:pass@"), tmp_path), error)
        assert f"{uri} does not let user ann read experiment mine (403); ask its admin" in found
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = trouble(state_of(uri, tmp_path), error)
        assert found == f"the MLflow server {uri} hangs: it has not answered for 0.2 s"
    assert trouble(state_of(uri, tmp_path), error) == (
        f"the MLflow server {uri} is down: Connection refused"
    )
    with peer(500, b"") as uri:
        found = trouble(state_of(uri, tmp_path), error)
        assert found.endswith("did not take the record: RuntimeError: first line")


@pytest.mark.parametrize(
    ("variables", "userinfo", "header"),
    [
        ({"USERNAME": "bob", "PASSWORD": "p%41ss"}, "", b"bob:p%41ss"),
        ({"USERNAME": "bob", "PASSWORD": "x", "TOKEN": "t"}, "", b"bob:x"),
        ({}, "ann:p%41ss@", b"ann:pAss"),
        ({"TOKEN": "t0ken"}, "", "Bearer t0ken"),
        ({"FILE": "eve:p%%ss", "TOKEN": "t"}, "", b"eve:p%ss"),
        ({"FILE": "eve:old", "PASSWORD": "new"}, "", b"eve:new"),
        ({}, "", None),
    ],
)
def test_the_server_is_asked_as_mlflow_would_ask_it(
    tmp_path, monkeypatch, variables, userinfo, header
):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    if "FILE" in variables:
        (tmp_path / ".mlflow").mkdir()
        user, _, password = variables["FILE"].partition(":")
        (tmp_path / ".mlflow" / "credentials").write_text(
            f"[mlflow]\nmlflow_tracking_username = {user}\nmlflow_tracking_password = {password}\n"
        )
    if isinstance(header, bytes):
        header = f"Basic {base64.b64encode(header).decode()}"
    seen = []
    with peer(200, experiment("active"), seen) as uri:
        check_store(state_of(uri.replace("//", f"//{userinfo}"), tmp_path))
    assert seen == [("/api/2.0/mlflow/experiments/get-by-name?experiment_name=mine", header)]
