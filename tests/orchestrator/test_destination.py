"""Checkpoints behind a URL: copied there while training goes on, found there again."""

import hashlib
import json
import logging
import shutil
import threading
from dataclasses import replace
from functools import partial

import pytest
import yaml

from data.files import cache_root
from orchestrator.plan.resume import find_start
from orchestrator.record import fencing
from orchestrator.record.checkpoints import CheckpointError, Retention, find, find_best, published
from orchestrator.record.checkpoints.cached import on_this_host
from orchestrator.record.checkpoints.copying import Copier
from orchestrator.record.checkpoints.destination import Destination, DestinationError
from orchestrator.record.checkpoints.fetching import RemoteRun
from orchestrator.record.fencing import Fenced
from orchestrator.record.redaction import Redactor
from orchestrator.stages import saved
from orchestrator.training import checkpoint
from tests.orchestrator.plain import Plain, retain
from tests.orchestrator.typed import on, refused, typed

NAME = "2026-01-02/10-00-00-pretrain-abcdef"


@pytest.fixture(scope="module")
def server():
    """A local S3 with an empty bucket; its address and credentials are in the environment."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as set_:
        set_.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        set_.setenv("AWS_ACCESS_KEY_ID", "somebody")
        set_.setenv("AWS_SECRET_ACCESS_KEY", "geheim-und-lang")
        set_.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import fsspec

        s3 = fsspec.get_filesystem_class("s3")
        s3.clear_instance_cache()  # one that was made with another environment
        fsspec.filesystem("s3").mkdir("bucket")
        yield running
        s3.clear_instance_cache()
    running.stop()


@pytest.fixture(params=["file", "s3"])
def url(request, tmp_path):
    """An empty destination."""
    if request.param == "file":
        return f"file://{tmp_path}/there"
    request.getfixturevalue("server")
    return f"s3://bucket/{tmp_path.name}"


class SavedRun:
    """A run folder that checkpoints are saved to, without a job."""

    def __init__(self, outputs, attempt=1, **settings):
        self.folder = outputs / NAME
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings = {"seed": 1, **settings}
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.settings))
        (self.folder / "code.json").write_text(json.dumps({"command": "orchestrate run"}))
        self.root = self.folder / "checkpoints"
        self.fence = fencing.take(self.folder, attempt)
        self.retention = Retention(self.root, 2, keep_every=10)

    def save(self, *steps, seed=0, **facts):
        for step in steps:
            roles = {"model": Plain(seed=seed).role()}
            done = checkpoint.save(self.root, step, roles, None, facts, self.fence)
            retain(self.retention, done)
        return done

    def copier(self, url):
        return Copier(self.folder, url, lambda: self.fence, Redactor(self.settings))


@pytest.fixture
def run(tmp_path):
    return SavedRun(tmp_path / "outputs")


def steps(url):
    """What is there, each verified."""
    there = RemoteRun(f"{url}/{NAME}", "checkpoint")
    return [there.verify(step).step for step in there.steps()][::-1]


def of_kind(copier, kind):
    return [event for event in copier.news() if event["event"] == kind]


def damage(url, name):
    """Another byte at the end of a file that is there."""
    there = Destination(f"{url}/{NAME}", "checkpoint")
    content = bytearray(there.read(name))
    content[-1] ^= 1
    there.write(name, bytes(content))


def test_what_stays_in_the_run_folder_stays_there_and_nothing_else(run, url):
    copier = run.copier(url)
    copier.start()
    for step in range(8, 14):
        run.save(step)
        copier.wake()
    assert copier.finish(20) == []
    assert steps(url) == [int(path.name[-2:]) for path in published(run.root)] == [10, 12, 13]
    names = Destination(f"{url}/{NAME}/checkpoints", "").names()
    assert {name.split("/")[0][-2:] for name in names} == {"10", "12", "13"}, "no half a checkpoint"
    copied = {own["step"]: own["manifest_sha256"] for own in of_kind(copier, "copied")}
    assert find(f"{url}/{NAME}").manifest_sha256 == copied[13]


def test_who_falls_behind_takes_the_newest_first_and_holds_it_until_it_is_there(run, url):
    run.save(1, 2, 3)
    copier = run.copier(url)
    copier.copy_all()
    assert [own["step"] for own in of_kind(copier, "copied")] == [3, 2]
    held, first = [], threading.Lock()
    plain = Destination.upload

    def slowly(self, file, *rest):
        with first:
            if not held:
                held.append(run.save(5, 6, 7))  # retention would have deleted 4 by now
        return plain(self, file, *rest)

    run.save(4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Destination, "upload", slowly)
        copier.copy_all()
    assert steps(url) == [6, 7]
    assert [own["step"] for own in of_kind(copier, "copied")] == [4, 7, 6]


def test_a_destination_that_is_down_is_told_once_and_made_up_later(run, tmp_path):
    (tmp_path / "mount").write_text("not mounted yet")
    copier = run.copier(f"file://{tmp_path}/mount/there")
    copier.start()
    run.save(1)
    copier.wake()
    assert copier.finish(0.5) == ["step_00000001"], "and nobody waits for ever"
    failed = of_kind(copier, "copy_failed")
    assert len(failed) == 1
    assert "Not a directory" in failed[0]["reason"]
    run.save(2, 3)
    (tmp_path / "mount").unlink()
    copier.wake()
    assert copier.finish(20) == []
    assert steps(f"file://{tmp_path}/mount/there") == [2, 3]


def test_a_store_that_refuses_or_is_gone_is_a_sentence(server, tmp_path, monkeypatch):
    run = SavedRun(tmp_path / "outputs")
    run.save(1)
    with pytest.raises(DestinationError, match=r"s3://other.*no such bucket"):
        run.copier("s3://other/prefix").copy_all()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    import fsspec

    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(DestinationError, match=r"Could not connect.*check the address"):
        run.copier("s3://bucket/prefix").copy_all()
    fsspec.filesystem("s3").clear_instance_cache()


def test_of_two_copies_of_a_run_only_the_last_to_take_it_publishes(run, url, tmp_path):
    run.save(1)
    run.copier(url).copy_all()
    shutil.copytree(run.folder, tmp_path / "elsewhere" / NAME)
    first = run.copier(url)
    run.fence = fencing.take(run.folder, 2)
    run.save(2)
    first.copy_all()
    second = SavedRun(tmp_path / "elsewhere", attempt=2)
    second.save(2, 3, seed=1)
    with pytest.raises(Fenced, match=r"another copy of this run writes there: attempt 2"):
        second.copier(url).copy_all()
    assert steps(url) == [1, 2]
    second.fence = fencing.take(second.folder, 3)
    second.copier(url).copy_all()
    assert steps(url) == [2, 3], "its own 2 has taken the place of the other's"
    run.save(4)
    with pytest.raises(Fenced, match="attempt 3"):
        first.copy_all()
    assert steps(url) == [2, 3]


def test_a_clone_with_the_very_fence_of_the_other_does_not_replace_what_that_one_published(
    run, url, tmp_path
):
    run.save(1)
    first, second = run.copier(url), run.copier(url)
    second._token = first._token  # a machine that was cloned in the middle of the run
    first.copy_all()
    shutil.copytree(run.folder, tmp_path / "clone" / NAME)
    second._folder = tmp_path / "clone" / NAME
    run.save(2)
    checkpoint.save(
        second._folder / "checkpoints", 2, {"model": Plain(seed=1).role()}, None, {}, run.fence
    )
    plain = Copier._is_there
    with pytest.MonkeyPatch.context() as patch:

        def looked_too_early(self, own):
            found = plain(self, own)
            first.copy_all()
            return found

        patch.setattr(Copier, "_is_there", looked_too_early)
        patch.setattr(first, "_is_there", partial(plain, first))
        with pytest.raises(Fenced, match="published its own step_00000002"):
            second.copy_all()


def test_another_run_of_the_same_name_is_left_alone(run, url, tmp_path):
    run.save(1)
    run.copier(url).copy_all()
    other = SavedRun(tmp_path / "other")
    (other.folder / "code.json").write_text("{}")
    other.save(9)
    with pytest.raises(Fenced, match="it holds another run of the same name"):
        other.copier(url).copy_all()
    assert steps(url) == [1]


def test_what_was_damaged_since_it_was_saved_is_not_copied(run, url):
    run.save(1, 2)
    file = run.root / "step_00000002" / "model" / "weights-0.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    copier = run.copier(url)
    copier.copy_all()
    assert steps(url) == [1]
    assert "weights-0.safetensors is damaged" in of_kind(copier, "copy_failed")[0]["reason"]


def test_a_damaged_copy_is_passed_over_and_no_file_is_fetched_twice(run, url, monkeypatch):
    run.save(1, 2)
    run.copier(url).copy_all()
    damage(url, "checkpoints/step_00000002/model/weights-0.safetensors")
    fetched = []
    plain = Destination.download
    monkeypatch.setattr(
        Destination,
        "download",
        lambda self, name, file: fetched.append(name) or plain(self, name, file),
    )
    found = find(f"{url}/{NAME}", weights_only=True)
    assert found.step == 1
    assert "step_00000002/model/weights-0.safetensors is damaged" in found.passed_over[0]
    assert not any("optimizer" in name for name in fetched)
    whole = find(f"{url}/{NAME}/checkpoints/step_00000001")
    assert whole.path == found.path
    assert fetched[2:] == ["checkpoints/step_00000001/model/optimizer-0.safetensors"]
    assert checkpoint.verify(whole.path).manifest_sha256 == whole.manifest_sha256
    (whole.path / "model" / "weights-0.safetensors").write_bytes(b"changed in the cache")
    find(f"{url}/{NAME}/checkpoints/step_00000001")
    assert fetched[3:] == ["checkpoints/step_00000001/model/weights-0.safetensors"]
    damage(url, "checkpoints/step_00000001/manifest.json")
    with pytest.raises(CheckpointError, match=r"holds no valid checkpoint: .*; .*manifest"):
        find(f"{url}/{NAME}")
    with pytest.raises(CheckpointError, match=f"it holds runs, such as {NAME}"):
        find(url)


def test_of_a_run_that_keeps_its_best_checkpoint_the_weights_are_those_of_that(run, tmp_path):
    run.save(1)
    run.save(2, selection={"path": "../step_00000001"})
    url = f"file://{tmp_path}/there"
    run.copier(url).copy_all()
    assert find_best(f"{url}/{NAME}").step == 1
    assert find_best(f"{url}/{NAME}/checkpoints/step_00000002").step == 2
    assert find(f"{url}/{NAME}").step == 2


def test_a_host_with_another_cache_finds_what_was_brought_to_it(run, tmp_path, monkeypatch):
    run.save(1)
    url = f"file://{tmp_path}/there"
    run.copier(url).copy_all()
    path = find(f"{url}/{NAME}").path
    moved = tmp_path / "cache of another host"
    shutil.move(cache_root(), moved)
    try:
        monkeypatch.setenv("ORCHESTRATE_CACHE", str(moved))
        assert checkpoint.verify(on_this_host(path)).step == 1
    finally:
        monkeypatch.undo()
        shutil.move(moved, cache_root())


def test_no_secret_gets_there_and_what_lacks_it_is_named(tmp_path):
    run = SavedRun(tmp_path / "outputs", tracking={"uri": "http://me:my-password@host/x"})
    (run.folder / "overrides.yaml").write_text("[]")
    run.save(1)
    run.copier(f"file://{tmp_path}/there").copy_all()
    texts = [p.read_bytes() for p in (tmp_path / "there").rglob("*") if p.is_file()]
    assert not any(b"my-password" in text for text in texts)
    config = yaml.safe_load((tmp_path / "there" / NAME / "config.yaml").read_text())
    assert config["tracking"]["uri"] == "http://[redacted]@host/x"


@pytest.fixture(scope="module")
def job(server, corpus, tmp_path_factory):
    """A job that was typed, its outputs, and the URL of its copy."""
    outputs = tmp_path_factory.mktemp("copied")
    words = ("stage.steps=4", "stage.checkpoint_every=1", "stage.checkpoints_to=s3://bucket/jobs")
    answer = typed("run", *on(corpus), *words, f"outputs={outputs}")
    assert answer.code == 0, answer
    run = (outputs / "latest").resolve()
    return answer, run, f"s3://bucket/jobs/{run.parent.name}/{run.name}"


def digest(folder):
    """Of all tensors of a run's newest checkpoint."""
    files = sorted(checkpoint.find(folder).path.rglob("*.safetensors"))
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def test_a_run_whose_folder_is_gone_goes_on_from_its_copy_to_the_last_bit(
    job, tmp_path, monkeypatch
):
    answer, run, url = job
    monkeypatch.chdir(tmp_path)
    assert "copied to s3://bucket/jobs with at most" in answer.out
    assert f"copied to:   {url}" in answer.out
    words = ("stage.steps=6", "outputs=here", "stage.checkpoints_to=null")
    assert typed("run", f"resume={run}", *words).code == 0
    away = run.with_name("away")
    run.rename(away)
    try:
        resumed = typed("run", f"resume={url}", "stage.steps=6", "outputs=there")
        assert resumed.code == 0, resumed
        assert digest("there/latest") == digest("here/latest")
        listed = typed("checkpoint", "list", url).out.splitlines()
        assert [line.split()[0] for line in listed[1:]] == ["step_00000004", "step_00000003"]
        assert all(line.endswith("whole") for line in listed[1:])
        verified = typed("checkpoint", "verify", url)
        assert (verified.code, verified.out.count("good  step_")) == (0, 2)
        assert typed("checkpoint", "diff", url, str(away)).code == 0
        assert typed("checkpoint", "export", url, "weights").code == 0
        written = typed("generate", url, "--prompt", "a", "--max-new-tokens", "3")
        assert written.code == 0, written
        own = typed("generate", str(away), "--prompt", "a", "--max-new-tokens", "3")
        assert written.out == own.out
    finally:
        away.rename(run)


