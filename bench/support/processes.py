"""What processes took so far, and a port for one; for bench scripts."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """One that nobody has now, for TCP or (`SOCK_DGRAM`) UDP."""
    with socket.socket(type=kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def children(pid: int) -> list[int]:
    """Process ids of `pid` and everything below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += children(int(child))
    return found


def cpu_s(pids: list[int]) -> float:
    """User and system time of the processes so far, in seconds; one that has ended counts nothing."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICK


def usage_s(who: int) -> float:
    """The same of this process (`resource.RUSAGE_SELF`), or of all that it has waited for (`RUSAGE_CHILDREN`)."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime
