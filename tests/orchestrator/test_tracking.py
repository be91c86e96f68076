"""The mirror with real SQLite stores and SIGKILL; mlflow only in subprocesses."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from orchestrator.config import TrackingConfig
from orchestrator.record.journal import Journal
from orchestrator.record.lines import read
from orchestrator.record.mlflow import (
    Done,
    NoMirror,
    State,
    check_store,
    sending_left_over,
    start_mirror,
)
from orchestrator.record.mlflow.leftover import left_over
from orchestrator.record.mlflow.mirror import ENVIRONMENT, new_state
from orchestrator.record.mlflow.sending import LONGEST_WAIT, pause
from orchestrator.record.story.spending import GOODPUT, spending
from tests.orchestrator.tracked import (
    CONSTANT,
    COUNT_STEPS,
    ROOT,
    SECRETS,
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


LIMIT_S = 150  # for a mirror to start and to send; a busy machine takes its time

RECORD = {
    "experiments": "SELECT name FROM experiments",
    "views": "SELECT key FROM experiment_tags",
    "runs": "SELECT name, status, start_time, end_time FROM runs",
    "latest": """SELECT key, step, timestamp, value FROM latest_metrics
                 WHERE key NOT LIKE 'system/%'""",
    "params": "SELECT key, value FROM params",
    "tags": "SELECT key, value FROM tags WHERE key NOT IN ('folder', 'mlflow.note.content')",
    "datasets": """SELECT name, digest, dataset_schema, dataset_source, dataset_profile
                   FROM datasets""",
    "inputs": "SELECT source_type, destination_type, step FROM inputs",
    "input tags": "SELECT name, value FROM input_tags",
    "models": """SELECT name, status, model_type FROM logged_models
                 WHERE lifecycle_stage = 'active'""",
    "model tags": "SELECT tag_key, tag_value FROM logged_model_tags",
    "model metrics": """SELECT metric_name, metric_step, metric_timestamp_ms, metric_value,
                        dataset_name, dataset_digest FROM logged_model_metrics""",
}


def record(database):
    """All that MLflow knows of the only run of a store, without ids and places."""
    return {name: sorted(rows(database, query)) for name, query in RECORD.items()}


def test_a_live_run_is_in_mlflow_whole_and_a_second_replay_changes_nothing(outputs):
    folder = make_run(outputs)
    began = time.monotonic()
    mirror = start_mirror(folder, TrackingConfig(experiment="e", flush_seconds=0.2), outputs)
    assert time.monotonic() - began < 1
    play(folder, pause=0.05)
    shutil.rmtree(folder / "checkpoints" / "step_00000010")  # as retention does
    done = mirror.finish(LIMIT_S)
    database = outputs / "mlflow.db"
    assert isinstance(done, Done), (folder / "logs/tracking.log").read_text()
    assert done.refused == ()
    assert done.mlflow_run_id == mirror.run_id
    assert_sent(database, done.mlflow_run_id, folder)
    sent, seen = points(database, done.mlflow_run_id), record(database)
    (_, status, start, end) = seen["runs"][0]
    events = read(folder / "events.jsonl")[0]
    assert (status, start, end) == ("FINISHED", events[0]["time_ms"], events[-1]["time_ms"])
    assert seen["experiments"] == [("e",)], "no other, empty one beside it"
    assert ("mlflow.sharedViewState.pretrain",) in seen["views"]
    assert seen["runs"][0][0] == "pretrain gpt 2.56M tiny token=[redacted]"
    assert {row[2] for row in seen["datasets"]} == {
        '{"mlflow_colspec": [{"name": "text", "type": "string", "required": true}]}'
    }
    params, tags = dict(seen["params"]), dict(seen["tags"])
    assert len(params) == 9 + 230 + 1
    assert params[f"constant.{CONSTANT}"] == "0.001", "and no level curve"
    assert params["stage.steps"] == "60"
    assert params["model.name_odd"] == "null"
    assert tags["mlflow.source.git.commit"] == "c" * 40
    assert tags["dataset.validation.fingerprint"] == "f" * 64
    assert [row[:2] for row in seen["datasets"]] == [
        ("tiny/train", "f" * 36),
        ("tiny/validation", "f" * 36),
    ]
    assert tags["descent"] == "attempt 1 to step 30, attempt 2"
    tables = json.loads(tags["mlflow.loggedArtifacts"])
    assert [table["path"] for table in tables] == ["first.json", "second.json"]
    models = sorted(name for name, *_ in seen["models"])
    assert models == [f"pretrain-abc123-step-{step}" for step in range(20, 61, 10)], (
        "each that is there once, also step 40, which two attempts have made"
    )
    assert {row[1] for row in seen["models"]} == {2}  # READY
    assert {row[1] for row in seen["model metrics"]} >= {20, 30, 40, 50, 60}
    assert {row[4] for row in seen["model metrics"]} == {"tiny/validation"}
    artifacts = next((outputs / "mlartifacts").glob("*/*/artifacts"))
    names = {str(p.relative_to(artifacts)) for p in artifacts.rglob("*") if p.is_file()}
    assert names >= {
        *("config.yaml", "overrides.yaml", "code.json", "result.json", "samples.txt"),
        *("metrics.jsonl", "events.jsonl", "logs/rank-0.log", "tokenizer/tokenizer.json"),
        *("texts/samples.txt", "figures/loss.png", "figures/throughput.png"),
    }
    assert (folder / "figures" / "loss.png").exists()
    stored = [path.read_bytes() for path in artifacts.rglob("*") if path.is_file()]
    assert [
        s for s in SECRETS if any(s.encode() in b for b in [database.read_bytes(), *stored])
    ] == []

    again = sync(folder)
    assert again.returncode == 0, again.stderr
    assert record(database) == seen
    assert points(database, done.mlflow_run_id) == sent


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
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = ENVIRONMENT | {"TMPDIR": str(temporary)}
    code = textwrap.dedent(KILLED_REPLAYS).format(environment=environment)
    subprocess.run(
        [sys.executable, "-c", code, undisturbed, killed], cwd=ROOT, check=True, timeout=200
    )
    assert [*temporary.iterdir(), *killed.glob(".*")] == []
    database = tmp_path / "killed" / "mlflow.db"
    assert record(database) == record(tmp_path / "undisturbed" / "mlflow.db")
    assert points(database, State.load(killed).run_id) == expected_points(killed)


def test_three_jobs_at_once_share_a_store_that_was_not_there(outputs):
    folders = [make_run(outputs, f"1{i}-pretrain-{i}") for i in range(3)]
    config = TrackingConfig(experiment="shared", system_metrics=False)
    mirrors = [start_mirror(folder, config, outputs) for folder in folders]
    for folder in folders:
        play(folder, steps=20)
    for folder, mirror in zip(folders, mirrors, strict=True):
        done = mirror.finish(LIMIT_S)
        assert isinstance(done, Done), (folder / "logs/tracking.log").read_text()
        assert points(outputs / "mlflow.db", done.mlflow_run_id) == expected_points(folder)
    names = rows(outputs / "mlflow.db", "SELECT name FROM experiments")
    assert names == [("shared",)]
    with sqlite3.connect(outputs / "mlflow.db") as store:
        store.execute("UPDATE experiments SET lifecycle_stage = 'deleted'")
    store.close()
    with pytest.raises(ValueError, match=r"experiment shared at .* is deleted; name another"):
        check_store(new_state(config, outputs))


DRIVER = """
    import sys, time
    from pathlib import Path
    from orchestrator.record.journal import Journal
    from orchestrator.config import TrackingConfig
    from orchestrator.record.mlflow import start_mirror
    folder, outputs = map(Path, sys.argv[1:])
    mirror = start_mirror(folder, TrackingConfig(flush_seconds=0.2), outputs)
    print(mirror.process.pid, flush=True)
    book = Journal(folder)
    book.event("started")
    for step in range(100_000):
        book.metrics(step, {"train/loss": 1 / (step + 1)})
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
        refused = sync(folder)
        assert refused.returncode == 2
        assert "still written to" in refused.stderr
        driver.kill()
    wait_until(lambda: not Path(f"/proc/{mirror}").exists())
    assert rows(outputs / "mlflow.db", "SELECT status FROM runs") == [("KILLED",)]
    assert points(outputs / "mlflow.db", State.load(folder).run_id) == expected_points(folder)
    assert left_over(outputs) == []


