import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.orchestrator.typed import refused, trained, typed

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(corpus, tmp_path, monkeypatch):
    folder = trained(corpus)
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_run_its_checkpoint_and_the_latest_link_write_the_same_text(run):
    words = ["--prompt", "The model", "--max-new-tokens", "8", "--seed", "3"]
    by_run = typed("generate", str(run), *words)
    by_checkpoint = typed("generate", str(run / "checkpoints" / "step_00000002"), *words)
    Path("outputs").mkdir()
    Path("outputs/latest").symlink_to(run)
    by_default = typed("generate", *words)
    assert by_run.code == 0
    assert by_run.out.startswith("The model")
    assert by_run == by_checkpoint == by_default
    assert by_run != typed("generate", *words[:-1], "4")


def test_greedy_texts_are_all_alike(run):
    answer = typed(
        "generate", str(run), "--prompt", "The ", "--temperature", "0", "--count", "3",
        "--max-new-tokens", "4",
    )  # fmt: skip
    texts = answer.out.rstrip("\n").split("\n\n---\n")
    assert len(texts) == 3
    assert len(set(texts)) == 1


def test_without_a_number_it_writes_what_fits(run):
    # 32 positions, of which the start of text and "The " take 5; a token is a byte.
    answer = typed("generate", str(run), "--prompt", "The ", "--temperature", "0")
    assert answer.code == 0
    assert len(answer.out.strip("\n")) <= 31


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-new-tokens", "30"], "try --max-new-tokens=27"),
        (["--max-new-tokens", "0"], "--max-new-tokens=0 must be at least 1"),
        (["--count", "0"], "--count=0 must be at least 1; try --count=1"),
        (["--temperature", "-1"], "--temperature=-1.0 must be at least 0 and finite"),
        (["--temperature", "nan"], "--temperature=nan must be at least 0 and finite"),
        (["--top-k", "0"], "--top-k=0 must be at least 1"),
        (["--top-p", "1.5"], "--top-p=1.5 must be above 0 and at most 1"),
        (["--top-p", "nan"], "--top-p=nan must be above 0 and at most 1"),
        (["--temperature", "0", "--top-p", "0.9"], "--top-p=0.9 has no effect: --temperature=0"),
        (["--seed", "-1"], "--seed=-1 must be at least 0"),
    ],
)
def test_a_number_that_cannot_work_is_refused(run, words, said):
    assert said in refused("generate", str(run), "--prompt", "The ", *words)


def test_a_prompt_that_fills_the_model_is_refused_with_what_fits(run):
    said = refused("generate", str(run), "--prompt", "x" * 32)
    assert "--prompt has 33 tokens" in said
    assert "shorten it to 31 tokens or less" in said
    assert typed("generate", str(run), "--prompt", "x" * 30).code == 0


def test_before_the_first_run_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refused("generate", "--prompt", "x")
    assert said.startswith("outputs/latest does not exist; run `orchestrate run` first")


def test_a_folder_without_a_checkpoint_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "/nonexistent does not exist" in refused("generate", "/nonexistent", "--prompt", "x")
    assert "holds no valid checkpoint" in refused("generate", ".", "--prompt", "x")


def test_standard_input_is_the_prompt_and_neither_ray_nor_deepspeed_is_imported(run):
    code = (
        "import sys; from orchestrator import cli\n"
        "try: cli.main()\n"
        "except SystemExit as left: assert left.code == 0, left.code\n"
        "assert not {'ray', 'deepspeed', 'mlflow', 'hydra'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "generate", str(run), "--max-new-tokens", "3"],
        input="The rank",
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The rank")
    assert done.stderr == ""
