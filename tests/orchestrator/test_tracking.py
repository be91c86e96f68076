"""The mirror with real SQLite stores, a real server and SIGKILL; mlflow only in subprocesses."""

import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from orchestrator.config import TrackingConfig
from orchestrator.record.journal import Journal, read
from orchestrator.record.mlflow import Done, NoMirror, Pending, State, start_mirror
from orchestrator.record.mlflow.description import Description
from orchestrator.record.mlflow.mirror import ENVIRONMENT
from orchestrator.record.redaction import Redactor, flatten, is_secret

ROOT = Path(__file__).parents[2]
SECRETS = ("hf_SeCrEtToKeN", "pa55word-of-bob", "two words secret")


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "outputs"


def make_run(outputs, name="12-00-00-pretrain-abc123"):
    """A run folder as a job has it before its first step."""
    folder = outputs / "2026-01-01" / name
    (folder / "logs").mkdir(parents=True)
    config = {
        "stage": {"name": "pretrain", "steps": 60},
        "model": {"width": 64, "num_key_value_heads": 4, "name@odd": None},
        "data": {"url": f"https://bob:{SECRETS[1]}@host/x", "pad_token": "<pad>"},
        "hub": {"token": SECRETS[0], "password": SECRETS[2]},
        "many": {f"setting_{i}": i for i in range(230)},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "overrides.yaml").write_text(yaml.safe_dump([f"hub.token={SECRETS[0]}"]))
    code = {
        "commit": "c" * 40,
        "dirty": True,
        "host": "here",
        "command": f"orchestrate run hub.token={SECRETS[0]} hub.password='{SECRETS[2]}'",
    }
    (folder / "code.json").write_text(json.dumps(code))
    (folder / "logs" / "rank-0.log").write_text(f"signed in with {SECRETS[0]} at bob\n")
    (folder / "tokenizer.json").write_text('{"vocab": {"a": 1}}')
    (folder / "samples.txt").write_text("Once upon a time\n")
    return folder


def play(folder, steps=60, pause=0.0, status="done"):
    """Write what a job writes, with a resume at 2/3 of the way back to 1/2 of it."""
    died, resumed = steps * 2 // 3, steps // 2
    with Journal(folder) as book:
        book.event("started", attempt=1)
        for split in ("train", "validation"):
            facts = {"fingerprint": "f" * 64, "documents": 10, "bytes": 1000, "tokens": 300}
            source = f"https://bob:{SECRETS[1]}@host/x"
            book.event("dataset", name="tiny", source=source, split=split, **facts)
        book.event(
            "tokenizer", path="tokenizer.json", fingerprint="t" * 64, vocab_size=512, kind="bpe"
        )
        for attempt, first, last in ((1, 1, died), (2, resumed + 1, steps)):
            book.attempt = attempt
            for step in range(first, last + 1):
                loss = math.nan if step == 7 else 2 + 1 / step
                speed = math.inf if step == 8 else 1000.0 + step
                book.metrics(step, {"train/loss": loss, "train/tokens_per_second": speed})
                if step % 10 == 0:
                    measured = {"validation/loss": 2 + 2 / step}
                    book.metrics(step, measured)
                    path = folder / "checkpoints" / f"step_{step:08d}"
                    path.mkdir(parents=True, exist_ok=True)
                    place = path.relative_to(folder)
                    facts = {"manifest_sha256": "d" * 64, "bytes": 5, "metrics": measured}
                    book.event("checkpoint", step=step, path=place, **facts)
                time.sleep(pause)
        book.event("artifact", path="samples.txt", artifact_path="texts")
        book.event("finished", status=status)
    result = {"status": status, "steps": steps, "metrics": {"validation/loss": 2.1}, "attempts": 2}
    (folder / "result.json").write_text(json.dumps(result))


def expected_points(folder):
    """Points of the journal as MLflow stores them: of each metric and step the first attempt's."""
    points, seen = set(), {}
    for line in read(folder / "metrics.jsonl")[0]:
        for key, value in line["metrics"].items():
            if seen.setdefault((key, line["step"]), line["attempt"]) == line["attempt"]:
                stored = (
                    0.0
                    if math.isnan(value)
                    else max(min(value, sys.float_info.max), -sys.float_info.max)
                )
                points.add((key, line["step"], line["time_ms"], stored, math.isnan(value)))
    return sorted(points)


def rows(database, query, *values):
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        found = connection.execute(query, values).fetchall()
    connection.close()
    return found


