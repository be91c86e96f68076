"""`orchestrate ui` with a real `mlflow server`, as a user types it and ends it."""

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from orchestrator.config import TrackingConfig
from orchestrator.record.mlflow.mirror import new_state
from orchestrator.verbs.ui import choose_port, find_store, main

ROOT = Path(__file__).parents[2]
UI = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as in a foreground process
from orchestrator.verbs.ui import main
sys.exit(main(sys.argv[1:]))
"""


def make_run(outputs, uri=None):
    folder = outputs / "2026-01-01" / "12-00-00-pretrain-abc123"
    folder.mkdir(parents=True)
    state = new_state(TrackingConfig(uri=uri), outputs)
    state.experiment_id, state.run_id, state.view = "7", "f" * 32, "pretrain"
    state.done = True
    state.save(folder)
    return folder


def processes_of_group(group):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[3]) == group and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def test_the_ui_of_a_run_prints_its_link_at_once_and_leaves_nothing_when_hung_up(tmp_path):
    run = make_run(tmp_path)
    # An empty file is a store without tables; the server makes them.
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 5000))
            taken.listen()
        except OSError:
            pass  # someone else holds the default port: as good
        ui = subprocess.Popen(
            [sys.executable, "-c", UI, str(run)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        with ui:
            link = ui.stdout.readline().strip()
            table = ui.stdout.readline().strip()
            assert table.startswith(f"its table, best first: {link.partition('/#/')[0]}/#/")
            assert table.endswith(
                "/7/runs?viewStateShareKey=pretrain&workflowType=machine_learning"
            )
            assert "starting the server" in ui.stdout.readline()
            assert ui.stdout.readline() == "the page is there; Ctrl-C ends it\n"
            base, page = link.split("/#/")
            assert not base.endswith(":5000")
            assert page.startswith(f"experiments/7/runs/{'f' * 32}")
            with urllib.request.urlopen(f"{base}/health", timeout=10) as answer:
                assert answer.status == 200
            (server,) = children(ui.pid)
            assert len(processes_of_group(server)) >= 2
            ui.send_signal(signal.SIGHUP)
            assert ui.wait(30) == 0
    assert processes_of_group(server) == []


def children(pid):
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def test_without_a_run_the_page_is_that_of_the_newest_runs_experiment_best_first(tmp_path):
    make_run(tmp_path)
    (tmp_path / "mlflow.db").touch()
    later = tmp_path / "2026-01-02" / "11-00-00-classify-def456"
    state = new_state(TrackingConfig(), tmp_path)
    later.mkdir(parents=True)
    state.save(later)  # nothing of it was sent: the one before is shown
    assert find_store(tmp_path, None)[1] == (
        "/#/experiments/7/runs?viewStateShareKey=pretrain&workflowType=machine_learning"
    )
    state.experiment_id, state.run_id = "8", "e" * 32
    state.save(later)
    uri, page = find_store(tmp_path, None)
    assert uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert page == "/#/experiments/8/runs?workflowType=machine_learning"


def test_a_missing_store_is_a_clear_error(tmp_path, capsys):
    assert main(["--outputs", str(tmp_path)]) == 2
    assert f"{tmp_path / 'mlflow.db'} does not exist" in capsys.readouterr().err


def test_a_run_that_was_never_sent_is_a_clear_error(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "it has no mlflow.json" in capsys.readouterr().err


def test_a_run_on_a_server_has_its_link_printed_without_the_password(tmp_path, capsys):
    run = make_run(tmp_path, "https://bob:secret@mlflow.example.org/")
    assert main([str(run)]) == 0
    link = capsys.readouterr().out
    assert link.startswith("https://mlflow.example.org/#/experiments/7/runs/ffff")
    assert "secret" not in link


def test_a_taken_port_that_was_asked_for_is_refused(tmp_path, capsys):
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--outputs", str(tmp_path), "--port", str(port)]) == 2
        with pytest.raises(OSError, match="in use"):
            choose_port("127.0.0.1", port)
    assert f"--port={port}" in capsys.readouterr().err
    assert choose_port("127.0.0.1", port) == port