def test_a_run_killed_with_its_mirror_is_completed_by_whatever_comes_next(outputs):
    """A power cut leaves it RUNNING in MLflow; the lock of its journal tells that it is over."""
    database, log = outputs / "mlflow.db", outputs / "left-over.log"
    folder, other = make_run(outputs), make_run(outputs, "13-00-00-pretrain-def456")
    mirror = start_mirror(folder, TrackingConfig(flush_seconds=0.2), outputs)
    with Journal(folder) as book:
        book.event("started", host=socket.gethostname(), pid=os.getpid())
        for step in (1, 2):
            book.metrics(step, {"train/loss": 1.0 / step, "train/step_seconds": 0.5 * step})
        book.event("checkpoint", step=1, path="checkpoints/step_00000001")
        wait_until(lambda: rows(database, COUNT_STEPS)[0][0] > 0)
        mirror.process.kill()
        mirror.process.communicate()
        book.metrics(3, {"train/loss": 0.3})  # which MLflow does not get
        assert left_over(outputs) == [], "its driver lives"
    assert rows(database, "SELECT status FROM runs") == [("RUNNING",)]
    with sending_left_over(outputs, log) as folders:
        assert folders == [folder]
        wait_until(lambda: rows(database, "SELECT status FROM runs") == [("KILLED",)])
    sent = points(database, State.load(folder).run_id)
    ((goodput,),) = [point[3:4] for point in sent if point[0] == GOODPUT]
    assert goodput == spending(folder).goodput > 0
    assert [point for point in sent if point[0] != GOODPUT] == expected_points(folder)

    play(other, steps=20)
    new_state(TrackingConfig(), outputs).save(other)  # all its time, the store was away
    assert sync("--outputs", outputs).returncode == 0
    assert points(database, State.load(other).run_id) == expected_points(other)
    assert sorted(rows(database, "SELECT status FROM runs")) == [("FINISHED",), ("KILLED",)]
    assert left_over(outputs) == []


