"""What the README and the help print: every command is understood, and every table renders."""

import importlib
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from orchestrator.cli import VERBS, usage
from orchestrator.compose import flags, grammar, manual, presets
from orchestrator.compose.composer import Composer
from orchestrator.compose.jobs import composed
from tests.orchestrator.typed import trained

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands():
    """Each `orchestrate ...` in code of the README, and those that the help shows."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(orchestrate [^`]+)`", README)
    lines += [line.partition("   ")[0] for line in usage().splitlines()[2:]]
    lines += [re.split(r" {2,}", line.strip())[0] for line in manual.TAIL.splitlines()]
    found = {line.partition(" # ")[0].strip() for line in lines if line.startswith("orchestrate ")}
    return sorted(found - {"orchestrate VERB [overrides] [flags]"})


@pytest.fixture(scope="module")
def composer(corpus, tmp_path_factory):
    """In a folder with a run."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "outputs").symlink_to(trained(corpus).parents[1])
    with pytest.MonkeyPatch.context() as patch, Composer() as ready:
        patch.chdir(folder)
        yield ready


@pytest.mark.parametrize("command", commands())
def test_every_command_that_is_printed_is_understood(command, composer):
    _, verb, *words = shlex.split(command)
    if verb.startswith("-"):
        assert verb in ("--help", "-sc")
        return
    if words == ["--help"]:
        words = []
    overrides = words
    if VERBS[verb].takes != "config":
        parser = importlib.import_module(f"orchestrator.verbs.{VERBS[verb].module}").parser()
        overrides = (
            [word for word in words if "=" in word]
            if verb in ("data", "describe", "submit")
            else []
        )
        parser.parse_args([word for word in words if word not in overrides])
    own = (*VERBS[verb].flags, *VERBS[verb].words)
    asked = flags.parse([word for word in overrides if word.partition("=")[0] not in own])
    if asked.config_dir is not None:
        return  # a folder of the reader's
    if (of_sweep := presets.expanded(asked.overrides, None)) is not None:
        assert len(of_sweep) > 1 or any(
            len(grammar.read(word, composer.loader)) > 1 for word in of_sweep[0]
        )
        return  # tests/orchestrator/test_sweep.py composes its jobs
    every = [grammar.read(word, composer.loader) for word in asked.overrides]
    assert all(len(values) == 1 or asked.multirun for values in every)
    composed(composer, asked.overrides)


def test_every_table_of_the_readme_renders_whole():
    tokens = MarkdownIt().enable("table").parse(README)
    code = "".join(token.content for token in tokens if token.type == "fence").splitlines()
    written = [line for line in README.splitlines() if line.startswith("|")]
    rows = len(written) - sum(line.startswith("|") for line in code)
    rules = sum("-" in line and set(line) <= set("|-") for line in written)
    assert sum(token.type == "tr_open" for token in tokens) == rows - rules > 10
    cells = sum(token.type in ("td_open", "th_open") for token in tokens)
    assert cells == 3 * (rows - rules)
    empty = [
        before.map
        for before, cell in pairwise(tokens)
        if before.type == "td_open" and not cell.content
    ]
    assert empty == [], "a row with a | too few or too many loses cells"
