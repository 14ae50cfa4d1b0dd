"""TLS without a socket: whole, byte by byte, with something else; and a ClientHello that comes with the connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from rtmp_double import Gatekeeper

from ingest.rtmp.server import RtmpServer
from ingest.rtmp.tls import Tls
from ingest.settings import LimitSettings, RtmpSettings


class Peer:
    """The client's side over the same kind of buffers."""

    def __init__(self, trust: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = trust.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def step(self, data: bytes) -> bytes:
        self.incoming.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()


def shake(server: Tls, peer: Peer, size: int) -> None:
    hello = peer.step(b"")
    for _ in range(4):
        for start in range(0, len(hello), size):
            assert server.receive(hello[start : start + size]) == b""
        hello = peer.step(server.data_to_send())
    assert server.established


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_both_ways_and_both_ends(tls: ssl.SSLContext, trust: ssl.SSLContext, size: int) -> None:
    server, peer = Tls(tls), Peer(trust)
    shake(server, peer, size)
    words = bytes(range(256)) * 200
    peer.tls.write(words)
    sent = peer.outgoing.read()
    assert b"".join(server.receive(sent[at : at + size]) for at in range(0, len(sent), size)) == words
    server.send(b"answer")
    peer.incoming.write(server.data_to_send())
    assert peer.tls.read() == b"answer"
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.unwrap()
    assert server.receive(peer.outgoing.read()) == b""
    assert server.ended
    server.close()
    peer.incoming.write(server.data_to_send())
    peer.tls.unwrap()


def test_nothing_is_said_before_the_handshake(tls: ssl.SSLContext) -> None:
    server = Tls(tls)
    server.send(b"too early")
    server.close()
    assert server.data_to_send() == b""


def test_a_stranger_gets_an_alert(tls: ssl.SSLContext) -> None:
    server = Tls(tls)
    with pytest.raises(ssl.SSLError):
        server.receive(b"\x03" + bytes(1536))
    assert server.data_to_send()[:1] in (b"\x15", b"")  # ContentType alert


@given(st.binary(max_size=600))
def test_junk_raises_ssl_errors_alone(junk: bytes) -> None:
    server = Tls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with contextlib.suppress(ssl.SSLError):
        assert server.receive(b"\x16\x03\x01" + junk) == b""


def test_a_client_hello_that_is_there_at_once(tls: ssl.SSLContext, trust: ssl.SSLContext) -> None:
    """Under uvloop, the product's loop, which reads behind `connection_made` whatever that said."""

    async def answer() -> bytes:
        limits = LimitSettings(handshake_timeout_s=60, linger_s=0)
        settings = RtmpSettings(host="127.0.0.1", port=0)
        server = RtmpServer(settings, Gatekeeper(), limits=limits, tls=lambda: tls, protocol="rtmps")
        await server.start()
        try:
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(Peer(trust).step(b""))  # the loop has not run since: it finds both together
                client.setblocking(False)
                async with asyncio.timeout(30):
                    return await asyncio.get_running_loop().sock_recv(client, 65_536)
        finally:
            await server.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(answer())[:1] == b"\x16"  # ContentType handshake: the ServerHello