def test_a_killed_mirror_is_replaced_at_the_end_and_a_resumed_job_goes_on_in_the_same_run(outputs):
    folder, config = make_run(outputs), TrackingConfig(system_metrics=False)
    mirror = start_mirror(folder, config, outputs)
    mirror.process.kill()
    play(folder, steps=20, status="interrupted")
    first = mirror.finish(LIMIT_S)
    assert isinstance(first, Done)
    assert rows(outputs / "mlflow.db", "SELECT status FROM runs") == [("KILLED",)]

    mirror = start_mirror(folder, config, outputs)
    with Journal(folder, attempt=3) as book:
        book.event("started")
        book.event("resumed", step=15, path="checkpoints/step_00000015")
        for step in range(16, 31):  # the last checkpoint was older than the last step
            book.metrics(step, {"train/loss": 2 + 1 / step, "train/tokens_per_second": 1.0 * step})
        book.event("finished", status="done")
    second = mirror.finish(LIMIT_S)
    assert isinstance(second, Done)
    assert second.mlflow_run_id == first.mlflow_run_id
    assert rows(outputs / "mlflow.db", "SELECT status FROM runs") == [("FINISHED",)]
    superseded = assert_sent(outputs / "mlflow.db", first.mlflow_run_id, folder)
    assert {(key, step) for key, step, *_ in superseded} == {
        *(("train/tokens_per_second", step) for step in range(16, 21)),
        ("validation/loss", 20),
        ("result/validation/loss", 20),
    }, "the loss of steps 16 to 20 is as it was, so it has one point per step"


@pytest.mark.parametrize("left", ["", '{"tracking_uri": "sqli'])
def test_a_state_that_a_power_cut_has_taken_is_begun_again(tmp_path, left):
    config = TrackingConfig()
    new_state(config, tmp_path).save(tmp_path)
    assert State.load(tmp_path) == new_state(config, tmp_path)
    (tmp_path / "mlflow.json").write_text(left)
    assert State.load(tmp_path) is None


def test_the_pause_between_two_tries_is_short_however_often_the_store_was_away():
    assert [pause(failures) for failures in (1, 2, 3)] == [1, 2, 4]
    assert pause(100_000) == LONGEST_WAIT


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
    assert not {"mlflow", "torch", "matplotlib", "sqlalchemy"} & set(done.stdout.split())


def test_how_far_an_older_version_had_sent_a_run_is_still_known(tmp_path):
    state = new_state(TrackingConfig(), tmp_path)
    state.offsets["metrics.jsonl"] = 7
    state.save(tmp_path)
    path = tmp_path / "mlflow.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attempts": {}, "datasets": {}}))
    assert State.load(tmp_path) == state
