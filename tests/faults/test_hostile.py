"""Garbage, half handshakes and slowloris on every port: told in the log, cut in time, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import Server, ended, running, wait_for
from small_source import small

pytestmark = pytest.mark.e2e

SLOW = 150
"""Connections to each TCP port that send a byte now and then."""
PORTS = ("rtmp", "rtmps", "edge", "origin", "api")
ATTACKER = "127.0.0.66"
"""Another address than the publisher's and the viewers': limits are per address."""

HEADS = {
    "rtmp": b"\x03" + bytes(1536),
    "rtmps": b"\x16\x03\x01\x02\x00",
    "edge": b"GET /live/calm/index.m3u8 HTTP/1.1\r\nHost: a\r\nX-",
    "origin": b"GET /live/calm/index.m3u8 HTTP/1.1\r\nHost: a\r\nX-",
    "api": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-",
}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with short patience."""
    data = tmp_path_factory.mktemp("headrace") / "data"
    with running(data, limits__handshake_timeout_s="3", edge__head_timeout_s="3") as server:
        yield server


class Cadence:
    """Arrival of a stream's playlist versions while something else goes on; `longest_s` between two."""

    def __init__(self, server: Server, path: str) -> None:
        self._server, self._path = server, path
        self.longest_s = 0.0

    async def run(self) -> None:
        last, text = time.monotonic(), ""
        while True:
            new = await asyncio.to_thread(self._server.playlist, self._path)
            now = time.monotonic()
            if new != text:
                if text:
                    self.longest_s = max(self.longest_s, now - last)
                last, text = now, new
            await asyncio.sleep(0.05)


async def garbage(port: int, seed: int, size: int) -> float:
    """Send noise, and wait for the end of the connection; seconds that took."""
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(ATTACKER, 0))
        try:
            writer.write(random.Random(seed).randbytes(size))
            await reader.read()
        finally:
            writer.close()
    return time.monotonic() - began


async def slowloris(port: int, head: bytes) -> float:
    """Begin well and then send a byte a second; seconds until the server has enough."""
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(ATTACKER, 0))
        try:
            writer.write(head[:-2])
            drain = asyncio.create_task(reader.read())
            while not drain.done():
                writer.write(b"x")
                await asyncio.wait({drain}, timeout=1.0)
        finally:
            writer.close()
            await asyncio.gather(drain, return_exceptions=True)
    return time.monotonic() - began


async def attack(server: Server) -> dict[str, float]:
    """Everything at once; the longest that a connection to each port was suffered."""
    jobs = {
        name: [slowloris(server.ports[name], HEADS[name]) for _ in range(SLOW)]
        + [garbage(server.ports[name], seed, size) for seed, size in enumerate((1, 40, 2000, 100_000))]
        for name in PORTS
    }
    noise = random.Random(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for _ in range(2000):
            udp.sendto(noise.randbytes(noise.randrange(1, 1400)), ("127.0.0.1", server.ports["srt"]))
    async with asyncio.timeout(60):
        results = await asyncio.gather(*(asyncio.gather(*work) for work in jobs.values()))
    return {name: max(times) for name, times in zip(jobs, results, strict=True)}


def test_nobody_notices_garbage_and_slow_connections_on_every_port(strict: Server) -> None:
    server = strict
    url = server.add("calm")["urls"]["rtmp"]
    with ended(server.push(url, *small())) as publisher:
        server.wait_on_air("calm")

        async def run() -> tuple[dict[str, float], float]:
            cadence = Cadence(server, "/live/calm/source/media.m3u8")
            watching = asyncio.create_task(cadence.run())
            await asyncio.sleep(2)
            times = await attack(server)
            watching.cancel()
            return times, cadence.longest_s

        times, longest = asyncio.run(run())
        print({name: round(s, 1) for name, s in times.items()}, "longest pause of the playlist", round(longest, 2))
        assert longest < 6  # a part is 0.5 s; the attack itself takes from the same two cores
        assert max(times.values()) < 30
        assert publisher.poll() is None
    text = server.text()
    lines = text.splitlines()
    assert any("connection_ended" in line and '"protocol": "rtmp"' in line for line in lines)
    assert any(("connection_ended" in line or "tls_failed" in line) and '"protocol": "rtmps"' in line for line in lines)
    assert "request_too_slow" in text
    assert "connections_ended" in text
    assert "Traceback" not in text
    assert '"level": "error"' not in text
    wait_for(lambda: _sockets(server) < 60, 10, "the connections are gone")


def test_a_tls_client_that_stops_in_the_middle_is_cut(strict: Server) -> None:
    with socket.create_connection(("127.0.0.1", strict.ports["rtmps"]), 10) as raw:
        raw.settimeout(60)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        raw.sendall(outgoing.read())
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while raw.recv(65536):
                pass
        assert time.monotonic() - began < 30


def _sockets(server: Server) -> int:
    """Open sockets of the core."""
    assert server.process is not None
    count = 0
    for entry in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(entry.readlink()).startswith("socket:")
    return count