def points(database, run_id):
    query = """SELECT key, step, timestamp, value, is_nan FROM metrics
               WHERE run_uuid = ? AND key NOT LIKE 'system/%'"""
    return sorted((*row[:4], bool(row[4])) for row in rows(database, query, run_id))


RECORD = {
    "runs": "SELECT name, status, start_time, end_time FROM runs",
    "latest": """SELECT key, step, timestamp, value FROM latest_metrics
                 WHERE key NOT LIKE 'system/%'""",
    "params": "SELECT key, value FROM params",
    "tags": "SELECT key, value FROM tags WHERE key NOT IN ('folder', 'mlflow.note.content')",
    "datasets": "SELECT name, digest, dataset_source, dataset_profile FROM datasets",
    "inputs": "SELECT source_type, destination_type, step FROM inputs",
    "input tags": "SELECT name, value FROM input_tags",
    "models": "SELECT name, status, model_type FROM logged_models",
    "model tags": "SELECT tag_key, tag_value FROM logged_model_tags",
    "model metrics": """SELECT metric_name, metric_step, metric_timestamp_ms, metric_value,
                        dataset_name, dataset_digest FROM logged_model_metrics""",
}


def record(database):
    """All that MLflow knows of the only run of a store, without ids and places."""
    return {name: sorted(rows(database, query)) for name, query in RECORD.items()}


def replay(folder, *flags):
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.record.mlflow", str(folder), *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_live_run_is_in_mlflow_whole_and_a_second_replay_changes_nothing(outputs):
    folder = make_run(outputs)
    began = time.monotonic()
    mirror = start_mirror(folder, TrackingConfig(experiment="e", flush_seconds=0.2), outputs)
    assert time.monotonic() - began < 1
    play(folder, pause=0.05)
    done = mirror.finish(60)
    database = outputs / "mlflow.db"
    assert isinstance(done, Done), (folder / "logs/tracking.log").read_text()
    assert done.refused == ()
    assert done.mlflow_run_id == mirror.run_id
    assert points(database, done.mlflow_run_id) == expected_points(folder)
    seen = record(database)
    (_, status, start, end) = seen["runs"][0]
    events = read(folder / "events.jsonl")[0]
    assert (status, start, end) == ("FINISHED", events[0]["time_ms"], events[-1]["time_ms"])
    params, tags = dict(seen["params"]), dict(seen["tags"])
    assert len(params) == 9 + 230
    assert params["stage.steps"] == "60"
    assert params["model.name_odd"] == "null"
    assert tags["mlflow.source.git.commit"] == "c" * 40
    assert tags["dataset.validation.fingerprint"] == "f" * 64
    assert [row[:2] for row in seen["datasets"]] == [
        ("tiny/train", "f" * 36),
        ("tiny/validation", "f" * 36),
    ]
    checkpoints = [event for event in events if event["event"] == "checkpoint"]
    assert [row[1] for row in seen["models"]] == [2] * len(checkpoints)  # READY
    assert {row[1] for row in seen["model metrics"]} == {10, 20, 30, 40, 50, 60}
    assert {row[4] for row in seen["model metrics"]} == {"tiny/validation"}
    artifacts = next((outputs / "mlartifacts").glob("e/*/artifacts"))
    names = {str(p.relative_to(artifacts)) for p in artifacts.rglob("*") if p.is_file()}
    assert names >= {
        *("config.yaml", "overrides.yaml", "code.json", "result.json", "samples.txt"),
        *("metrics.jsonl", "events.jsonl", "logs/rank-0.log", "tokenizer/tokenizer.json"),
        *("texts/samples.txt", "figures/loss.png", "figures/throughput.png"),
    }
    stored = [path.read_bytes() for path in artifacts.rglob("*") if path.is_file()]
    assert [
        s for s in SECRETS if any(s.encode() in b for b in [database.read_bytes(), *stored])
    ] == []

    again = replay(folder)
    assert again.returncode == 0, again.stderr
    assert record(database) == seen
    assert points(database, done.mlflow_run_id) == expected_points(folder)


KILLED_REPLAYS = """
    import os, random, signal, sys, time
    os.environ.update({environment!r})
    import mlflow  # once: the children are killed in their work, not in its import
    from mlflow.models.utils import get_external_mlflow_model_spec
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    import orchestrator.record.figures
    from orchestrator.record.mlflow.__main__ import main
    random.seed(0)

    def start(folder):
        child = os.fork()
        if child == 0:
            os._exit(main([folder]))
        return child

    began = time.monotonic()
    assert os.waitpid(start(sys.argv[1]), 0)[1] == 0
    whole = time.monotonic() - began
    for part in (0.9, 0.6, *(random.uniform(0.1, 1) for _ in range(5))):
        child = start(sys.argv[2])
        time.sleep(part * whole)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert os.waitpid(start(sys.argv[2]), 0)[1] == 0
"""


