import json
import shlex
from pathlib import Path

import pytest

from models.configs import MLPConfig
from orchestrator.config import JobConfig
from orchestrator.job.lifecycle import INTERRUPTED
from orchestrator.record.runs import runs
from orchestrator.stages.classify.stage import ClassifyConfig
from orchestrator.verbs import sweep
from tests.orchestrator.typed import on, typed


def test_a_sweep_in_one_process_runs_every_job_and_ends_with_a_table(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("-m", *on(corpus), "stage.steps=2", "stage.sample_tokens=0", "tracking.name=a b,$c")
    answer = typed("run", *words)
    assert answer.code == 0, answer
    second, first = runs(Path("outputs"))
    *lines, compared = answer.out.splitlines()[-4:]
    rows = [line.split(maxsplit=7) for line in lines]
    assert rows[0] == ["job", "status", "result", "parameters", "time", "run", "overrides"]
    for row, run, name in zip(rows[1:], (first, second), (r"a\ b", "$c"), strict=True):
        bits = f"{run.metrics['validation/bits_per_byte']:.4g}"
        assert (row[1], row[2], row[3], row[6]) == ("done", "bits_per_byte", bits, run.id)
        assert row[7] == shlex.join([f"tracking.name={name}"])
        command = json.loads((run.folder / "code.json").read_text())["command"]
        assert command.startswith("orchestrate run -m data=text data.path=")
        assert command.endswith("'tracking.name=a b,$c'"), "it can be pasted"
    picture = Path(compared.split()[-1])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert (picture.parent / "table.txt").read_text().splitlines() == lines


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
    assert sweep.carry_out(jobs, verb, 0.0, starts=True) == exit_code
    said = capsys.readouterr()
    rows = [line.split() for line in said.out.splitlines()[-3:]]
    assert [row[1] for row in rows] == status
    assert [row[-1] for row in rows] == ["seed=0", "seed=1", "seed=2"]
    assert ("error: the disk is full" in said.err) == isinstance(codes[1], Exception)
