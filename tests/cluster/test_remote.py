"""Hosts of a list: what ssh is asked to do, by an `ssh` that is ours and runs it here."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from cluster.daemons import remote
from cluster.daemons.home import HomeRefused, home, write_private

# Takes options and a host as ssh does; `away` can't be reached, and what is asked for is noted.
SSH = """#!{python}
import json, sys
*options, host, command = sys.argv[1:]
with open({noted!r}, "a") as file:
    print(json.dumps([options, host, command, sys.stdin.read()]), file=file)
if host == "away":
    sys.exit("ssh: Could not resolve hostname away\\nssh: connect: No route to host")
"""


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """What ssh was asked for, one line of JSON each."""
    monkeypatch.setenv("ORCHESTRATE_STATE", str(tmp_path / "state"))
    programs, noted = tmp_path / "bin", tmp_path / "noted"
    programs.mkdir()
    (programs / "ssh").write_text(SSH.format(python=sys.executable, noted=str(noted)))
    (programs / "ssh").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return noted


def test_a_token_goes_over_standard_input_and_stands_on_no_command_line(noted):
    own = home()
    write_private(own.ray_token, "s3cret")
    assert remote.join(own, ["me@one", "away"], "10.0.0.1:6379") == {
        "away": "ssh: connect: No route to host"
    }
    asked = [json.loads(line) for line in noted.read_text().splitlines()]
    for options, host, command, said in sorted(asked, key=lambda one: one[1]):
        assert "BatchMode=yes" in options, "nobody is there to type a password"
        assert said == "s3cret"
        assert "s3cret" not in command
        assert f"ORCHESTRATE_STATE={own.folder}/hosts/{host.removeprefix('me@')} " in command
        assert command.endswith("orchestrator up --join 10.0.0.1:6379")
    assert remote.leave(own, ["me@one"]) == {}
    assert json.loads(noted.read_text().splitlines()[-1])[2].endswith("orchestrator down")


def test_hosts_are_named_in_a_list_or_in_a_file(tmp_path):
    assert remote.hosts_of("a,me@b.c,10.0.0.2") == ["a", "me@b.c", "10.0.0.2"]
    file = Path(tmp_path / "hosts")
    file.write_text("# ours\na\n\nme@b  # the second\n")
    assert remote.hosts_of(str(file)) == ["a", "me@b"]
    file.write_text("# none\n")
    for wrong, why in (
        ("a,-oProxyCommand=x", "'-oProxyCommand=x' is no host"),
        ("a;rm", "no host"),
        ("me@-x", "no host"),
        ("a,a", "comes twice"),
        ("", "no host"),
        (str(file), "there is no host in it"),
    ):
        with pytest.raises(HomeRefused, match=why):
            remote.hosts_of(wrong)
