"""A worker process that has imported everything and waits for its orders: it replaces a dead one within a second.

| it is   | because                         | then                                              |
|---------|---------------------------------|---------------------------------------------------|
| coming  | `warm`                          | `warm` on its stdout; it may be taken already     |
| waiting | it said so                      | it costs memory only                              |
| taken   | a worker has died               | its orders are the taker's to send; `warm` again  |
| ended   | killed, or never said anything  | another comes after a pause                       |

It ends with its parent, as workers do: by the kernel's word, or by the end of its stdin.
"""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger(__name__)

WARM_S = 20.0
"""Time for a process to import what a worker needs, on a busy machine."""
AGAIN_S = 1.0
"""Pause before another takes the place of a spare that ended."""


class Spare:
    """See the module. One per pool."""

    def __init__(self, spawn: Callable[[], Awaitable[Process]]) -> None:
        """`spawn` starts `python -m edge`."""
        self._spawn = spawn
        self._keeper: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self._waiting = False

    @property
    def pid(self) -> int:
        """Process id, once it waits for orders; 0 before."""
        process = self._process
        return process.pid if process is not None and self._waiting and process.returncode is None else 0

    def warm(self) -> None:
        """Have one, from soon on."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())

    async def take(self) -> Process | None:
        """The process, also one that has not said `warm` yet; None without one. Who takes it has to end it."""
        keeper, self._keeper = self._keeper, None
        process, self._process = self._process, None
        if keeper is None:
            return None
        keeper.cancel()
        try:
            await asyncio.wait({keeper})
        except asyncio.CancelledError:
            if process is not None and process.returncode is None:
                process.kill()
            raise
        return process if process is not None and process.returncode is None else None

    async def drop(self) -> None:
        """End it."""
        process = await self.take()
        if process is not None:
            await end(process)

    async def _keep(self) -> None:
        while True:
            self._waiting = False
            try:
                process = self._process = await self._spawn()
            except OSError as error:
                log.warning("edge_spare_not_started", error=error.strerror)
            else:
                self._waiting = await _says_warm(process)
                if self._waiting:
                    await process.wait()
                self._process = None
                await end(process)
                log.warning("edge_spare_died", again_in_s=AGAIN_S)
            await asyncio.sleep(AGAIN_S)


async def _says_warm(process: Process) -> bool:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WARM_S):
            return b'"warm"' in await process.stdout.readline()
    except TimeoutError:
        return False


async def end(process: Process) -> None:
    """Kill a process that has no orders, and wait for its end."""
    if process.returncode is None:
        process.kill()
    await process.wait()
    if process.stdin is not None:
        process.stdin.close()
