"""Who holds a port of this machine: for the message that it is taken. Linux, from /proc; elsewhere nobody is known."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_LISTENING = "0A"
"""TCP_LISTEN in the column `st` of /proc/net/tcp (proc_net_tcp.txt of the kernel's documentation)."""


def holder(port: int, *, udp: bool = False, proc: Path = Path("/proc")) -> str:
    """`process 4711 (nginx)`; empty where nobody holds it, or it is not for us to see."""
    inodes = set(_inodes(port, udp, proc))
    if not inodes:
        return ""
    for process in sorted((p for p in proc.glob("[0-9]*")), key=lambda p: int(p.name)):
        try:
            links = (os.readlink(link) for link in (process / "fd").iterdir())
            if any(link.startswith("socket:[") and link[8:-1] in inodes for link in links):
                return f"process {process.name} ({(process / 'comm').read_text().strip()})"
        except OSError:
            continue  # another user's, or gone
    return "a process of another user"


def _inodes(port: int, udp: bool, proc: Path) -> Iterator[str]:
    for table in ("udp", "udp6") if udp else ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if int(words[1].rpartition(":")[2], 16) == port and (udp or words[3] == _LISTENING):
                yield words[9]
