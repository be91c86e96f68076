"""Ports and interfaces of this host."""

from __future__ import annotations

import ipaddress
import os
import random
import socket

import psutil


def free_port() -> int:
    """A TCP port that nobody listens on here.

    Taken from below the ephemeral range (32768 and up), where the kernel puts everybody
    else's connections, so that it is still free when torch binds it.
    """
    for port in random.SystemRandom().sample(range(15000, 32000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise RuntimeError("none of 100 TCP ports between 15000 and 32000 is free")


def takes_connections(host: str, port: int, limit_s: float = 1.0) -> bool:
    """Whether somebody listens at an address, as far as this host can see within the limit."""
    try:
        socket.create_connection((host, port), timeout=limit_s).close()
    except OSError:
        return False
    return True


def host_ip() -> str:
    """The address at which other hosts of the cluster reach this one, as Ray knows it."""
    import ray

    ip: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return ip


def gloo_interface(ip: str) -> str | None:
    """The interface that gloo must be told, if left alone it would offer peers a loopback address.

    Gloo offers the address that this host's name resolves to. On many hosts (Debian's /etc/hosts)
    that is 127.0.1.1, which no other host can reach.

    Args:
        ip: the address at which other hosts reach this one.

    Returns:
        None if the name resolves well, if the user has set GLOO_SOCKET_IFNAME, or if no interface
        has that address.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ or not _is_loopback(socket.gethostname()):
        return None
    owners = (
        str(name)
        for name, addresses in psutil.net_if_addrs().items()
        if any(address.address == ip for address in addresses)
    )
    return next(owners, None)


def _is_loopback(host: str) -> bool:
    """Whether a name resolves to a loopback address, or to none, which gloo takes for one."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return True
    return ipaddress.ip_address(found[0][4][0]).is_loopback