def test_a_replay_killed_at_many_points_and_repeated_leaves_the_rows_of_an_undisturbed_one(
    tmp_path,
):
    killed = make_run(tmp_path / "killed")
    play(killed)
    undisturbed = tmp_path / "undisturbed" / "2026-01-01" / killed.name
    shutil.copytree(killed, undisturbed)
    code = textwrap.dedent(KILLED_REPLAYS).format(environment=ENVIRONMENT)
    subprocess.run(
        [sys.executable, "-c", code, undisturbed, killed], cwd=ROOT, check=True, timeout=200
    )
    database = tmp_path / "killed" / "mlflow.db"
    assert record(database) == record(tmp_path / "undisturbed" / "mlflow.db")
    assert points(database, State.load(killed).run_id) == expected_points(killed)


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


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "server")
    yield server
    server.kill()


def test_points_written_while_the_server_is_away_are_sent_when_it_is_back(outputs, server):
    config = TrackingConfig(uri=server.uri, flush_seconds=0.2)

    never = make_run(outputs, "never-pretrain-1")
    mirror = start_mirror(never, config, outputs)
    play(never)
    began = time.monotonic()
    pending = mirror.finish(3)
    assert time.monotonic() - began < 5
    assert isinstance(pending, Pending)
    assert pending.sent_bytes == 0
    assert mirror.process.poll() is not None
    assert str(never) in str(pending)

    server.start()
    folder = make_run(outputs, "cut-pretrain-2")
    mirror = start_mirror(folder, config, outputs)
    job = threading.Thread(target=play, args=(folder, 150, 0.1))
    job.start()
    wait_until(lambda: server.database.exists() and rows(server.database, COUNT_STEPS)[0][0] > 5)
    server.kill()
    time.sleep(4)
    assert job.is_alive(), "the server was not away while the job ran"
    server.start()
    job.join()
    done = mirror.finish(60)
    assert isinstance(done, Done), (folder / "logs/tracking.log").read_text()
    assert done.url.startswith(f"{server.uri}/#/experiments/")
    assert points(server.database, done.mlflow_run_id) == expected_points(folder)

    late = replay(never)
    assert late.returncode == 0, late.stdout + late.stderr
    assert points(server.database, State.load(never).run_id) == expected_points(never)


COUNT_STEPS = "SELECT count(*) FROM metrics WHERE key = 'train/loss'"


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except sqlite3.OperationalError:  # the tables are being made
            pass
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def test_three_jobs_at_once_share_a_store_that_was_not_there(outputs):
    folders = [make_run(outputs, f"1{i}-pretrain-{i}") for i in range(3)]
    config = TrackingConfig(experiment="shared", system_metrics=False)
    mirrors = [start_mirror(folder, config, outputs) for folder in folders]
    for folder in folders:
        play(folder, steps=20)
    for folder, mirror in zip(folders, mirrors, strict=True):
        done = mirror.finish(90)
        assert isinstance(done, Done), (folder / "logs/tracking.log").read_text()
        assert points(outputs / "mlflow.db", done.mlflow_run_id) == expected_points(folder)
    names = rows(outputs / "mlflow.db", "SELECT name FROM experiments")
    assert sorted(names) == [("Default",), ("shared",)]


DRIVER = """
    import sys, time
    from pathlib import Path
    from orchestrator.record.journal import Journal
    from orchestrator.config import TrackingConfig, start_mirror
    folder, outputs = map(Path, sys.argv[1:])
    mirror = start_mirror(folder, TrackingConfig(flush_seconds=0.2), outputs)
    print(mirror.process.pid, flush=True)
    book = Journal(folder)
    book.event("started", attempt=1)
    for step in range(100_000):
        book.metrics(step, {"train/loss": 1.0})
        time.sleep(0.05)
"""


def test_when_the_driver_is_killed_the_run_is_closed_as_killed_and_the_mirror_leaves(outputs):
    folder = make_run(outputs)
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER), str(folder), str(outputs)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with driver:
        mirror = int(driver.stdout.readline())
        wait_until(lambda: rows(outputs / "mlflow.db", COUNT_STEPS)[0][0] > 0)
        assert os.getpriority(os.PRIO_PROCESS, mirror) == 19
        refused = replay(folder)
        assert refused.returncode == 1
        assert "still written to" in refused.stdout
        driver.kill()
    wait_until(lambda: not Path(f"/proc/{mirror}").exists())
    assert rows(outputs / "mlflow.db", "SELECT status FROM runs") == [("KILLED",)]
    assert points(outputs / "mlflow.db", State.load(folder).run_id) == expected_points(folder)


