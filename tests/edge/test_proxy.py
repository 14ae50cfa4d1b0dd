"""PROXY protocol: the header, whole, byte by byte and with what follows; behind it HTTP and TLS."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from pathlib import Path

import pytest
from edge_certificate import write_certificate
from edge_double import MakeEdge, ScriptedOrigin, Viewer, answer
from hypothesis import given
from hypothesis import strategies as st

from edge.proxy import SIGNATURE, V2_MAX_BYTES, Header
from media.errors import ProtocolError


def v2(source: str, *, command: int = 0x21, more: bytes = b"") -> bytes:
    address = ipaddress.ip_address(source)
    family = 0x11 if address.version == 4 else 0x21
    body = address.packed * 2 + (4711).to_bytes(2, "big") + (443).to_bytes(2, "big") + more
    return SIGNATURE + bytes([command, family]) + len(body).to_bytes(2, "big") + body


GOOD = [
    (b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n", "203.0.113.9"),
    (b"PROXY TCP6 2001:db8::9 2001:db8::1 4711 443\r\n", "2001:db8::9"),
    (b"PROXY UNKNOWN\r\n", ""),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", ""),
    (v2("203.0.113.9"), "203.0.113.9"),
    (v2("2001:db8::9", more=b"\x04\x00\x03abc"), "2001:db8::9"),
    (v2("203.0.113.9", command=0x20), ""),
    (SIGNATURE + b"\x21\x00\x00\x00", ""),
    (SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216), ""),
]
BAD = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01\x02\x00",
    b"PROXY TCP4 203.0.113.9 192.0.2.1 4711\r\n",
    b"PROXY TCP4 2001:db8::9 192.0.2.1 4711 443\r\n",
    b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 70000\r\n",
    b"PROXY TCP4  203.0.113.9 192.0.2.1 4711 443\r\n",
    b"PROXY UDP4 203.0.113.9 192.0.2.1 4711 443\r\n",
    b"PROXY " + b"x" * 120,
    SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12),
    SIGNATURE + b"\x22\x11\x00\x0c" + bytes(12),
    SIGNATURE + b"\x21\x11\x00\x04" + bytes(4),
    SIGNATURE + b"\x21\x11" + (V2_MAX_BYTES + 1).to_bytes(2, "big"),
]


@pytest.mark.parametrize(("head", "address"), GOOD)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_good_headers_take_what_is_theirs_and_no_more(head: bytes, address: str, step: int) -> None:
    data, header, at = head + b"GET / HTTP/1.1\r\n\r\n", Header(), 0
    while not header.done:
        at += header.feed(data[at : at + step])
    assert (at, header.address) == (len(head), address)


@pytest.mark.parametrize("head", BAD)
def test_bad_headers(head: bytes) -> None:
    def slowly() -> None:
        header = Header()
        for at in range(len(head)):
            header.feed(head[at : at + 1])

    with pytest.raises(ProtocolError):
        slowly()
    with pytest.raises(ProtocolError):
        Header().feed(head)


@given(st.sampled_from([b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21\x11\x00"]), st.binary(max_size=300), st.data())
def test_whatever_comes_nothing_but_a_protocol_error_is_raised(start: bytes, rest: bytes, pick: st.DataObject) -> None:
    data, header, at = start + rest, Header(), 0
    try:
        while not header.done and at < len(data):
            size = pick.draw(st.integers(1, 40))
            taken = header.feed(data[at : at + size])
            assert 0 < taken <= size
            at += taken
    except ProtocolError:
        return
    assert not header.address or ipaddress.ip_address(header.address)


async def test_http_behind_a_proxy_header(make_edge: MakeEdge, origin: ScriptedOrigin) -> None:
    origin.answers["/live/a/p"] = answer(200, b"x", {"cache-control": "max-age=60"})
    edge = await make_edge(trusted_proxies=("127.0.0.0/8",), proxy_protocol=True)
    for head, address in [*GOOD[:2], *GOOD[4:6], GOOD[2]]:
        viewer = await edge.connect()
        viewer.writer.write(head)  # and the request in the same packet
        assert (await viewer.ask("/live/a/p")).status == 200
        assert {connection.address for connection in edge.worker.server.connections} == {address or "127.0.0.1"}
        await viewer.close()
        await edge.until(lambda: not edge.worker.server.connections)
    slow = await edge.connect()
    for byte in GOOD[4][0]:
        slow.writer.write(bytes([byte]))
        await slow.writer.drain()
        await asyncio.sleep(0)
    assert (await slow.ask("/live/a/p")).status == 200
    plain = await edge.connect()
    plain.send("/live/a/p")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await plain.reply()
    assert edge.worker.stats.bad_requests == 1


async def test_the_header_of_a_stranger_is_refused_and_a_slow_one_holds_up_nobody(
    make_edge: MakeEdge, origin: ScriptedOrigin
) -> None:
    origin.answers["/live/a/p"] = answer(200, b"x", {"cache-control": "max-age=60"})
    edge = await make_edge(trusted_proxies=("192.0.2.0/24",), proxy_protocol=True)
    assert (await edge.get("/live/a/p")).status == 200
    forger = await edge.connect()
    forger.writer.write(b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n")
    assert (await forger.reply()).status == 400
    other = await make_edge(trusted_proxies=("127.0.0.0/8",), proxy_protocol=True, head_timeout_s=0.3)
    silent = await other.connect()
    good = await other.connect()
    good.writer.write(b"PROXY UNKNOWN\r\n")
    assert (await good.ask("/live/a/p")).status == 200
    assert await silent.reader.read() == b"", "it had its time"


async def test_tls_behind_a_proxy_header(make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path) -> None:
    chain, private = write_certificate(tmp_path, "one.test")
    edge = await make_edge(
        certificate=chain, private_key=private, trusted_proxies=("127.0.0.0/8",), proxy_protocol=True
    )
    origin.answers["/live/a/p"] = answer(200, bytes(300_000), {"cache-control": "max-age=60"})
    context = ssl.create_default_context(cafile=str(chain))
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", edge.worker.tls_port))
    await loop.sock_sendall(sock, v2("203.0.113.9"))
    viewer = Viewer(*await asyncio.open_connection(sock=sock, ssl=context, server_hostname="one.test"))
    for _ in range(2):
        assert len((await viewer.ask("/live/a/p")).body) == 300_000
    assert {connection.address for connection in edge.worker.server.connections} == {"203.0.113.9"}
    await viewer.close()
