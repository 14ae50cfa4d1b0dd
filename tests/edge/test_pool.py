"""Real worker processes: one port, the dead replaced, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from edge_double import ScriptedOrigin, Viewer, answer
from until import until

from edge.settings import EdgeSettings
from edge.supervisor import EdgePool


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()


async def until_dead(pid: int) -> None:
    await until(lambda: not alive(pid))


async def spare_of(pool: EdgePool, but: int = 0) -> int:
    """Process id of the spare, once there is one other than `but`."""
    await until(lambda: pool.spare.pid not in (0, but))
    return pool.spare.pid


def children() -> set[int]:
    """This process's own."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def sockets(pid: int) -> set[str]:
    """Inodes of the sockets that a process has open."""
    links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    return {link for link in links if link.startswith("socket:")}


async def get(port: int, target: str) -> int:
    viewer = Viewer(*await asyncio.open_connection("127.0.0.1", port))
    try:
        return (await viewer.ask(target, connection="close")).status
    finally:
        await viewer.close()


async def test_the_pool_serves_replaces_a_killed_worker_and_leaves_nothing(origin: ScriptedOrigin) -> None:
    origin.answers["/live/a/p"] = answer(200, b"x", {"cache-control": "max-age=60"})
    pool = EdgePool(EdgeSettings(host="127.0.0.1", port=0, workers=2), origin.url)
    await pool.start()
    try:
        pids = pool.pids
        assert len(pids) == 2
        assert {await get(pool.port, "/live/a/p") for _ in range(10)} == {200}
        assert 1 <= origin.asked["/live/a/p"] <= 2
        text = (await pool.metrics()).decode()
        assert 'headrace_edge_requests_total{result="miss"} ' in text
        assert f"headrace_edge_upstream_requests_total {origin.asked['/live/a/p']}\n" in text
        assert "headrace_edge_workers 2\n" in text
        assert 'headrace_edge_viewers{stream="a"} 1\n' in text
        assert await pool.purge("/live/a/") == origin.asked["/live/a/p"]
        spare = await spare_of(pool)
        os.kill(spare, signal.SIGKILL)
        spare = await spare_of(pool, but=spare)  # one that dies while it waits is replaced, too
        os.kill(pids[0], signal.SIGKILL)
        await until(lambda: len(pool.pids) == 2 and pids[0] not in pool.pids)
        assert set(pool.pids) == {pids[1], spare}, "who takes the place had imported everything before it was needed"
        await spare_of(pool, but=spare)  # it is made when all are ready again
        assert len(sockets(spare) & sockets(os.getpid())) == 1, "the dead one's, and no other worker's"
        assert {await get(pool.port, "/live/a/p") for _ in range(5)} == {200}
        pids = [*pool.pids, pool.spare.pid]
        folder = pool._folder
    finally:
        await pool.stop()
    assert not any(alive(pid) for pid in pids)
    assert folder is not None
    assert not folder.exists()


async def test_a_pool_that_stops_leaves_no_spare_that_was_on_its_way(origin: ScriptedOrigin) -> None:
    pool = EdgePool(EdgeSettings(host="127.0.0.1", port=0, workers=1), origin.url)
    await pool.start()
    async with asyncio.timeout(60):
        while len(children()) < 2:  # noqa: ASYNC110 (another process, or no event to wait for)
            await asyncio.sleep(0.001)
    born = children()
    await pool.stop()
    assert not any(alive(pid) for pid in born)
    assert pool.spare.pid == 0


async def test_a_spare_can_be_done_without(origin: ScriptedOrigin) -> None:
    pool = EdgePool(EdgeSettings(host="127.0.0.1", port=0, workers=1, warm_spare=False), origin.url)
    await pool.start()
    try:
        pids = pool.pids
        os.kill(pids[0], signal.SIGKILL)
        await until(lambda: pool.pids and pool.pids != pids)
        assert children() == set(pool.pids)
    finally:
        await pool.stop()


async def test_a_port_that_is_taken_is_refused(origin: ScriptedOrigin) -> None:
    first = EdgePool(EdgeSettings(host="127.0.0.1", port=0, workers=1), origin.url)
    await first.start()
    try:
        with pytest.raises(OSError, match="in use"):
            await EdgePool(EdgeSettings(host="127.0.0.1", port=first.port, workers=1), origin.url).start()
    finally:
        await first.stop()


async def test_drain_finishes_what_is_asked(origin: ScriptedOrigin) -> None:
    gate = asyncio.Event()

    async def slow(request: object, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone")

    origin.answers["/live/a/p"] = slow
    pool = EdgePool(EdgeSettings(host="127.0.0.1", port=0, workers=1), origin.url)
    await pool.start()
    viewer = Viewer(*await asyncio.open_connection("127.0.0.1", pool.port))
    viewer.send("/live/a/p")
    await until(lambda: origin.asked["/live/a/p"])
    stopping = asyncio.create_task(pool.stop())
    await asyncio.sleep(0)
    gate.set()
    assert (await viewer.reply()).body == b"done"
    await stopping
    await viewer.close()


async def test_workers_end_with_a_killed_parent(origin: ScriptedOrigin) -> None:
    program = (
        "import asyncio, sys\n"
        "from edge.settings import EdgeSettings\n"
        "from edge.supervisor import EdgePool\n"
        "async def main():\n"
        "    pool = EdgePool(EdgeSettings(host='127.0.0.1', port=0, workers=2), sys.argv[1])\n"
        "    await pool.start()\n"
        "    while not pool.spare.pid:\n"
        "        await asyncio.sleep(0.01)\n"
        "    print('PIDS', pool.spare.pid, *pool.pids, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, origin.url), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    async with asyncio.timeout(60):
        while not (line := await parent.stdout.readline()).startswith(b"PIDS"):
            assert line, "the parent ended"
    pids = [int(word) for word in line.split()[1:]]
    assert len(pids) == 3
    parent.kill()
    await parent.wait()
    for pid in pids:
        await until_dead(pid)


async def test_reload_drops_no_request(origin: ScriptedOrigin) -> None:
    origin.answers["/live/a/p"] = answer(200, b"x", {"cache-control": "max-age=60"})
    pool = EdgePool(EdgeSettings(host="127.0.0.1", port=0, workers=2, drain_s=2), origin.url)
    await pool.start()
    done, answers = asyncio.Event(), 0

    async def viewer(lasting: bool) -> None:
        nonlocal answers
        connection: Viewer | None = None
        while not done.is_set():
            if connection is None:
                connection = Viewer(*await asyncio.open_connection("127.0.0.1", pool.port))
            try:
                reply = await connection.ask("/live/a/p")
            except (asyncio.IncompleteReadError, ConnectionError):
                await connection.close()
                assert lasting, "a new connection was dropped"
                connection = None  # an idle connection may be closed as we ask on it (RFC 9112 9.3.1): ask again
                continue
            assert (reply.status, reply.body) == (200, b"x")
            answers += 1
            if not lasting or reply.headers.get("connection") == "close":
                await connection.close()
                connection = None
        if connection is not None:
            await connection.close()

    viewers = [asyncio.create_task(viewer(number % 2 == 0)) for number in range(8)]
    try:
        before = set(pool.pids)
        await pool.reload()
        assert before.isdisjoint(pool.pids)
        assert len(pool.pids) == 2
        assert pool.restarts == 0
        assert "headrace_edge_workers 2\n" in (await pool.metrics()).decode()
        done.set()
        await asyncio.gather(*viewers)
        assert answers > 20
        assert not any(alive(pid) for pid in before)
    finally:
        done.set()
        await asyncio.gather(*viewers, return_exceptions=True)
        await pool.stop()
