"""A reload while workers die: what serves afterwards is one worker for each place, kept."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest
from edge_double import ScriptedOrigin, Viewer, answer
from until import until

from edge import supervisor
from edge.settings import EdgeSettings
from edge.supervisor import EdgePool


@pytest.fixture
async def pool(origin: ScriptedOrigin) -> AsyncIterator[EdgePool]:
    origin.default = answer(200, b"x")
    pool = EdgePool(EdgeSettings(host="127.0.0.1", port=0, workers=1, drain_s=0.2, warm_spare=False), origin.url)
    await pool.start()
    yield pool
    await pool.stop()


async def serves(pool: EdgePool) -> bool:
    viewer = Viewer(*await asyncio.open_connection("127.0.0.1", pool.port))
    try:
        return (await viewer.ask("/live/a/x", connection="close")).status == 200
    finally:
        await viewer.close()


async def test_in_the_pause_after_a_death(pool: EdgePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PAUSES_S", (3600.0,))
    (first,) = pool.pids
    os.kill(first, signal.SIGKILL)
    await until(lambda: pool.restarts)
    async with asyncio.timeout(60):
        await pool.reload()
    assert len(pool.pids) == 1
    assert await serves(pool)


async def test_a_worker_that_dies_while_its_successor_does_not_start(
    pool: EdgePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = pool.pids

    async def broken() -> asyncio.subprocess.Process:
        if first in pool.pids:
            os.kill(first, signal.SIGKILL)
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(sys.executable, "-c", "", stdin=pipe, stdout=pipe)

    with monkeypatch.context() as patch:
        patch.setattr(pool, "_spawn", broken)
        patch.setattr(supervisor, "READY_S", 1.0)
        with pytest.raises(RuntimeError):
            await pool.reload()
    await until(lambda: pool.ready)
    assert await serves(pool)
