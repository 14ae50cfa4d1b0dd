"""The listener's thread with callers in this process: bytes in, events out, and how it all ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ingest.ports import SrtAdmission
from ingest.settings import LimitSettings, SrtSettings
from ingest.srt import listener as module
from ingest.srt.events import Connected, Disconnected, Ending, Event, Received, Rejected, Statistics
from ingest.srt.library import Library, SrtError, SrtUnavailable, load, pack_address, unpack_address
from ingest.srt.listener import Listener
from ingest.srt.reject import Reject


class Ear:
    """A sink that lets a test wait for what it wants to hear."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()

    def __call__(self, events: list[Event]) -> None:
        self.events += events
        self._news.set()

    async def until(self, true: Callable[[], bool], timeout_s: float = 15) -> None:
        async with asyncio.timeout(timeout_s):
            while not true():
                self._news.clear()
                await self._news.wait()

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def data(self, connection: int | None = None) -> bytes:
        return b"".join(e.data for e in self.of(Received) if connection in (None, e.connection))


@asynccontextmanager
async def listening(
    library: Library, ear: Ear, limits: LimitSettings | None = None, **settings: Any
) -> AsyncIterator[tuple[Listener, int]]:
    listener = Listener(
        library,
        SrtSettings(host="127.0.0.1", port=0, **({"latency_ms": 1000} | settings)),
        limits or LimitSettings(),
        admit=lambda streamid, address: SrtAdmission(reject=0 if streamid == b"open" else Reject.UNAUTHORIZED),
        sink=ear,
    )
    port = await listener.start()
    try:
        yield listener, port
    finally:
        await listener.stop()


def messages(count: int, seed: int = 1) -> list[bytes]:
    dice = random.Random(seed)
    return [dice.randbytes(1316) for _ in range(count)]


async def test_all_that_was_sent_arrives_although_the_caller_has_gone(libsrt: Library, peer: Any) -> None:
    ear, sent = Ear(), messages(300)
    async with listening(libsrt, ear, latency_ms=300) as (_, port):
        _, sock = await peer.dial(port, "open")
        await peer.send(sock, sent, pace_s=0.001)
        await peer.close(sock)  # well before the last packets' instant of play
        await ear.until(lambda: bool(ear.of(Disconnected)))
    assert ear.data() == b"".join(sent)
    assert ear.of(Disconnected)[0].ending is Ending.GOODBYE
    connected = ear.events[0]
    assert isinstance(connected, Connected)
    assert (connected.address, connected.streamid, connected.latency_ms) == ("127.0.0.1", b"open", 300)
    assert connected.version == libsrt.version


async def test_statistics_come_each_second(libsrt: Library, peer: Any) -> None:
    ear = Ear()
    async with listening(libsrt, ear) as (_, port):
        _, sock = await peer.dial(port, "open")
        await peer.send(sock, messages(300), pace_s=0.002)
        await ear.until(lambda: bool(ear.of(Statistics)))
    values = ear.of(Statistics)[0]
    assert 0 < values.rtt_ms < 10_000  # libsrt begins with 100; how long an answer takes is the machine's
    assert values.bitrate_bits > 100_000
    assert (values.dropped, values.undecrypted, values.handover_dropped_bytes) == (0, 0, 0)


@pytest.mark.parametrize("packet_filter", ["fec,cols:8,rows:8,layout:staircase,arq:never", "fec,cols:10,arq:onreq"])
async def test_forward_error_correction_where_the_caller_asks(
    libsrt: Library, peer: Any, relay: Any, packet_filter: str
) -> None:
    ear, sent = Ear(), messages(600)
    async with listening(libsrt, ear, latency_ms=400) as (_, port):
        road = await relay(port, loss=0.01, seed=3)
        reason, sock = await peer.dial(road.port, "open", packet_filter=packet_filter)
        assert reason == 0
        await peer.send(sock, sent, pace_s=0.002)
        await ear.until(lambda: len(ear.data()) >= 600 * 1316 or len(ear.of(Statistics)) > 4)
        lost = (await road.ask("stats"))["up"]["lost"]
    assert lost >= 5
    assert sum(values.recovered for values in ear.of(Statistics)) > 0
    assert ear.data() == b"".join(sent)


