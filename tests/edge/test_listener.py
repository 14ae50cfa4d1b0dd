"""Who comes is let in together, on the loop that workers run on."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import uvloop

from edge.settings import EdgeSettings
from edge.worker import Orders, Worker


def test_a_crowd_that_comes_at_once_is_let_in_within_few_turns(tmp_path: Path) -> None:
    """uvloop's own server accepts one connection in a turn: on a busy edge some waited for more than ten seconds."""

    async def turns() -> int:
        settings = EdgeSettings(host="127.0.0.1", port=0, drain_s=0)
        worker = Worker(Orders(settings, (f"unix:{tmp_path}/none",), 0, 0, "", "00" * 16))
        running = asyncio.create_task(worker.run())
        await worker.ready.wait()
        crowd = [socket.create_connection(("127.0.0.1", worker.port)) for _ in range(400)]
        count = 0
        while len(worker.server.connections) < len(crowd) and count < 1000:
            await asyncio.sleep(0)
            count += 1
        for viewer in crowd:
            viewer.close()
        worker.stop()
        await running
        return count

    assert uvloop.run(turns()) < 50