def test_a_killed_mirror_is_replaced_at_the_end_and_a_resumed_job_goes_on_in_the_same_run(outputs):
    folder, config = make_run(outputs), TrackingConfig(system_metrics=False)
    mirror = start_mirror(folder, config, outputs)
    mirror.process.kill()
    play(folder, steps=20, status="interrupted")
    first = mirror.finish(60)
    assert isinstance(first, Done)
    assert rows(outputs / "mlflow.db", "SELECT status FROM runs") == [("KILLED",)]

    mirror = start_mirror(folder, config, outputs)
    with Journal(folder, attempt=3) as book:
        book.event("started", attempt=3)
        for step in range(16, 31):  # the last checkpoint was older than the last step
            book.metrics(step, {"train/loss": 2 + 1 / step})
        book.event("finished", status="done")
    second = mirror.finish(60)
    assert isinstance(second, Done)
    assert second.mlflow_run_id == first.mlflow_run_id
    assert rows(outputs / "mlflow.db", "SELECT status FROM runs") == [("FINISHED",)]
    assert points(outputs / "mlflow.db", first.mlflow_run_id) == expected_points(folder)


def test_disabled_tracking_starts_nothing(outputs):
    folder = make_run(outputs)
    mirror = start_mirror(folder, TrackingConfig(enabled=False), outputs)
    assert type(mirror) is NoMirror
    assert mirror.finish(1) == Done(mlflow_run_id=None)
    assert not (folder / "mlflow.json").exists()


def test_the_module_of_the_settings_imports_nothing_heavy():
    code = "import sys, orchestrator.record.mlflow; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"mlflow", "torch", "matplotlib", "numpy", "sqlalchemy"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"uri": "mlruns"}, "tracking.uri=mlruns must be a database or a server"),
        ({"uri": "file:///tmp/x"}, "tracking.uri=file"),
        ({"flush_seconds": 0}, "tracking.flush_seconds=0 must be greater than 0"),
        ({"finish_timeout_seconds": -1}, "tracking.finish_timeout_seconds=-1"),
        ({"experiment": ""}, "tracking.experiment must not be empty"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_do(settings, words):
    with pytest.raises(ValueError, match=words):
        TrackingConfig(**settings)


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "hub.token",
        "HF_TOKEN",
        "apiKey",
        "api_key",
        "db.password",
        "secret_id",
        "AWS_SECRET",
    ],
)
def test_names_of_secrets_are_known(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    ["tokenizer", "model.num_key_value_heads", "pad_token", "data.text_key", "monkey", "steps"],
)
def test_names_that_only_resemble_secrets_are_let_through(name):
    assert not is_secret(name)


def test_secrets_are_hidden_wherever_they_turn_up():
    redact = Redactor({"hub": {"token": "abcdefghij"}, "max_tokens": 10}).text
    assert redact("x abcdefghij y") == "x [redacted] y"
    assert redact('--api-key=zzz token: \'yyy\' "password": "xxx"') == (
        '--api-key=[redacted] token: \'[redacted]\' "password": "[redacted]"'
    )
    assert redact("https://u:p@h/x?token=q&a=1") == "https://[redacted]@h/x?token=[redacted]&a=1"
    assert redact("max_tokens=10 tokens: 3e5 key: null") == "max_tokens=10 tokens: 3e5 key: null"


def test_flatten_keeps_lists_and_empty_sections_as_values():
    assert flatten({"a": {"b": [1, 2], "c": {}}, "d": None}) == {
        "a.b": [1, 2],
        "a.c": {},
        "d": None,
    }


def test_the_description_says_what_the_job_is_and_where(outputs):
    folder = make_run(outputs)
    note = Description(folder).note(None, {})
    assert note.startswith("**pretrain** on `here`: running\n")
    assert f"`{folder}`" in note
    assert "with uncommitted changes" in note
    play(folder, status="failed")
    result = json.loads((folder / "result.json").read_text())
    result["error"] = {"class": "OOM", "message": "out of\nmemory"}
    (folder / "result.json").write_text(json.dumps(result))
    note = Description(folder).note("failed", {"tokenizer": "abc"})
    assert "- error: out of memory\n- validation/loss: 2.1\n- steps: 60\n" in note
    assert "- tokenizer: `abc`" in note
