"""Keeps a process from real-time priority, which SVT-AV1 takes for itself wherever it may.

Where it runs as root, as in most containers, SVT-AV1 puts the thread that opens it and all of its own into SCHED_FIFO
99: before the core, the edge and everything else on the machine, whatever the nice level, and every child process
inherits it.
"""

from __future__ import annotations

import ctypes
import resource
import sys

_CAP_SYS_NICE = 23
_VERSION_3 = 0x20080522
"""Of capset(2): two sets of 32 bits each for effective, permitted and inheritable."""


def forbid() -> None:
    """For this process and its life; only Linux has it. Programs that it starts as root may again."""
    if sys.platform != "linux":
        return
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) != 0:
        return  # a seccomp filter; it then forbids what matters, too
    for index in range(3):
        sets[index] &= ~(1 << _CAP_SYS_NICE)
    libc.capset(header, sets)
