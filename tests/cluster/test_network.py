"""Which interface gloo is told, on hosts whose name means something and where it does not."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster.host.network import free_port

ROOT = Path(__file__).parents[2]
TOLD = "import sys; from cluster.host.network import gloo_interface as i; print(i(sys.argv[1]))"


def own_address():
    """An interface of this host with an address that is no loopback, and that address."""
    for name, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return name, address.address
    pytest.skip("this machine has no address but loopback")
    raise AssertionError


def told(hostname, address, **environment):
    """What a process is told on a host of that name (a UTS namespace of its own)."""
    command = 'hostname "$0" && exec "$@"'
    arguments = ["unshare", "--uts", "sh", "-c", command, hostname, sys.executable, "-c", TOLD]
    clean = {name: value for name, value in os.environ.items() if name != "GLOO_SOCKET_IFNAME"}
    done = subprocess.run(
        [*arguments, address],
        cwd=ROOT,
        env={**clean, **environment},
        capture_output=True,
        text=True,
    )
    if "unshare" in done.stderr or "hostname" in done.stderr:
        pytest.skip(f"this machine does not let us name a namespace: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_where_the_name_is_a_loopback_address_or_none_gloo_is_told_the_interface():
    name, address = own_address()
    assert told("localhost", address) == name
    assert told("a-name-that-nobody-knows.invalid", address) == name


def test_where_the_name_is_an_address_others_reach_or_the_user_has_chosen_gloo_is_left_alone():
    _, address = own_address()
    assert told(address, address) == "None"
    assert told("localhost", address, GLOO_SOCKET_IFNAME="chosen") == "None"
    assert told("localhost", "203.0.113.7") == "None"  # an address that is not ours


def test_a_free_port_can_be_listened_on():
    with socket.socket() as server:
        server.bind(("", free_port()))
        server.listen()
