"""Daemons outlive who started them, come back when they die, and end together; real processes."""

import os
import signal
import sys
import time

import psutil
import pytest

from cluster.daemons import control
from cluster.daemons.daemon import Daemon, marked
from cluster.daemons.home import HomeRefused, home
from cluster.host.network import free_port

# A server that answers, with a child that would outlive it.
SERVER = (
    "import http.server, socketserver, subprocess, sys;"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], process_group=0);"
    "socketserver.TCPServer.allow_reuse_address = True;"
    "socketserver.TCPServer(('127.0.0.1', int(sys.argv[1])),"
    " http.server.BaseHTTPRequestHandler).serve_forever()"
)


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATE_STATE", str(tmp_path / "state"))
    here = home()
    yield here
    control.stop(here)


def daemon(name="one"):
    port = free_port()
    return Daemon(name, (sys.executable, "-c", SERVER, str(port)), f"http://127.0.0.1:{port}/")


def until(true, seconds=20):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_whatever_is_killed_comes_back_and_all_of_it_ends_together(own):
    said = []
    control.start(own, [daemon("one"), daemon("two")], where="here")
    control.wait(own, said.append, 30)
    assert sorted(said) == ["one answers", "two answers"]
    facts = control.look(own)
    assert facts.plan["where"] == "here"
    first = facts.daemons

    control.start(own, [daemon("three")])
    assert control.look(own).plan == facts.plan, "a second start changes nothing"

    os.kill(first["one"].pid, signal.SIGKILL)
    until(lambda: control.look(own).daemons["one"].restarts == 1)
    control.wait(own, said.append, 30)
    now = control.look(own).daemons
    assert now["one"].pid != first["one"].pid
    assert "SIGKILL" in now["one"].ended
    assert now["two"] == first["two"], "the others go on"
    assert len(marked(own, "one")) == 2, "nothing of the one before is left"

    state = psutil.Process(next(p.pid for p in marked(own, "supervisor")))
    os.kill(state.pid, signal.SIGKILL)
    until(lambda: not control.look(own).supervised)
    assert not control.look(own).up
    os.kill(now["two"].pid, signal.SIGKILL)
    assert control.mend(own)
    assert not control.mend(own)
    control.wait(own, said.append, 30)
    mended = control.look(own).daemons
    assert mended["one"].pid == now["one"].pid, "what lives is taken over"
    assert mended["two"].pid != now["two"].pid

    assert control.stop(own) == 5
    assert marked(own) == []
    assert control.look(own).plan == {}
    assert not control.mend(own), "what was ended stays so"


def test_what_does_not_start_is_told_with_its_last_words(own):
    words = (sys.executable, "-c", "raise SystemExit('the port is taken')")
    control.start(own, [Daemon("bad", words, "http://127.0.0.1:9/")])
    with pytest.raises(control.NotUp, match=r"(?s)bad does not answer.*the port is taken"):
        control.wait(own, print, 30)


def test_the_folder_is_the_users_alone(own, tmp_path, monkeypatch):
    own.folder.chmod(0o755)
    assert home().folder.stat().st_mode & 0o777 == 0o700
    path = own.admit("ann")
    assert path.stat().st_mode & 0o777 == 0o600
    assert own.admit("ann").read_text() == path.read_text()
    assert list(own.users().values()) == ["ann"]
    assert path.read_text() not in own.tokens.read_text()
    for name in ("", "../ann", "a b", "a/b", "-a"):
        with pytest.raises(HomeRefused, match="must begin with"):
            own.admit(name)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(HomeRefused, match=r"belongs to \w+, and you are uid12345"):
        home()
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ORCHESTRATE_STATE", str(tmp_path / "file" / "state"))
    with pytest.raises(HomeRefused, match=r"ORCHESTRATE_STATE=.*can't be used: Not a directory"):
        home()