async def test_without_a_filter_nothing_is_filtered(libsrt: Library, peer: Any) -> None:
    """A listener that named a filter of its own would make every caller use it."""
    ear, sent = Ear(), messages(50)
    async with listening(libsrt, ear) as (_, port):
        _, sock = await peer.dial(port, "open")
        assert await asyncio.to_thread(peer.filter, sock) == ""
        await peer.send(sock, sent, pace_s=0.001)
        await ear.until(lambda: len(ear.data()) == 50 * 1316)


async def test_five_callers_at_once_keep_apart(libsrt: Library, peer: Any) -> None:
    ear = Ear()
    sent = [messages(100, seed) for seed in range(5)]
    async with listening(libsrt, ear) as (_, port):
        socks = [sock for _, sock in await asyncio.gather(*(peer.dial(port, "open") for _ in range(5)))]
        await asyncio.gather(*(peer.send(sock, sent[n], pace_s=0.001) for n, sock in enumerate(socks)))
        await ear.until(lambda: len(ear.data()) == 5 * 100 * 1316)
        arrived = {ear.data(connected.connection) for connected in ear.of(Connected)}
    assert arrived == {b"".join(part) for part in sent}


async def test_a_silent_caller_is_told_from_one_that_closes(libsrt: Library, peer: Any, relay: Any) -> None:
    ear = Ear()
    async with listening(libsrt, ear, peer_idle_timeout_s=1) as (_, port):
        road = await relay(port)
        _, sock = await peer.dial(road.port, "open")
        await peer.send(sock, messages(20))
        await ear.until(lambda: bool(ear.data()))
        await road.ask("cut")
        await ear.until(lambda: bool(ear.of(Disconnected)))
    assert ear.of(Disconnected)[0].ending is Ending.SILENCE


async def test_closing_from_the_loop(libsrt: Library, peer: Any) -> None:
    ear = Ear()
    async with listening(libsrt, ear) as (listener, port):
        await peer.dial(port, "open")
        await ear.until(lambda: bool(ear.of(Connected)))
        connection = ear.of(Connected)[0].connection
        listener.close(connection)
        listener.close(connection)  # harmless
        await ear.until(lambda: bool(ear.of(Disconnected)))
    assert ear.of(Disconnected) == [Disconnected(connection, Ending.CLOSED)]


