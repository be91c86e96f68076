"""A disk that fills up at any write of a run leaves a result, and one line says what to do."""

import json
import subprocess

import pytest

from orchestrator.job.room import SPARE, has_room
from orchestrator.record import runfolder
from orchestrator.verbs.drill.invariants import broken
from tests.orchestrator.commands import Job
from tests.orchestrator.typed import on, typed


@pytest.fixture
def disk(tmp_path):
    """A real disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs the superuser")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def leave(disk, free):
    """Fill the disk but for `free` bytes."""
    left = bytes(4096) * (free // 4096)
    (disk / "left").write_bytes(left)
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    (disk / "left").unlink()


FREE = (0, 1, 2, 3, 5, 8, 15, 30, 60)


@pytest.mark.parametrize(
    ("free", "tracking"), [*((free, "none") for free in FREE), (0, "mlflow"), (40, "mlflow")]
)
def test_a_run_on_a_disk_that_is_full_at_any_point_has_a_result_and_a_remedy(
    free, tracking, disk, corpus, monkeypatch
):
    """`free` pages of 4 kB are left once there is a run folder."""
    create = runfolder.create

    def create_and_fill(*arguments):
        folder = create(*arguments)
        leave(disk, free * 4096)
        return folder

    monkeypatch.setattr(runfolder, "create", create_and_fill)
    limit = ["tracking.finish_timeout_seconds=1"] if tracking == "mlflow" else []
    answer = typed(
        *("run", *on(corpus), "stage.steps=4", "stage.checkpoint_every=1", f"outputs={disk}"),
        *(f"tracking={tracking}", *limit),
    )
    result = json.loads((disk / "latest" / "result.json").read_text())
    assert (answer.code, result["status"]) == (1, "failed")
    assert result["error"]["class"] == "disk"
    assert "Traceback" not in answer.out + answer.err
    (line,) = [line for line in answer.out.splitlines() if line.startswith("error: ")]
    assert "No space left on device" in line
    assert str(disk) in line
    assert "free some space there" in line


def test_a_job_in_a_gang_waits_on_a_full_disk_and_goes_on_when_there_is_room(
    disk, corpus, tmp_path
):
    """What rank 0 and the driver have no room for is the record; then the checkpoint."""
    larger = ["mount", "-o", "remount,size=24m", str(disk)]
    subprocess.run(larger, check=True)
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "outputs").symlink_to(disk)
    steps = ("stage.steps=160", "stage.checkpoint_every=50", "stage.evaluate_every=1000")
    job = Job(folder, corpus, "resources=cpu1", "tracking=none", *steps)
    try:
        job.until(lambda: job.steps_done() > 60)
        leave(disk, 0)
        assert not has_room(disk, 1)
        job.until(lambda: "waiting until" in job.screen)
        (disk / "filler").unlink()
        assert has_room(disk, SPARE)
        assert not has_room(disk, 1 << 30)
        assert job.wait() == 0, job.screen
    finally:
        job.kill()
    assert [event["cause"] for event in job.events("failed")] == ["disk"], job.screen
    assert len(job.events("waited_for_disk")) == 1
    assert list(job.metric()) == list(range(1, 161))
    assert broken(job.run) == [], "each step once"
