"""Ports for servers that tests start as processes of their own, and that have to be told one."""

from __future__ import annotations

import contextlib
import os
import random
import socket

FIRST, EACH = 12_000, 2_000
"""All stay below the ports that the kernel gives to outgoing connections (32768 and up on Linux): one of those, free a
moment ago, may be anybody's by the time that the server binds it. Tests that run at once have 2000 ports each."""


def free_port(count: int = 1) -> int:
    """The first of `count` neighbouring ports that nobody has, neither TCP nor UDP."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = FIRST + worker % 10 * EACH
    choice = random.SystemRandom()
    while True:
        low = choice.randrange(first, first + EACH - count)
        if all(_free(port) for port in range(low, low + count)):
            return low


def _free(port: int) -> bool:
    with contextlib.ExitStack() as stack:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            sock = stack.enter_context(socket.socket(type=kind))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
            try:
                sock.bind(("0.0.0.0", port))
            except OSError:
                return False
    return True