async def test_a_late_loop_loses_bytes_by_the_bound_and_counts_them(
    libsrt: Library, peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HANDOVER_MAX_BYTES", 100_000)
    ear = Ear()
    async with listening(libsrt, ear, latency_ms=20) as (listener, port):
        _, sock = await peer.dial(port, "open")
        await ear.until(lambda: bool(ear.of(Connected)))
        sending = threading.Thread(target=peer.send_now, args=(sock, messages(400), 0.001))
        sending.start()
        sending.join()  # the loop stands still meanwhile
        assert listener.handover_dropped_bytes > 200_000
        await peer.send(sock, messages(10))
        await ear.until(lambda: len(ear.data()) + listener.handover_dropped_bytes == 410 * 1316)
        assert len(ear.data()) < 200_000  # the bound, and what came once the loop ran again


async def test_stop_leaves_no_thread_and_frees_the_port(libsrt: Library) -> None:
    before = _native_threads()
    ear = Ear()
    async with listening(libsrt, ear) as (_, port):
        assert _native_threads() > before
    await _settled(before)
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.bind(("127.0.0.1", port))


async def test_stop_tells_of_open_connections(libsrt: Library, peer: Any) -> None:
    ear = Ear()
    async with listening(libsrt, ear) as (_, port):
        await peer.dial(port, "open")
        await ear.until(lambda: bool(ear.of(Connected)))
    assert ear.events[-1] == Disconnected(ear.of(Connected)[0].connection, Ending.CLOSED)


async def test_a_port_that_is_taken(libsrt: Library) -> None:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.bind(("127.0.0.1", 0))
        before = _native_threads()
        settings = SrtSettings(host="127.0.0.1", port=sock.getsockname()[1])
        listener = Listener(libsrt, settings, LimitSettings(), lambda *_: SrtAdmission(), Ear())
        with pytest.raises(SrtError, match="bind"):
            await listener.start()
        await listener.stop()
        await _settled(before)


@pytest.mark.parametrize("host", ["", "localhost", "::1"])
async def test_hosts(libsrt: Library, host: str, peer: Any) -> None:
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    ear = Ear()
    listener = Listener(libsrt, SrtSettings(host=host, port=0), LimitSettings(), lambda *_: SrtAdmission(), ear)
    port = await listener.start()
    if host == "":
        assert (await peer.dial(port, "open"))[0] == 0
        await ear.until(lambda: bool(ear.of(Connected)))
        assert ear.of(Connected)[0].address == "127.0.0.1"  # IPv4, though it came through an IPv6 socket
    await listener.stop()


async def test_two_thousand_half_open_handshakes(libsrt: Library, peer: Any) -> None:
    """Callers who shake hands and are never heard again: bounded while they last, and gone soon."""
    ear = Ear()
    limits = LimitSettings(max_connections=40, max_connections_per_address=30)
    async with listening(libsrt, ear, limits, peer_idle_timeout_s=1) as (listener, port):
        threads = _native_threads()
        inductions, conclusions = await asyncio.to_thread(_half_open, port, 2000)
        assert inductions > 1000  # at this rate the kernel may drop some, as UDP does
        assert conclusions > 1000
        await ear.until(lambda: len(ear.of(Connected)) == 30 and listener.rejected_total > 100)
        assert _native_threads() - threads < 10
        await ear.until(lambda: len(ear.of(Disconnected)) == 30)
        assert {event.code for event in ear.of(Rejected)} == {Reject.OVERLOAD}
        assert (await peer.dial(port, "open"))[0] == 0


def _half_open(port: int, count: int) -> tuple[int, int]:
    """Induction and conclusion of `count` callers, and not a packet more: (inductions, conclusions) answered."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.connect(("127.0.0.1", port))
        sock.settimeout(0.02)
        cookies: list[int] = []
        conclusions = 0
        for first in range(1, count, 100):
            for number in range(first, first + 100):
                sock.send(_handshake(4, 2, 1, number, 0))
            cookies += _answers(sock)
        for first in range(1, count, 100):
            for number in range(first, first + 100):
                sock.send(_handshake(5, 5, -1, number, cookies[0], _hsreq() + _sid(b"open")))
            conclusions += len(list(_answers(sock)))
        return len(cookies), conclusions


def _answers(sock: socket.socket) -> Iterator[int]:
    with contextlib.suppress(TimeoutError):
        while True:
            data = sock.recv(2000)
            if len(data) >= 64 and data[:2] == b"\x80\x00":
                yield struct.unpack(">I", data[44:48])[0]


def _handshake(version: int, extensions: int, kind: int, sock: int, cookie: int, more: bytes = b"") -> bytes:
    """draft-sharabayko-srt 3.2.1: an SRT handshake packet of a caller."""
    head = struct.pack(">IIII", 0x8000_0000, 0, 0, 0)
    body = struct.pack(">IIIIIiII", version, extensions, 1000 + sock, 1500, 8192, kind, sock, cookie)
    return head + body + socket.inet_aton("127.0.0.1")[::-1] + bytes(12) + more


def _hsreq() -> bytes:
    return struct.pack(">HHIII", 1, 3, 0x010501, 0xBF, 120)


def _sid(text: bytes) -> bytes:
    padded = text + bytes(-len(text) % 4)
    words = b"".join(padded[i : i + 4][::-1] for i in range(0, len(padded), 4))
    return struct.pack(">HH", 5, len(words) // 4) + words


async def _settled(threads: int) -> None:
    """A joined thread is gone from the kernel's list an instant later; so may one be that was counted before."""
    async with asyncio.timeout(60):
        while _native_threads() > threads:  # noqa: ASYNC110 - the kernel tells no event
            await asyncio.sleep(0)


def _native_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_a_missing_library_says_what_to_install() -> None:
    with pytest.raises(SrtUnavailable, match=r"apt-get install libsrt1\.5-openssl"):
        load(("libsrt-that-is-not-there.so",))


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
def test_addresses_there_and_back(host: str) -> None:
    assert unpack_address(pack_address(host, 8890)) == (host, 8890)


def test_an_ipv4_caller_of_a_dual_stack_socket_appears_as_ipv4() -> None:
    assert unpack_address(pack_address("::ffff:192.0.2.7", 1)) == ("192.0.2.7", 1)