def test_what_a_destination_lacks_of_a_run_that_has_ended_is_copied_by_hand(
    job, tmp_path, monkeypatch
):
    run = job[1]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, f"outputs/{NAME}")
    there = f"file://{tmp_path}/there"
    answer = typed("checkpoint", "copy", f"outputs/{NAME}", there)
    assert answer.out == f"2 checkpoints copied to {there}/{NAME}\n"
    damage(there, "checkpoints/step_00000004/model/weights-0.safetensors")
    answer = typed("checkpoint", "verify", f"{there}/{NAME}")
    assert answer.code == 1
    assert answer.out.splitlines()[-1].endswith("/checkpoints/step_00000003")


def test_on_a_new_host_resume_auto_finds_the_copy_of_this_very_job(job, tmp_path):
    there = f"file://{tmp_path}/there"
    for name, seed in ((NAME, 0), (NAME.replace("abcdef", "newer"), 1)):
        folder = tmp_path / "outputs" / name
        shutil.copytree(job[1], folder)
        settings = yaml.safe_load((folder / "config.yaml").read_bytes())
        settings["stage"]["checkpoints_to"] = there
        settings["seed"] += seed
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        assert typed("checkpoint", "copy", str(folder), there).code == 0
    config = saved.load(tmp_path / "outputs" / NAME / "config.yaml")
    config = replace(config, outputs=str(tmp_path / "new"), resume="auto")
    assert find_start(config) is None, "it is done there"
    Destination(f"{there}/{NAME}", "x").remove("checkpoints/step_00000004")
    assert find_start(config).checkpoint.step == 3
    assert find_start(replace(config, seed=77)) is None


def test_a_destination_that_can_not_be_used_is_refused_before_anything_starts(
    server, corpus, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for to, said in (
        ("folder", f"must be a URL; try stage.checkpoints_to=file://{tmp_path}/folder"),
        ("gopher://host/x", "stage.checkpoints_to=gopher://host/x: Protocol not known: gopher"),
        ("gs://bucket/x", "needs a package that is not installed: pip install gcsfs"),
        ("s3://nobody/x", "stage.checkpoints_to=s3://nobody/x: there is no such bucket"),
        (f"file://{tmp_path}/file/x", "Not a directory"),
        ("https://127.0.0.1:9/x", "stage.checkpoints_to=https://127.0.0.1:9/x: "),
    ):
        if to.startswith("gs://"):
            monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
        message = refused("run", *on(corpus), "stage.steps=2", f"stage.checkpoints_to={to}")
        assert said in message


def test_a_run_that_still_goes_on_is_not_resumed_from_its_copy(job, monkeypatch, tmp_path):
    from orchestrator.record.journal import Journal

    _, run, url = job
    monkeypatch.chdir(tmp_path)
    with Journal(run):
        said = refused("run", f"resume={url}", "stage.steps=9")
    assert "still goes on" in said
