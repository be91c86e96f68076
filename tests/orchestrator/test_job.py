"""Whole jobs as a user types them, with faults injected from outside. 15 to 30 s each.

The jobs of this file train the same tiny model in fp32 on the same text, so their journals can be
compared: Ray, torchrun, one process and a resumed run must tell the same losses.
"""

import json
import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from orchestrator.record.lines import read
from orchestrator.record.story.sentences import sentence
from orchestrator.stages.language.scoring import notices
from tests.orchestrator.commands import NOISE, ROOT, RUN, STEPS, TINY, Job, no_left_overs

LEFT_OVER = {
    **{"OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_RANK": "0", "PMI_RANK": "3"},
    **{"RANK": "7", "LOCAL_RANK": "7", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"},
    **{"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "203.0.113.1"},
}


@pytest.fixture(scope="module")
def bare_path(tmp_path_factory):
    """A PATH with the usual commands but no compiler and no build tool."""
    folder = tmp_path_factory.mktemp("bin")
    builders = ("gcc", "g++", "cc", "c++", "clang", "clang++", "ninja", "nvcc", "make", "cmake")
    for directory in ("/usr/bin", "/bin"):
        for program in Path(directory).iterdir():
            name, link = program.name, folder / program.name
            if not name.startswith(builders) and "-gcc" not in name and not link.exists():
                link.symlink_to(program)
    assert shutil.which("g++", path=str(folder)) is None
    return str(folder)


@pytest.fixture(scope="module")
def quick(tmp_path_factory, corpus, bare_path):
    """The shortened quick start: two Ray workers, MLflow, no compiler on the machine.

    It is typed in a folder of somebody who has packages of the same names as ours, there and on
    PYTHONPATH, in a shell where mpirun and torchrun have left their variables, with few
    descriptors.
    """
    folder = tmp_path_factory.mktemp("quick")
    for name in ("cluster", "data", "models", "orchestrator"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError('not ours')")
    extensions = str(folder / "extensions")
    command = [str(Path(sys.executable).with_name("orchestrate")), "run"]
    project = tmp_path_factory.mktemp("project")
    for name in ("cluster", "data", "models"):
        shutil.copytree(folder / name, project / name)
    environment = {"PATH": bare_path, "TORCH_EXTENSIONS_DIR": extensions} | LEFT_OVER
    command = ["sh", "-c", 'ulimit -n 256 && exec "$@"', "sh", *command]
    path = os.pathsep.join((str(project), str(ROOT)))
    asked = ("resources=cpu2", "stage.sample_at_evaluations=true")
    job = Job(folder, corpus, *asked, command=command, PYTHONPATH=path, **environment)
    job.code = job.wait()
    return job


def test_the_quick_start_ends_well_and_leaves_what_it_promises(quick):
    assert quick.code == 0, quick.screen
    result = quick.result
    assert (result["status"], result["steps"], result["stage"]) == ("done", STEPS, "pretrain")
    assert result["tokens"] == STEPS * 8 * 32
    assert "error" not in result
    names = "config overrides code metrics events result samples mlflow figures logs checkpoints"
    assert {path.stem for path in quick.run.iterdir()} >= {*names.split()}
    assert "record      MLflow experiment default at outputs/mlflow.db" in quick.screen
    logs = {path.name for path in (quick.run / "logs").iterdir()}
    assert logs >= {"rank-0.log", "rank-1.log"}
    assert quick.run.name == result["run_id"]
    overrides = yaml.safe_load((quick.run / "overrides.yaml").read_text())
    assert overrides[: len(TINY)] == TINY
    assert yaml.safe_load((quick.run / "config.yaml").read_text())["model"]["width"] == 32
    assert json.loads((quick.run / "code.json").read_text())["packages"]["torch"]


def test_the_journal_of_the_quick_start_has_every_step_once_and_the_result_repeats_it(quick):
    lines, _ = read(quick.run / "metrics.jsonl")
    steps = [line["step"] for line in lines if "train/loss" in line["metrics"]]
    assert steps == list(range(1, STEPS + 1))
    assert list(quick.metric("validation/loss")) == [6, 12]
    for name, value in quick.result["metrics"].items():
        assert value == quick.metric(name)[STEPS]
    loss, bits = quick.metric("validation/loss")[12], quick.metric("validation/bits_per_byte")[12]
    validation = next(e for e in quick.events("dataset") if e["split"] == "validation")
    assert bits == pytest.approx(
        loss / math.log(2) * validation["tokens"] / validation["bytes"], rel=1e-6
    )
    assert loss < math.log(300)
    assert [e["step"] for e in quick.events("checkpoint")] == [5, 10, 12]
    kept = sorted(path.name for path in (quick.run / "checkpoints").iterdir())
    assert kept == ["step_00000010", "step_00000012"]
    assert quick.events("finished")[0]["status"] == "done"


def test_the_quick_start_shows_no_noise_and_ends_with_what_to_type_next(quick):
    assert [line for line in quick.screen.splitlines() if any(n in line for n in NOISE)] == []
    for words in (
        "this model",
        "gzip",
        "trigram",
        "run folder:",
        "MLflow:",
        "all runs:",
        "orchestrate generate",
    ):
        assert words in quick.screen


def test_the_quick_start_is_a_finished_run_in_mlflow(quick):
    status, metrics = quick.mlflow_run()
    assert status == "FINISHED"
    for step, loss in quick.metric().items():
        assert metrics["train/loss", step] == pytest.approx(loss, rel=1e-12)
    assert metrics["validation/loss", STEPS] == quick.metric("validation/loss")[STEPS]


def test_the_texts_of_every_evaluation_are_on_record_and_in_mlflow(quick):
    texts = {event["step"]: event["texts"] for event in quick.events("sampled")}
    assert list(texts) == [6, 12]
    assert [len(own) for own in texts.values()] == [3, 3]
    names = [f"step_{step:08d}.txt" for step in texts]
    for name, own in zip(names, texts.values(), strict=True):
        assert (quick.run / "samples" / name).read_text() == "\n\n---\n\n".join(own)
    sent = {path.name for path in (quick.folder / "outputs").glob("mlartifacts/**/samples/*")}
    assert sent == set(names), sorted((quick.folder / "outputs").iterdir())


def test_the_quick_start_needs_no_compiler_and_leaves_nothing_behind(quick):
    assert not (quick.folder / "extensions").exists()
    written = {path for path in quick.home.rglob("*") if path.is_file()}
    assert set(written) == set()
    packages = {"cluster", "data", "models", "orchestrator"}
    assert {path.name for path in quick.folder.iterdir()} == {
        "home",
        "outputs",
        "screen.txt",
        *packages,
    }
    assert no_left_overs(quick), quick.left_overs()


@pytest.fixture(scope="module")
def alone(tmp_path_factory, corpus):
    """One process of plain PyTorch under a terminal, which makes its data anew."""
    folder = tmp_path_factory.mktemp("alone")
    words = ("resources=inline", "engine=torch", "tracking=none")
    job = Job(folder, corpus, *words, columns=80, ORCHESTRATE_CACHE=str(folder / "cache"))
    assert job.wait() == 0, job.screen
    return job


def test_a_terminal_shows_a_clock_that_moves_and_no_line_that_does_not_fit(alone):
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", alone.screen)
    assert len(set(re.findall(r"(\d:\d\d)  importing torch", shown))) > 1
    lines = re.split(r"[\r\n]+", shown)
    assert max(map(len, lines)) <= 80
    assert any(re.search(r"step 12/12  train loss \d", line) for line in lines)
    assert any(re.match(r"step 12/12  validation loss [\d.]+  [\d.]+ bits/byte$", x) for x in lines)
    assert f"checkpoints/step_{STEPS:08d}" in shown.partition("done: ")[2]


def test_a_model_worse_than_counts_of_bytes_says_so(alone):
    rows = json.loads((alone.run / "bits_per_byte.json").read_text())["data"]
    bits = {name: float(value) for name, value in rows}
    worse = bits["this model"] > bits["bytes, add-one bigram"]
    assert ("note: this model predicts text worse" in alone.screen) == worse
    assert notices(3.0, {"bigram": 3.1, "unigram": 4.0}) == ()
    assert "pairs of bytes (3.100)" in notices(3.2, {"bigram": 3.1, "unigram": 4.0})[0]
    assert "single bytes (4.000)" in notices(4.2, {"bigram": 3.1, "unigram": 4.0})[0]


def test_one_process_of_plain_pytorch_tells_the_same_losses(quick, alone):
    job = alone
    assert job.metric() == pytest.approx(quick.metric(), rel=1e-4)
    assert job.metric("validation/loss") == pytest.approx(quick.metric("validation/loss"), rel=1e-4)
    assert [line for line in job.screen.splitlines() if any(n in line for n in NOISE)] == []
    assert "MLflow" not in job.screen
    assert {path.name for path in job.folder.iterdir()} == {
        *("home", "outputs", "screen.txt", "cache"),
    }


def test_torchrun_tells_the_same_losses_and_leaves_one_run_folder(quick, tmp_path, corpus):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", *RUN[1:]]
    job = Job(
        tmp_path, corpus, "resources=inline", "engine=zero2", "tracking=none", command=command
    )
    assert job.wait() == 0, job.screen
    assert job.metric() == pytest.approx(quick.metric(), rel=1e-4)
    assert len(list((tmp_path / "outputs").glob("*/*/config.yaml"))) == 1
    assert job.result["status"] == "done"
    assert [line for line in job.screen.splitlines() if any(n in line for n in NOISE)] == []
    assert {path.name for path in (job.run / "logs").iterdir()} >= {"rank-0.log", "rank-1.log"}


def test_ctrl_c_saves_a_checkpoint_and_resume_ends_as_an_uninterrupted_run(quick, tmp_path, corpus):
    """Interrupted on one engine with 2 workers, resumed on another; dropout goes on, too."""
    long = ("stage.steps=3000", "optim.schedule=constant", "tracking=none")
    job = Job(tmp_path / "a", corpus, "resources=cpu2", "engine=zero3", *long)
    job.until(lambda: job.steps_done() > 3)
    assert job.listens() == {"127.0.0.1"}  # and no other interface of this host
    job.interrupt()
    began = time.monotonic()
    assert job.wait() == 130, job.screen
    assert time.monotonic() - began < 20
    result = job.result
    done = result["steps"]
    assert (result["status"], list(job.metric())) == ("interrupted", list(range(1, done + 1)))
    assert Path(result["checkpoint"]).name == f"step_{done:08d}"
    assert [line for line in job.screen.splitlines() if any(n in line for n in NOISE)] == []
    assert "resume=" in job.screen
    assert no_left_overs(job), job.left_overs()

    before, total = job.metric(), done + 5
    rest = (f"stage.steps={total}", *long[1:])
    inline = ("resources=inline", "engine=torch", *rest)
    again = Job(tmp_path / "a", corpus, *inline, "resume=outputs/latest")
    assert again.wait() == 0, again.screen
    assert list(again.metric()) == list(range(done + 1, total + 1))
    whole = Job(tmp_path / "c", corpus, *inline)
    assert whole.wait() == 0, whole.screen
    assert before | again.metric() == pytest.approx(whole.metric(), rel=1e-4)
    final = "validation/loss"
    assert again.result["metrics"][final] == pytest.approx(whole.result["metrics"][final], rel=1e-4)


def test_sigterm_and_then_ctrl_c_stops_at_once(tmp_path, corpus):
    """SIGTERM is for us and not for Ray: its C++ would write a stack and abort, its servers end.

    It goes to the whole process group, as from `timeout`.
    """
    job = Job(tmp_path, corpus, "resources=cpu2", "stage.steps=3000", "tracking=none")
    job.until(lambda: "workers import" in job.screen)
    os.killpg(job.process.pid, signal.SIGTERM)
    job.until(lambda: "stopping before the first step; Ctrl-C stops now" in job.screen)
    job.interrupt()
    began = time.monotonic()
    assert job.wait() == 3, job.screen
    assert time.monotonic() - began < 10
    assert (job.result["status"], job.result["checkpoint"]) == ("interrupted", None)
    assert not any(word in job.screen for word in ("Traceback", "SIGTERM", "resume="))
    assert no_left_overs(job), job.left_overs()


def test_a_run_that_loses_a_worker_goes_on_by_hand_or_by_itself_and_ends_as_if_it_had_lived(
    quick, tmp_path, corpus
):
    """The run of `quick`, but for more evaluations, which give time to kill it after step 5.

    Without recovery it ends with one line; resumed, it recovers from the loss of rank 0.
    """
    job = Job(tmp_path, corpus, "resources=cpu2", "stage.evaluate_every=1", "recovery=none")
    job.until(lambda: (job.run / "checkpoints" / "step_00000005").is_dir())
    os.kill(job.workers()[1]["pid"], signal.SIGKILL)
    assert job.wait() == 1, job.screen
    ended_ms = [job.events(kind)[0]["time_ms"] for kind in ("failed", "finished")]
    assert ended_ms[1] - ended_ms[0] < 20_000  # the record is sent after that
    result = job.result
    assert result["status"] == "failed"
    assert (result["error"]["class"], result["error"]["rank"]) == ("worker_lost", 1)
    assert job.events("finished")[-1]["error"] == result["error"]
    kept = sorted(path.name for path in (job.run / "checkpoints").iterdir())
    assert kept[-1] == Path(result["checkpoint"]).name, "the newest, and nothing half-written"
    line = next(line for line in job.screen.splitlines() if line.startswith("error:"))
    assert f"rank 1 on host {os.uname().nodename} was killed by SIGKILL" in line
    assert "resume=RUN_FOLDER" in line
    assert job.screen.index(line) < job.screen.index("sending the rest of the record to MLflow")
    again = f"orchestrate run resume={job.run.relative_to(job.folder)}"
    assert f"go on:       {again}\n" in job.screen
    assert [line for line in job.screen.splitlines() if any(n in line for n in NOISE)] == []
    assert job.mlflow_run()[0] == "FAILED"
    assert no_left_overs(job), job.left_overs()

    before, killed = job.metric(), result["mlflow_run_id"]
    resume = [*RUN[:-1], *again.split()[1:], "recovery=auto"]
    job = Job(tmp_path, corpus, command=resume, own=())
    job.until(lambda: (job.run / "checkpoints" / "step_00000010").is_dir())
    os.kill(job.workers()[0]["pid"], signal.SIGKILL)
    assert job.wait() == 0, job.screen
    assert (job.result["status"], job.result["attempts"]) == ("done", 2)
    assert before | job.metric() == quick.metric(), "to the last bit"
    assert saved_files(job) == saved_files(quick), "weights and moments, too"
    assert (
        job.events("checkpoint")[-1]["data_multiset"]
        == (quick.events("checkpoint")[-1]["data_multiset"])
    )
    [failed], [restarting] = job.events("failed"), job.events("restarting")
    assert (failed["cause"], failed["rank"]) == ("worker_lost", 0)
    facts = [restarting[name] for name in ("attempt", "from_step", "workers", "lost_steps")]
    assert facts == [2, 10, 2, failed["step"] - 10]
    now, then = ({w["pid"] for w in event["workers"]} for event in job.events("admitted"))
    assert len(now & then) == 1, "the other process is kept"
    check_told(job, failed, restarting)
    status, metrics = job.mlflow_run()
    curve = {step: loss for (key, step), loss in metrics.items() if key == "train/loss"}
    assert (status, curve) == ("FINISHED", quick.metric())
    assert [line for line in job.screen.splitlines() if any(n in line for n in NOISE)] == []
    assert not list(job.run.glob(".records*"))
    assert no_left_overs(job), job.left_overs()
    with sqlite3.connect(tmp_path / "outputs" / "mlflow.db") as store:
        tags = "select value from tags where run_uuid = ? and key = 'mlflow.parentRunId'"
        assert store.execute(tags, [job.result["mlflow_run_id"]]).fetchone() == (killed,)


def check_told(job, failed, restarting):
    """The screen says what happened in the words of the record, and once."""
    told = [str(sentence(event)) for event in (failed, restarting, *job.events("recovered"))]
    assert told[0].startswith(f"rank 0 on host {os.uname().nodename} was killed by SIGKILL")
    assert told[1].startswith("attempt 2 goes on from step 10 with 2 workers; ")
    assert [line for line in job.screen.splitlines() if line in told] == told


def saved_files(job):
    """Hashes of the files of the last checkpoint."""
    manifest = json.loads((job.run / job.result["checkpoint"] / "manifest.json").read_bytes())
    return manifest["files"]


def test_an_exception_in_one_rank_is_told_with_its_remedy_and_its_traceback_is_in_the_log(
    tmp_path, corpus
):
    """A file takes the place of the folder for checkpoints; each rank says so for itself."""
    job = Job(tmp_path, corpus, "resources=cpu2", "tracking=none")
    job.until(lambda: job.run.is_dir() and (job.run / "logs").is_dir())
    (job.run / "checkpoints").write_text("in the way")
    assert job.wait() == 1, job.screen
    error = job.result["error"]
    assert (job.result["status"], job.result["checkpoint"]) == ("failed", None)
    assert job.result["attempts"] == 2, "the same error at the same step again ends it"
    assert job.events("gave_up")[0]["cause"] == "user_error"
    assert "Not a directory" in error["message"]
    assert "Traceback" not in job.screen
    log = job.run / "logs" / f"rank-{error['rank']}.log"
    assert "checkpoint/writing.py" in log.read_text()
    assert no_left_overs(job), job.left_overs()


def test_diverging_alone_in_this_process_leaves_a_strict_result_and_the_traceback(tmp_path, corpus):
    """Validation is NaN after step 1, and step 2 has no loss."""
    wild = ("optim.warmup_steps=0", "optim.learning_rate=1e12", "optim.gradient_clip=null")
    job = Job(
        tmp_path,
        corpus,
        "resources=inline",
        "engine=torch",
        "tracking=none",
        *wild,
        "stage.evaluate_every=1",
    )
    assert job.wait() == 1, job.screen
    assert job.result["error"]["class"] == "numerical"
    assert "NaN" not in (job.run / "result.json").read_text().replace('"NaN"', "")
    assert "NonFiniteLoss" in (job.run / "logs" / "rank-0.log").read_text()


def test_a_prompt_that_leaves_no_room_is_refused_before_training(tmp_path, corpus):
    prompt = f"stage.prompts=['{'long ' * 40}']"
    job = Job(tmp_path, corpus, "resources=inline", "engine=torch", "tracking=none", prompt)
    assert job.wait() != 0
    assert "stage.prompts" in job.screen
    assert "data.sequence_length=32" in job.screen
    assert "step 1/" not in job.screen


def test_a_job_goes_on_without_anybody_who_reads_its_output(tmp_path, corpus):
    words = (*RUN, *TINY, f"data.path={corpus}", "resources=inline", "engine=torch")
    with subprocess.Popen(
        [*words, "tracking=none", "stage.evaluate_every=1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")
    result = json.loads((tmp_path / "outputs" / "latest" / "result.json").read_text())
    assert (result["status"], result["steps"]) == ("done", STEPS)


def test_a_lost_terminal_saves_a_checkpoint_as_ctrl_c_does(tmp_path, corpus):
    long = ("stage.steps=3000", "optim.schedule=constant", "tracking=none")
    job = Job(tmp_path, corpus, "resources=cpu2", *long)
    job.until(lambda: job.steps_done() > 3)
    os.killpg(job.process.pid, signal.SIGHUP)
    assert job.wait() == 130, job.screen
    result = job.result
    assert result["status"] == "interrupted"
    assert Path(result["checkpoint"]).name == f"step_{result['steps']:08d}"
    assert no_left_overs(job), job.left_overs()


def test_ctrl_c_while_the_data_is_prepared_ends_quietly(tmp_path, corpus):
    cache = str(tmp_path / "cache")
    job = Job(tmp_path, corpus, "resources=inline", "tracking=none", ORCHESTRATE_CACHE=cache)
    job.until(lambda: "reading text" in job.screen)
    job.interrupt()
    assert job.wait() == 3, job.screen
    assert "Traceback" not in job.screen
