import json
import shlex
from pathlib import Path

import pytest

from models.configs import MLPConfig
from orchestrator.compose import compose
from orchestrator.compose.sweeping import Sweeping
from orchestrator.config import JobConfig
from orchestrator.job.codes import INTERRUPTED
from orchestrator.record.runs import runs
from orchestrator.stages.classify.stage import ClassifyConfig
from orchestrator.verbs.sweep import in_order
from orchestrator.verbs.sweep.asked import fill_in
from orchestrator.verbs.sweep.settings import read
from tests.orchestrator.typed import on, refused, trained, typed

ROOT = Path(__file__).parents[2]


def test_a_sweep_in_one_process_runs_every_job_and_ends_with_a_table(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("-m", *on(corpus), "stage.steps=2", "stage.sample_tokens=0", "tracking.name=a b,$c")
    answer = typed("run", *words)
    assert answer.code == 0, answer
    second, first = runs(Path("outputs"))
    rows = [line.split(maxsplit=7) for line in answer.out.splitlines()[-4:-1]]
    assert rows[0] == ["job", "status", "result", "parameters", "time", "run", "overrides"]
    for row, run, name in zip(rows[1:], (first, second), (r"a\ b", "$c"), strict=True):
        bits = f"{run.metrics['validation/bits_per_byte']:.4g}"
        assert (row[1], row[2], row[3], row[6]) == ("done", "bits_per_byte", bits, run.id)
        assert row[7] == shlex.join([f"tracking.name={name}"])
        command = json.loads((run.folder / "code.json").read_text())["command"]
        assert command.startswith("orchestrate run -m data=text data.path=")
        assert command.endswith("'tracking.name=a b,$c'"), "it can be pasted"
    (sweep_folder,) = Path("outputs").glob("*/*-sweep-*")
    told = json.loads((sweep_folder / "sweep.json").read_text())["jobs"]
    assert [job["overrides"][-1] for job in told] == ["tracking.name=a\\ b", "tracking.name=$c"]
    for job, run in zip(told, (first, second), strict=True):
        assert (sweep_folder / job["run"]).resolve() == run.folder.resolve()
        assert job["metrics"] == run.metrics
    assert (sweep_folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert f"sweep folder: {sweep_folder}" in answer.out


@pytest.mark.parametrize("file", sorted((ROOT / "conf" / "sweep").glob("*.yaml")))
def test_every_sweep_of_conf_is_several_jobs_that_compose(file, corpus):
    needs = []
    if file.stem == "replay":  # which text it is to know, and no more of it than fits
        needs = [f"model.weights={trained(corpus)}", "stage.sequence_length=32"]
    assert file.read_text().startswith("# ")
    with Sweeping(None) as composing:
        of_sweep, space = composing.asked([file.stem, *needs])
        asked, jobs = fill_in(space, read(of_sweep), [], None, composing.job)
    assert asked.trials > 1
    assert len(jobs) > 1
    if of_sweep:
        return
    assert len(compose([f"sweep={file.stem}", *needs])) == asked.trials == space.size


def test_what_is_typed_beside_a_sweep_has_the_last_word(tmp_path, monkeypatch):
    jobs = compose(["sweep=logic", "stage.data=logic_xor", "stage.steps=70"])
    assert [(job.stage.data, job.model.hidden) for job, _ in jobs] == [
        ("logic_xor", []),
        ("logic_xor", [8]),
    ]
    assert {job.stage.steps for job, _ in jobs} == {70}
    own = tmp_path / "mine" / "sweep"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# mine\n- stage=classify\n- seed=1,2,3\n")
    (own / "wrong.yaml").write_text("optim: adam\n")
    alternatives = "# both\n- stage=classify\n- [seed=1, seed=2 stage.steps=90]\n- optim=sgd,adam\n"
    (own / "both.yaml").write_text(alternatives)
    several = [job for job, _ in compose(["sweep=both", "-cd", str(own.parent)])]
    assert [(job.seed, job.stage.steps, job.optim.name) for job in several] == [
        *((1, 450, "sgd"), (1, 450, "adam"), (2, 90, "sgd"), (2, 90, "adam"))
    ]
    assert [job.seed for job, _ in compose(["sweep=mine", "-cd", str(own.parent)])] == [1, 2, 3]
    monkeypatch.chdir(tmp_path)
    assert "did you mean logic?" in refused("run", "sweep=logik")
    assert "must be a list of overrides" in refused("run", "sweep=wrong", "-cd", "mine")
    assert "are several sweeps" in refused("run", "sweep=logic", "sweep=optimizers")


@pytest.mark.parametrize(
    ("codes", "exit_code", "status"),
    [
        ((0, 1, 0), 1, ["refused", "refused", "refused"]),
        ((0, ValueError("the disk is full"), 0), 1, ["refused"] * 3),
        ((0, INTERRUPTED, 0), INTERRUPTED, ["refused", "refused", "not"]),
    ],
)
def test_a_failed_job_does_not_stop_the_others_and_an_interrupted_one_does(
    codes, exit_code, status, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    job = JobConfig(stage=ClassifyConfig(), model=MLPConfig())
    left = iter(codes)

    def verb(config, overrides, asked):
        code = next(left)
        if isinstance(code, Exception):
            raise code
        return code

    jobs = [(job, ["stage=classify", f"seed={seed}"]) for seed in range(3)]
    assert in_order.carry_out(jobs, verb, 0.0, starts=True) == exit_code
    said = capsys.readouterr()
    rows = [line.split() for line in said.out.splitlines()[-3:]]
    assert [row[1] for row in rows] == status
    assert [row[-1] for row in rows] == ["seed=0", "seed=1", "seed=2"]
    assert ("error: the disk is full" in said.err) == isinstance(codes[1], Exception)
