"""HTTP/2 viewers who ask for much and take little: what waits for them stays bounded, and so does the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from edge_double import Edge, MakeEdge, ScriptedOrigin, answer

from edge.connection import LINGER_S
from edge.h2 import frames, hpack
from edge.h2.connection import MOST_UNSENT_BYTES, H2Connection
from edge.h2.frames import Code, Flag, Kind, Setting

KEPT = {"cache-control": "max-age=600"}
HELLO = frames.PREFACE + frames.settings({Setting.INITIAL_WINDOW_SIZE: frames.MAX_WINDOW, Setting.HEADER_TABLE_SIZE: 0})
WIDE = frames.window_update(0, frames.MAX_WINDOW - frames.DEFAULT_WINDOW)
READ_BYTES = 256 * 1024
"""What the loop reads at a time."""


class Pipe:
    """A transport whose other side takes nothing until it is told to."""

    def __init__(self) -> None:
        self.waiting = self.most = 0
        self.written = bytearray()
        self.reading, self.closing, self.aborted = True, False, False
        self.peer: H2Connection | None = None
        self._high = 0
        self._full = False

    def get_extra_info(self, name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int) -> None:
        self._high = high

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def write(self, data: bytes) -> None:
        if self.most < 2**24:
            self.written += data
        self.waiting += len(data)
        self.most = max(self.most, self.waiting)
        if self.waiting > self._high and not self._full:
            assert self.peer is not None
            self._full = True
            self.peer.pause_writing()

    @property
    def frames(self) -> list[tuple[int, int, int]]:
        """Kind, flags and size of what was written."""
        found, at = [], 0
        while at < len(self.written):
            size, kind, flags, _ = frames.read_header(bytes(self.written[at : at + frames.HEADER_BYTES]), 0)
            found.append((kind, flags, size))
            at += frames.HEADER_BYTES + size
        return found

    @property
    def ended(self) -> int:
        return sum(kind in (Kind.DATA, Kind.HEADERS) and flags & Flag.END_STREAM for kind, flags, _ in self.frames)

    def drain(self) -> None:
        self.waiting = 0
        if self._full:
            assert self.peer is not None
            self._full = False
            self.peer.resume_writing()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.aborted = True


def ask(number: int, target: str = "/live/a/s", method: str = "GET") -> bytes:
    fields = [(b":method", method.encode()), (b":scheme", b"https"), (b":path", target.encode())]
    block = b"\x20" + hpack.encode(200, [*fields, (b":authority", b"x")])[1:]
    return frames.headers(number, block, ended=True)


@pytest.fixture
async def open_pipe(make_edge: MakeEdge, origin: ScriptedOrigin) -> Callable[..., Any]:
    origin.answers["/live/a/s"] = answer(200, bytes(30_000), KEPT)
    origin.answers["/live/a/talkative"] = answer(200, b"x" * 100, {**KEPT, "x-much": "y" * 20_000})
    made: list[tuple[Edge, Pipe]] = []

    async def open_one(**settings: object) -> tuple[Edge, H2Connection, Pipe]:
        edge = await make_edge(**settings)
        for target in ("/live/a/s", "/live/a/talkative"):
            assert (await edge.get(target)).status == 200
        pipe = Pipe()
        peer = H2Connection(edge.worker.server)
        pipe.peer = peer
        peer.connection_made(cast(asyncio.Transport, pipe))
        peer.data_received(HELLO + WIDE + ask(1))
        assert edge.worker.server.short_path
        pipe.drain()
        made.append((edge, pipe))
        return edge, peer, pipe

    return open_one


async def test_thousands_of_answers_in_one_turn_do_not_pile_up(open_pipe: Callable[..., Any]) -> None:
    """Windows are the viewer's to open: 256 kB of requests were 300 MB of answers, joined."""
    _, peer, pipe = await open_pipe()
    asking = b"".join(ask(number) for number in range(3, 8001, 2))
    peer.data_received(asking[:READ_BYTES])
    assert pipe.most < MOST_UNSENT_BYTES + 2 * 2**20
    peer.connection_lost(None)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
