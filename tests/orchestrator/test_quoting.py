"""What is printed for pasting means the same path to the shell, and then to Hydra."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from data.messages import override


@pytest.mark.parametrize(
    "path",
    [
        *("outputs/2026-01-01/run", "job%20one", "a b", "a [b] {c}", "it's", 'say "x"', "a,b=c"),
        *("\u00e9#(x)", "back\\slash", "end\\", 'b\\"q', "~/x", "*?", "-x", ""),
    ],
)
def test_a_path_comes_back_from_the_command_that_is_printed(path):
    (word,) = shlex.split(override("resume", path))
    assert str(OverridesParser.create().parse_override(word).value()) == path
