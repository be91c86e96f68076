"""Failures rehearsed on a user's own job, and what must hold of a run after any of them."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from data.messages import short
from orchestrator.record.checkpoints.finding import find
from orchestrator.record.journal import Journal
from orchestrator.record.lines import EVENTS, METRICS
from orchestrator.verbs.drill import faults, rehearsal
from orchestrator.verbs.drill.invariants import broken, differences, left_behind
from orchestrator.verbs.drill.rehearsal import Child
from orchestrator.verbs.drill.soak import MIX, schedule
from tests.orchestrator.attempts import play
from tests.orchestrator.commands import RUN, TINY, Job, no_left_overs
from tests.orchestrator.typed import on, refused, trained, typed


def run(folder, *attempts, status="done"):
    """A run of these attempts, told as a job tells it; without files of checkpoints."""
    play(folder, attempts)
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    for line in lines:
        line["metrics"]["train/step_seconds"] = 1.0
    write(folder, METRICS, lines)
    with Journal(folder, attempt=len(attempts)) as book:
        book.event("finished", status=status)
        steps = book.standing.step
    (folder / "result.json").write_text(json.dumps({"status": status, "steps": steps}))
    return folder


def lines_of(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def write(folder, name, lines):
    (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_a_record_of_several_attempts_that_is_whole_breaks_nothing(tmp_path):
    assert broken(run(tmp_path, (6, 0), (5, 0), (7, 1))) == []


def test_a_run_that_went_on_from_another_begins_where_that_one_was_saved(tmp_path):
    with Journal(tmp_path) as book:
        book.event("started")
        book.event("resumed", step=8, path="../other/checkpoints/step_00000008")
        for step in (9, 10):
            book.metrics(step, {"train/step_seconds": 1.0})
        book.event("finished", status="done")
    (tmp_path / "result.json").write_text('{"status": "done", "steps": 10}')
    assert broken(tmp_path) == []
    write(tmp_path, METRICS, lines_of(tmp_path, METRICS)[1:])
    assert broken(tmp_path) == ["steps [9] are missing, between 8 and 10"]


def without_step(folder):
    write(folder, METRICS, [line for line in lines_of(folder, METRICS) if line["step"] != 2])


def with_a_step_twice(folder):
    lines = lines_of(folder, METRICS)
    write(folder, METRICS, [*lines, lines[-1]])


def by_two_writers(folder):
    lines = lines_of(folder, EVENTS)
    write(folder, EVENTS, [*lines, {**lines[0], "time_ms": lines[-1]["time_ms"]}])


def torn(folder):
    (folder / EVENTS).write_text('{"time_ms": 1\n' + (folder / EVENTS).read_text())


BROKEN = {
    "a step is missing": (without_step, "steps [2] are missing, between 0 and 6"),
    "a step is there twice": (with_a_step_twice, "step 6 counts 2 times"),
    "two processes wrote": (by_two_writers, "attempt goes back from 2 to 1: there were two"),
    "it is damaged": (torn, "is damaged"),
    "it has no result": (lambda folder: (folder / "result.json").unlink(), "no result.json"),
    "its result lies": (
        lambda folder: (folder / "result.json").write_text('{"status": "done", "steps": 9}'),
        "result.json says 9 steps, the journal 6",
    ),
    "its status lies": (
        lambda folder: (folder / "result.json").write_text('{"status": "failed"}'),
        "result.json says failed, the journal ['done']",
    ),
    "a checkpoint is half-written": (
        lambda folder: (folder / "checkpoints" / "step_00000004.partial").mkdir(parents=True),
        "was left half-written",
    ),
    "a checkpoint is no checkpoint": (
        lambda folder: (folder / "checkpoints" / "step_00000004").mkdir(parents=True),
        "is not a checkpoint",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_record_that_is_broken_is_told(tmp_path, what):
    breaks, said = BROKEN[what]
    breaks(run(tmp_path, (5, 0), (2, 0)))
    assert any(said in sentence for sentence in broken(tmp_path))


def test_the_ends_of_two_runs_are_equal_to_the_bit_or_told_apart(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    once = find(trained(corpus))
    for seed in ([], ["seed=1"]):
        answer = typed("run", *on(corpus), "stage.steps=2", *seed)
        assert answer.code == 0, answer
        differing = differences(once, find(tmp_path / "outputs" / "latest"))
        assert bool(differing) is bool(seed), differing
    file = max(once.path.rglob("*"), key=lambda path: path.stat().st_size)
    before = file.read_bytes()
    faults.flip(file)
    try:
        assert sum(a != b for a, b in zip(before, file.read_bytes(), strict=True)) == 1
        assert any(f"{short(file)} is damaged" in said for said in broken(once.path.parents[1]))
    finally:
        file.write_bytes(before)


def test_what_outlives_a_job_is_found_by_its_environment():
    marker = f"left-{os.getpid()}"
    words = [sys.executable, "-c", "input()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, env={"MARK": marker}) as left:
        assert [line.split(":")[0] for line in left_behind(0, marker)] == [f"process {left.pid}"]
        left.communicate(b"\n")
    assert left_behind(0, marker) == []


LEAVES = 'sleep 60 & echo 1 > "$TMPDIR/left"; echo 1 > /dev/shm/left-$$'


def test_what_a_job_leaves_is_told_and_taken_away(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "GONE_S", 0.2)
    job = Child([], tmp_path, through=("sh", "-c", LEAVES))
    shared = Path(f"/dev/shm/left-{job.pid}")
    try:
        assert job.wait() == 0
        process, file, memory = job.leaks()
    finally:
        job.end()
        shared.unlink()
    assert process.endswith(": sleep 60")
    assert file.endswith("/left")
    assert memory == f"left behind: {shared}"
    assert job.leaks() == []


def test_the_run_of_a_job_stays_its_own_when_another_resumes_it(tmp_path):
    first = Child([], tmp_path, through=("true",))
    names = [f"2026-11-26/23-59-{second:02}-x" for second in (58, 59)] + ["2026-11-27/00-00-00-x"]
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
        assert first.run == tmp_path / names[0]
    assert first.leaks() == []


def test_a_process_that_is_throttled_runs_for_a_part_of_the_time_and_then_as_before():
    with subprocess.Popen([sys.executable, "-c", faults.BUSY]) as busy:
        process = psutil.Process(busy.pid)
        with faults.throttled(busy.pid):
            time.sleep(0.2)  # it starts
            before = process.cpu_times().user
            time.sleep(1.0)
            assert process.cpu_times().user - before < 0.6
        assert process.status() != psutil.STATUS_STOPPED
        busy.kill()


GREEDY = "held = bytearray(300 << 20); print(len(held), flush=True); input()"


def test_who_has_most_memory_in_a_box_is_killed_by_the_kernel_when_another_takes_the_rest():
    try:
        box = faults.MemoryBox()
    except OSError as error:
        pytest.skip(str(error))
    command = [*box.entering, "choom", "-n", "1000", "--", sys.executable, "-c", GREEDY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as rank:
        assert rank.stdout.readline() == b"314572800\n"
        box.fill(rank.pid)
        assert rank.wait(60) == -signal.SIGKILL
        box.close()


def test_the_random_mix_is_drawn_by_its_seed_alone():
    plan = schedule(7, 30, minutes=10)
    assert plan == schedule(7, 30, minutes=10) != schedule(8, 30, minutes=10)
    assert plan == schedule(7, 30, faults=len(plan)) == schedule(7, 30, faults=100)[: len(plan)]
    assert len(schedule(7, 3, faults=100)) == 100
    times = [0.0, *(at for at, _ in plan)]
    assert all(20 <= later - at <= 40 for at, later in pairwise(times))
    assert 560 < times[-1] < 600
    assert {name for _, name in plan} <= set(MIX)


def drilled(name, folder, corpus, *words):
    """The command of a drill, its exit code, and its outcome; checkpoints are 20 steps apart."""
    tiny = [word for word in TINY if not word.startswith(("stage.steps", "stage.checkpoint_every"))]
    tiny += ["stage.steps=160", "stage.checkpoint_every=20", "at=50", "tracking=none"]
    drill = Job(folder, corpus, *words, command=[*RUN[:-1], "drill", name], own=tiny)
    code = drill.wait(270)  # it starts two jobs, or three
    (kept,) = (folder / "outputs" / "drills").glob("*/drills.json")
    outcome = json.loads(kept.read_text())[name]
    assert outcome["lost_steps"] in range(21), (outcome, drill.screen)
    assert 0 < outcome["detect_s"] < outcome["resume_s"]
    assert broken(Path(outcome["run"])) == []
    assert no_left_overs(drill)
    return drill, code, outcome


@pytest.mark.drill  # test_elastic.py kills nodes, too, and compares losses
def test_a_node_dies_and_the_job_goes_on_on_another_to_the_same_end_to_the_bit(tmp_path, corpus):
    workers = ("resources.workers=2", "resources.cpus_per_worker=1", "within=120")
    drill, code, outcome = drilled("kill-node", tmp_path, corpus, *workers)
    assert code == 0, drill.screen
    assert (outcome["row"], outcome["passed"], outcome["equal"]) == (2, True, True)
    (run,) = (tmp_path / "outputs" / "drills").glob("*/kill-node/latest")
    before, after = (
        {worker["node"] for worker in json.loads(line)["workers"]}
        for line in (run / EVENTS).read_text().splitlines()
        if json.loads(line)["event"] == "admitted"
    )
    assert len(before & after) == 1


def test_a_job_that_does_not_go_on_by_itself_fails_the_drill_and_is_resumed_to_the_bit(
    tmp_path, corpus
):
    """One worker, whose death ends the job where nothing may be tried again."""
    words = ["resources.workers=1", "recovery.max_restarts=0"]
    drill, code, outcome = drilled("kill-worker", tmp_path, corpus, *words)
    assert code == 1, drill.screen
    assert "FAILED" in drill.screen
    assert "it did not go on by itself, and was resumed" in outcome["notes"], outcome
    assert outcome["equal"] is True
    assert (outcome["row"], outcome["passed"]) == (1, False)


def test_a_drill_that_cannot_be_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "did you mean kill-worker?" in refused("drill", "kill-worke")
    short_job = ("stage.steps=20", "optim.warmup_steps=1")
    said = refused("drill", "kill-worker", "at=20", *short_job)
    assert said == "at=20 must be at least 1 and less than stage.steps=20; try at=10"
    assert "at=x must be a number" in refused("drill", "kill-worker", "at=x", *short_job)
    assert "no workers that could be lost" in refused("drill", "all", "resources=inline")
    assert "does not train" in refused("drill", "all", "stage=evaluate", "checkpoint=x")
    assert "a drill sets this itself" in refused("drill", "all", "outputs=here")
    listed = typed("drill", "--list")
    assert listed.code == 0
    assert " 1  kill-worker" in listed.out
    assert "not here" in next(line for line in listed.out.splitlines() if "kill-queue" in line)