async def test_who_takes_nothing_is_not_listened_to(open_pipe: Callable[..., Any], method: str) -> None:
    """Answers without a body need no window: they were written for as long as somebody asked."""
    _, peer, pipe = await open_pipe()
    number = 3
    for _ in range(100):
        if not pipe.reading:
            break
        peer.data_received(b"".join(ask(at, "/live/a/s", method) for at in range(number, number + 400, 2)))
        number += 400
    assert not pipe.reading
    assert pipe.most < MOST_UNSENT_BYTES + 2 * 2**20
    for _ in range(1000):
        if pipe.reading:
            break
        pipe.drain()
    assert pipe.reading
    assert not peer.core.streams
    assert pipe.ended == number // 2, "all are answered in the end"
    peer.connection_lost(None)


async def test_who_takes_slowly_is_heard(open_pipe: Callable[..., Any]) -> None:
    """A player that gives up a segment, and asks for a smaller one."""
    _, peer, pipe = await open_pipe()
    peer.data_received(b"".join(ask(number) for number in range(3, 255, 2)))
    assert peer.paused
    assert pipe.reading
    [*_, last] = peer.core.streams
    peer.data_received(frames.reset(last, Code.CANCEL))
    assert last not in peer.core.streams
    for _ in range(1000):
        pipe.drain()
        assert pipe.reading
    assert not peer.core.streams
    assert pipe.ended == 1 + (255 - 3) // 2 - 1
    peer.connection_lost(None)


async def test_a_frame_in_two_pieces_is_not_late_while_we_do_not_listen(open_pipe: Callable[..., Any]) -> None:
    edge, peer, pipe = await open_pipe(head_timeout_s=5, stall_timeout_s=60)
    asking = b"".join(ask(number, method="HEAD") for number in range(3, 20_001, 2))
    peer.data_received(asking[:-3])
    assert not pipe.reading
    now = edge.worker.site.clock()
    peer.check(now + 1)
    peer.check(now + 10)
    assert not peer.core.failed
    pipe.drain()
    peer.check(now + 11)
    peer.data_received(asking[-3:])
    assert not peer.core.failed
    peer.connection_lost(None)


async def test_an_answer_on_its_way_is_not_cut_at_the_end(open_pipe: Callable[..., Any]) -> None:
    """A worker that drains closed a slow viewer's connection two seconds after the last byte was queued."""
    edge, peer, pipe = await open_pipe(stall_timeout_s=10)
    peer.data_received(ask(3))
    now = edge.worker.site.clock()
    pipe.waiting, peer.core.going = 30_000, True
    peer.check(now)
    assert pipe.closing
    for second in range(1, 30):
        pipe.waiting -= 1000
        peer.check(now + second)
        assert not pipe.aborted
    peer.check(now + 38)
    assert not pipe.aborted
    peer.check(now + 41)
    assert pipe.aborted, "taken no more"
    peer.connection_lost(None)


async def test_who_takes_slowly_is_not_idle(open_pipe: Callable[..., Any]) -> None:
    edge, peer, pipe = await open_pipe(stall_timeout_s=10, idle_timeout_s=20)
    now = edge.worker.site.clock()
    for second in range(1, 30):
        pipe.waiting = 30_000 - second
        peer.check(now + second)
        assert not peer.core.going
    pipe.drain()
    peer.check(now + 31)
    assert peer.core.going
    pipe.drain()
    peer.check(now + 31 + LINGER_S)
    assert pipe.aborted
    peer.connection_lost(None)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_talkative_origin_makes_no_frame_that_is_too_large(open_pipe: Callable[..., Any], method: str) -> None:
    _, peer, pipe = await open_pipe()
    for number in (3, 5, 7):
        peer.data_received(ask(number, "/live/a/talkative", method))
    assert pipe.ended == 1 + 3
    assert max(size for _, _, size in pipe.frames) <= frames.DEFAULT_FRAME_BYTES
    peer.connection_lost(None)
