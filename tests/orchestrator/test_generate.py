import io
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
        (["--min-p", "0"], "--min-p=0.0 must be above 0 and at most 1"),
        (["--repetition-penalty", "0"], "--repetition-penalty=0.0 must be above 0 and finite"),
        (["--stop", ""], "--stop='' would end every text before it begins"),
        (["--stop-token", "no such"], "--stop-token='no such' is 7 tokens of this tokenizer"),
        (["--stop-token", "257"], "--stop-token=257 must be below 257"),
        (["--beams", "2", "--count", "3"], "--count=3 is more than --beams=2 can find"),
        (["--beams", "2", "--top-k", "3"], "--top-k=3 has no effect: --beams=2 searches"),
        (["--length-penalty", "2"], "--length-penalty has no effect without --beams"),
        (["--explain", "--count", "2"], "--explain shows one text"),
    ],
)
def test_a_number_that_cannot_work_is_refused(run, words, said):
    assert said in refused("generate", str(run), "--prompt", "The ", *words)


def test_a_prompt_that_fills_the_model_is_refused_with_what_fits(run):
    said = refused("generate", str(run), "--prompt", "x" * 32)
    assert "--prompt has 33 tokens" in said
    assert "shorten it to 31 tokens or less" in said
    assert typed("generate", str(run), "--prompt", "x" * 30).code == 0


def test_a_text_is_the_same_alone_and_beside_longer_and_shorter_ones(run):
    words = ["--max-new-tokens", "9", "--seed", "5"]
    prompts = ["The model", "x", "The seed holds the"]
    together = typed("generate", str(run), *words, *(w for p in prompts for w in ("--prompt", p)))
    assert together.code == 0, together
    alone = [typed("generate", str(run), *words, "--prompt", prompt).out for prompt in prompts]
    assert together.out == "\n---\n".join(alone)
    assert typed("generate", str(run), *words, "--prompt", "x", "--count", "2").out.startswith(
        alone[1]
    )


def test_a_text_ends_before_its_stop_string_and_with_its_stop_token(run):
    words = ["generate", str(run), "--prompt", "The model", "--max-new-tokens", "20"]
    free = typed(*words).out.rstrip("\n")
    written = free.removeprefix("The model")
    stop = written[6:9]
    assert typed(*words, "--stop", stop).out == f"The model{written[: written.find(stop)]}\n"
    if ord(written[4]) < 128:  # a token of this tokenizer is a byte
        ended = typed(*words, "--stop-token", str(ord(written[4]))).out
        assert ended == f"The model{written[: written.find(written[4])]}\n"


def test_log_probabilities_belong_to_the_tokens_and_beams_find_likelier_ones(run):
    words = ["generate", str(run), "--prompt", "The ", "--max-new-tokens", "4", "--logprobs"]
    greedy = typed(*words, "--temperature", "0").out.splitlines()
    *tokens, total = greedy[-5:]
    parts = [float(line.split()[0]) for line in tokens]
    assert float(total.split()[0]) == pytest.approx(sum(parts), abs=0.003)
    searched = typed(*words, "--beams", "4", "--count", "2")
    assert searched.code == 0, searched
    best = [float(line.split()[0]) for line in searched.out.splitlines() if "log-prob" in line]
    assert best == sorted(best, reverse=True)
    assert best[0] >= sum(parts) - 0.003


def test_an_explanation_ends_in_the_text_that_is_written_without_it(run):
    words = ["generate", str(run), "--prompt", "The ", "--max-new-tokens", "3", "--seed", "2"]
    explained = typed(*words, "--explain", "--top-k", "9")
    assert explained.code == 0, explained
    assert explained.out.endswith(typed(*words, "--top-k", "9").out)
    for told in ("into 32 numbers", "each of the 257 output vectors", "9 of 257 tokens are left"):
        assert explained.out.count(told) == 3
    greedy = typed(*words[:-2], "--temperature", "0", "--explain").out
    assert "temperature 0 takes the likeliest" in greedy


def test_an_empty_standard_input_is_refused(run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "the prompt, read from standard input, is empty" in refused("generate", str(run))


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
