import json
import os
import pty
import shutil
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from models.configs import GPTConfig
from orchestrator.config import JobConfig
from orchestrator.record import runfolder
from orchestrator.record.journal import Journal
from orchestrator.stages.pretrain.stage import PretrainConfig
from tests.orchestrator.typed import refused, trained, typed


@pytest.fixture
def outputs(corpus, tmp_path, monkeypatch):
    """Two runs that ended, one that goes on, and one whose driver died."""
    monkeypatch.chdir(tmp_path)
    source = trained(corpus)
    first = Path("outputs") / "2026-01-02" / "03-04-05-pretrain-aaa111"
    shutil.copytree(source, first)
    bad = json.loads((first / "result.json").read_text())
    bad["metrics"]["validation/loss"] += 1
    bad |= {"status": "failed", "error": {"message": "\x1b[31mred", "remedy": "less"}}
    second = first.with_name("03-04-06-pretrain-aab222")
    shutil.copytree(source, second)
    (second / "result.json").write_text(json.dumps(bad))
    config = JobConfig(
        stage=PretrainConfig(), model=GPTConfig(max_positions=256), outputs="outputs"
    )
    with (
        Journal(runfolder.create(config, [])) as living,
        Journal(runfolder.create(config, [])) as dead,
    ):
        for journal in (living, dead):
            journal.event("started", host=socket.gethostname(), pid=os.getpid())
        dead.close()
        yield Path("outputs")


def rows(*words):
    answer = typed("runs", *words)
    assert answer.code == 0, answer
    return [line.split() for line in answer.out.splitlines()[1:-1]]


def test_runs_are_listed_newest_first_with_their_results_and_chosen_by_settings(outputs):
    assert [row[0] for row in rows()[2:]] == ["aab222", "aaa111"]
    assert [row[6] for row in rows()[:2]] == ["lost", "running"], "of one second, too"
    result = json.loads((outputs / "2026-01-02/03-04-05-pretrain-aaa111/result.json").read_text())
    bits = f"{result['metrics']['validation/bits_per_byte']:.4g}"
    assert rows()[-1] == [
        *("aaa111", "2026-01-02", "03:04", "pretrain", "gpt", "1x32", "done"),
        *("bits_per_byte", bits, "2/2"),
    ]
    assert [row[0] for row in rows("status=failed")] == ["aab222"]
    assert [row[0] for row in rows("stage.steps=2", "stage=pretrain")] == ["aab222", "aaa111"]
    assert rows("stage.steps=3") == []
    assert rows("model.bias=false", "status=done")[0][0] == "aaa111"
    assert "and 3 more; --limit=4 shows all" in typed("runs", "--limit", "1").out


def test_the_best_run_is_first_and_a_metric_nobody_measured_is_refused(outputs):
    assert [row[0] for row in rows("--best", "loss")] == ["aaa111", "aab222"]
    plain = json.loads(typed("runs", "--best", "validation/loss", "--json").out)
    assert [run["id"] for run in plain] == ["aaa111", "aab222"]
    assert plain[0]["metrics"]["validation/loss"] < plain[1]["metrics"]["validation/loss"]
    assert "none of 4 runs has measured it" in refused("runs", "--best=accuracy")
    assert "did you mean validation/loss" in refused("runs", "--best=validation/los")
    assert "give SETTING=VALUE" in refused("runs", "pretrain")
    assert "there is no such folder" in refused("runs", "--outputs=nowhere")


def test_one_screen_shows_what_a_run_was_what_it_reached_and_how_to_go_on(outputs):
    answer = typed("show", "aaa")
    assert answer.code == 0, answer
    folder = "outputs/2026-01-02/03-04-05-pretrain-aaa111"
    for words in (
        f"{folder}\npretrain, gpt 1x32: done",
        "this model  ",
        "gzip -9",
        "model.width=32  (default 192)",
        "tokenizer.kind=bytes  (default bpe)",
        "step_00000002  ",
        f"orchestrate generate {folder}",
        f"orchestrate run stage=evaluate checkpoint={folder}",
    ):
        assert words in answer.out
    assert "stage.prompts" not in answer.out, "what is as always is not told"
    assert len(answer.out.splitlines()) < 60
    failed = typed("show", f"{outputs}/2026-01-02/03-04-06-pretrain-aab222").out
    assert "error: ?[31mred" in failed, "a file of somebody else's does not write to the terminal"
    assert "orchestrate run resume=outputs/2026-01-02/03-04-06-pretrain-aab222" in failed


def test_a_run_is_found_by_folder_link_or_the_beginning_of_its_id(outputs):
    assert typed("show").out.startswith("outputs/20")
    assert typed("show", "aab").out.startswith("outputs/2026-01-02/03-04-06-pretrain-aab222")
    said = refused("show", "nothing")
    assert "nothing is no run folder and no id of a run in outputs" in said
    assert "pretrain-aaa111" in refused("show", "outputs/2026-01-02/03-04-05-pretrain-aaa11")


def test_broken_files_of_a_run_leave_gaps_and_no_traceback(outputs):
    folder = outputs / "2026-01-02/03-04-05-pretrain-aaa111"
    (folder / "config.yaml").write_text("stage: {name: ${oc.env:HOME}}\nmodel: " + "[" * 5000)
    (folder / "result.json").write_text("[" * 100_000)
    (folder / "events.jsonl").write_text("garbage\nmore\n")
    assert rows()[-1][0] == "aaa111"
    (folder / "config.yaml").write_text("stage: {name: '${oc.env:HOME}'}\n")
    assert rows()[-1][3] == "${oc.env:HOME}"


def test_listing_runs_imports_nothing_heavy():
    code = (
        "import sys; from orchestrator.verbs import cache, runs, show\n"
        "heavy = {'torch', 'hydra', 'omegaconf', 'mlflow', 'ray', 'pyarrow', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("words", [("runs",), ("show", "aaa111")])
def test_what_is_listed_fits_the_terminal_word_by_word(outputs, words):
    driver, terminal = pty.openpty()
    command = [sys.executable, "-m", "orchestrator", *words]
    environment = {**os.environ, "COLUMNS": "60", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(command, stdout=terminal, env=environment, check=True)
    os.close(terminal)
    shown = os.read(driver, 100_000).decode()
    os.close(driver)
    told = typed(*words).out
    assert shown.split() == told.split()
    assert max(map(len, told.splitlines())) > 60
    # A path or a hash that is wider stays whole.
    assert all(len(line) <= 60 or " " not in line.strip() for line in shown.splitlines())


def test_a_config_of_somebody_else_that_stands_for_a_huge_one_is_left_open(tmp_path):
    folder = tmp_path / "2026-01-01" / "01-01-01-pretrain-aaa111"
    folder.mkdir(parents=True)
    lines = ["a: &a {x: 1, y: 2}"]
    for before, name in pairwise("abcdefghijklmnopqrstuvwxyz"):
        lines.append(f"{name}: &{name} {{x: *{before}, y: *{before}}}")
    (folder / "config.yaml").write_text("\n".join(lines))
    answer = typed("runs", f"--outputs={tmp_path}")
    assert answer.code == 0, answer
    assert "aaa111" in answer.out
