"""Viewers who ask for very much: names without end, and everything ahead of time. Memory and metrics stay bounded."""

from __future__ import annotations

import asyncio
import socket

import pytest
from edge_double import MakeEdge, OriginRequest, ScriptedOrigin, answer

from edge import metrics
from edge.cache import Cache
from edge.connection import HIGH_WATER_BYTES
from edge.entry import Entry
from edge.heads import PER_GENERATION
from edge.viewers import MAX_STREAMS, Viewers

KEPT = {"cache-control": "max-age=600"}


def test_a_hundred_thousand_names_are_a_bounded_cache_and_a_bounded_count() -> None:
    cache, viewers = Cache(8 * 2**20, 0.125, 2000), Viewers(30, bytes(16))
    for number in range(100_000):
        entry = Entry(f"/live/{number}/s", 200, (), bytes(1000), now=0.0)
        entry.fresh_until = 600.0
        cache.put(entry, entry.key)
        viewers.seen(entry.key, "192.0.2.1", "", 0.0)
        if not number % 1000:
            cache.expire(1.0)
    assert len(cache) <= 2000
    assert cache.bytes <= cache.budget
    assert len(cache._ends) <= 4 * len(cache) + 1024 + 1000
    assert len(cache._rules) <= 2000
    assert len(viewers.snapshot()) == MAX_STREAMS


async def test_names_without_end_through_a_worker(make_edge: MakeEdge, origin: ScriptedOrigin) -> None:
    edge = await make_edge(max_objects=200, memory_bytes=2**20)

    async def anything(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
        await answer(200, request.target.encode() * 20, KEPT)(request, writer)

    origin.default = anything
    worker, viewer = edge.worker, await edge.connect()
    asked = 0
    for _ in range(60):
        targets = [f"/live/{number}/s?x={number}" for number in range(asked, asked + 50)]
        viewer.writer.write(b"".join(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target.encode() for target in targets))
        for target in targets:
            assert (await viewer.reply()).body.startswith(target.partition("?")[0].encode())
        asked += 50
    assert asked == sum(origin.asked.values()) == 3000
    assert len(worker.cache) <= 200
    assert worker.cache.bytes <= 2**20
    assert worker.coalescer.flights == 0
    text = metrics.render([worker.snapshot()], {}).decode()
    assert len(text.splitlines()) < 2 * MAX_STREAMS + 300, "a label to a stream, and to so many streams only"
    assert len(worker.server.heads._plain) <= PER_GENERATION


async def test_who_asks_for_everything_ahead_and_takes_nothing(make_edge: MakeEdge, origin: ScriptedOrigin) -> None:
    edge = await make_edge(stall_timeout_s=1.0)
    origin.answers["/live/a/s"] = answer(200, bytes(60_000), KEPT)
    await edge.get("/live/a/s")
    served = edge.worker.stats.hit
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(greedy, ("127.0.0.1", edge.worker.port))
        asking = loop.create_task(loop.sock_sendall(greedy, b"GET /live/a/s HTTP/1.1\r\nHost: x\r\n\r\n" * 50_000))
        await edge.until(lambda: len(edge.worker.server.connections) == 1)
        [peer] = edge.worker.server.connections
        most = 0

        def ended() -> bool:
            nonlocal most
            transport = peer._transport  # type: ignore[attr-defined]
            if transport is not None:
                most = max(most, transport.get_write_buffer_size() + len(peer._buffer))  # type: ignore[attr-defined]
            return not edge.worker.server.connections

        await edge.until(ended)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert edge.worker.stats.hit - served < 200, "answers wait for those before them to be taken"
    assert most < HIGH_WATER_BYTES + 2 * 60_000 + 4 * edge.worker.server.settings.max_head_bytes + 2**18
    assert (await edge.get("/live/a/s")).status == 200


@pytest.mark.parametrize("leaves", ["stays", "half_closes"])
async def test_who_asks_once_and_takes_nothing_is_cut(make_edge: MakeEdge, origin: ScriptedOrigin, leaves: str) -> None:
    """What is left of one answer is less than the high water, so that nothing said pause: such a place was kept."""
    edge = await make_edge(stall_timeout_s=1.0, idle_timeout_s=2.0)
    origin.answers["/live/a/s"] = answer(200, bytes(HIGH_WATER_BYTES - 1000), KEPT)
    await edge.get("/live/a/s")
    await edge.until(lambda: not edge.worker.server.connections)
    loop = asyncio.get_running_loop()
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.setblocking(False)
        await loop.sock_connect(greedy, ("127.0.0.1", edge.worker.port))
        await edge.until(lambda: len(edge.worker.server.connections) == 1)
        [peer] = edge.worker.server.connections
        peer._transport.get_extra_info("socket").setsockopt(  # type: ignore[attr-defined]
            socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
        )
        await loop.sock_sendall(greedy, b"GET /live/a/s HTTP/1.1\r\nHost: x\r\n\r\n")
        await edge.until(lambda: edge.worker.stats.hit == 1)
        if leaves == "half_closes":
            greedy.shutdown(socket.SHUT_WR)
        assert peer._transport.get_write_buffer_size()  # type: ignore[attr-defined]
        assert not peer.paused  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            await edge.until(lambda: not edge.worker.server.connections)
    assert edge.worker.stats.slow_viewers == 1
