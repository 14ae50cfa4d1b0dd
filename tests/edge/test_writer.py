"""Bytes go straight to the socket, and never overtake those that wait in the transport's queue."""

from __future__ import annotations

import asyncio
import random
import socket

from edge.prepared import Files, Prepared
from edge.writer import Writer


async def test_pieces_of_all_sizes_arrive_in_order() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    writer = Writer(transport, Files())
    chance = random.Random(6)
    sent, direct = bytearray(), 0

    async def receive(size: int) -> None:
        while size > 0:
            data = await loop.sock_recv(theirs, min(size, 100_000))
            assert data == sent[: len(data)]
            del sent[: len(data)]
            size -= len(data)

    for _ in range(300):
        for _ in range(chance.randrange(1, 4)):
            head = chance.randbytes(chance.choice((1, 500, 70_000)))
            body = chance.randbytes(chance.choice((0, 60_000, 400_000)))
            direct += writer._free()
            if chance.random() < 0.4:
                writer.put(head, body)
            elif chance.random() < 0.3:
                writer.answer(Prepared(head, body))
            elif chance.random() < 0.5:
                writer.hit(Prepared(head, body))
            else:
                writer.queue(head, body)
            sent += head + body
        if chance.random() < 0.3:
            await receive(len(sent))
        else:
            await receive(chance.randrange(len(sent) // 2 + 1))
        await asyncio.sleep(0)
    await receive(len(sent))
    assert direct > 50
    transport.abort()
    writer.put(b"late")
    writer.queue(b"late")
    assert await loop.sock_recv(theirs, 100) == b""
    theirs.close()
    await asyncio.sleep(0)


async def test_a_viewer_who_has_gone_is_left_to_the_transport() -> None:
    ours, theirs = socket.socketpair()
    gone = asyncio.Event()

    class Peer(asyncio.Protocol):
        def connection_lost(self, error: Exception | None) -> None:
            gone.set()

    transport, _ = await asyncio.get_running_loop().create_connection(Peer, sock=ours)
    writer = Writer(transport, Files())
    theirs.close()
    writer.put(b"x")
    async with asyncio.timeout(60):
        await gone.wait()
