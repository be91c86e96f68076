import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import VERBS
from orchestrator.compose import completion
from tests.orchestrator.typed import refused, typed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """PATH with an `orchestrate` of this source tree in front."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "orchestrate"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m orchestrator "$@"\n')
    script.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


# What bash itself does on TAB: it sets these variables and calls the registered function.
TAB = """
eval "$(orchestrate -sc install=bash)"
complete -p orchestrate >&2
tab() {
  COMP_LINE="$1"; COMP_POINT=${#COMP_LINE}
  COMP_WORDS=($COMP_LINE); [[ "$COMP_LINE" == *" " ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
  _orchestrate; echo "${COMPREPLY[@]}"
}
while IFS= read -r line; do tab "$line"; done
"""


def test_bash_completes_verbs_groups_choices_and_settings(path):
    lines = [
        "orchestrate ru",
        "orchestrate ",
        "orchestrate run model=",
        "orchestrate run  model=gpt_tiny stage.st",
        "orchestrate run -m resources=g",
        "orchestrate run --mul",
    ]
    done = subprocess.run(
        ["bash", "--norc", "-c", TAB],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        check=True,
    )
    assert "-F _orchestrate orchestrate" in done.stderr
    verbs, every, models, steps, resources, flags = done.stdout.splitlines()
    assert verbs == "run runs"
    assert {*VERBS, "--help", "--version"} == set(every.split())
    assert {"model=gpt_tiny", "model=llama_8b"} <= set(models.split())
    assert "_defaults" not in models
    assert steps == "stage.steps="
    assert resources.split() == ["resources=gpu1", "resources=gpu64", "resources=gpu8"]
    assert flags == "--multirun"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("orchestrate cache pr", "prune"),
        ("orchestrate data insp", "inspect"),
        ("orchestrate data prepare --w", "--workers"),
        ("orchestrate data explain 3 data.pa", "data.path= data.packing="),
        ("orchestrate runs --", "--help --best --limit --json --outputs"),
        ("orchestrate show outputs/2", "outputs/2026-01-02/run"),
        ("orchestrate generate ", "outputs/2026-01-02/run"),
        ("orchestrate run stage=classify stage.la", "stage.label="),
        ("orchestrate run stage=pretrain stage.la", ""),
        ("orchestrate run model=mlp model.hid", "model.hidden="),
        ("orchestrate run model.bias=", "model.bias=true model.bias=false"),
        ("orchestrate run resume=", "resume=outputs/2026-01-02/run"),
        ("orchestrate run stage=nothing model.hid", ""),
        ("orchestrate run --info ", ""),
        ("orchestrate nothing x", ""),
    ],
)
def test_every_verb_completes_words_of_its_own(line, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path("outputs/2026-01-02/run")
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    monkeypatch.setenv("COMP_LINE", line)
    answer = typed("-sc", "query")
    assert (answer.code, answer.out.strip(), answer.err) == (0, words, "")


@pytest.mark.parametrize("name", [n for n, verb in VERBS.items() if verb.takes != "config"])
def test_every_verb_says_what_it_does_and_what_each_argument_means(name):
    answer = typed(name, "--help")
    assert answer.code == 0
    assert answer.out.startswith(f"usage: orchestrate {name}")
    parser = importlib.import_module(f"orchestrator.verbs.{VERBS[name].module}").parser()
    assert parser.description
    for action in parser._actions:
        assert action.help or action.choices, f"{name} {action.dest} has no meaning"


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_shell_has_a_script(shell):
    answer = typed("-sc", f"install={shell}")
    assert answer.code == 0
    assert "orchestrate -sc query" in answer.out


def test_a_shell_that_is_not_known_is_refused_with_those_that_are():
    assert "install=bash, zsh, fish" in refused("-sc", "install=csh")


def test_words_end_at_the_cursor():
    assert completion.split("orchestrate run model=", 13) == ["orchestrate", "r"]
    assert completion.split("orchestrate run ", None) == ["orchestrate", "run", ""]
    assert completion.split("", None) == [""]
