"""What viewers send, right and wrong: ranges, HEAD, conditions, pipelining, garbage, smuggling, slowness, limits."""

from __future__ import annotations

import asyncio
import socket

import pytest
from edge_double import Edge, MakeEdge, ScriptedOrigin, answer, held
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import ranges, request, target
from media.errors import ProtocolError

KEYS = frozenset({"_HLS_msn", "_HLS_part", "_HLS_skip"})
BODY = bytes(range(200))


@pytest.fixture
async def warm(edge: Edge, origin: ScriptedOrigin) -> Edge:
    headers = {"cache-control": "max-age=60", "etag": '"v"', "last-modified": "Sat, 01 Nov 2025 10:00:00 GMT"}
    origin.answers["/live/a/s"] = answer(200, BODY, headers)
    await edge.get("/live/a/s")
    return edge


@pytest.mark.parametrize(
    ("header", "status", "span"),
    [
        ("bytes=0-0", 206, slice(0, 1)),
        ("bytes=10-", 206, slice(10, 200)),
        ("bytes=-5", 206, slice(195, 200)),
        ("bytes=-500", 206, slice(0, 200)),
        ("bytes=190-900", 206, slice(190, 200)),
        ("bytes=200-", 416, slice(0, 0)),
        ("bytes=-0", 416, slice(0, 0)),
        ("bytes=5-2", 200, slice(0, 200)),
        ("bytes=0-1,5-6", 200, slice(0, 200)),
        ("lines=0-1", 200, slice(0, 200)),
        ("bytes=x", 200, slice(0, 200)),
    ],
)
async def test_ranges(warm: Edge, header: str, status: int, span: slice) -> None:
    reply = await warm.get("/live/a/s", range=header)
    assert (reply.status, reply.body) == (status, BODY[span])
    if status == 206:
        assert reply.headers["content-range"] == f"bytes {span.start}-{span.stop - 1}/200"
    if status == 416:
        assert reply.headers["content-range"] == "bytes */200"


async def test_if_range(warm: Edge) -> None:
    assert (await warm.get("/live/a/s", range="bytes=0-1", if_range='"v"')).status == 206
    assert (await warm.get("/live/a/s", range="bytes=0-1", if_range='"old"')).status == 200
    assert (await warm.get("/live/a/s", range="bytes=0-1", if_range='W/"v"')).status == 200


async def test_head_and_conditions(warm: Edge, origin: ScriptedOrigin) -> None:
    viewer = await warm.connect()
    head = await viewer.ask("/live/a/s", "HEAD")
    assert (head.status, head.headers["content-length"], head.body) == (200, "200", b"")
    for condition in ('"v"', 'W/"v"', '"x", "v"', "*"):
        same = await viewer.ask("/live/a/s", if_none_match=condition)
        assert (same.status, same.headers["etag"]) == (304, '"v"')
        assert "content-length" not in same.headers
    assert (await viewer.ask("/live/a/s", if_none_match='"x"')).status == 200
    assert (await viewer.ask("/live/a/s", if_modified_since="Sun, 02 Nov 2025 10:00:00 GMT")).status == 304
    assert (await viewer.ask("/live/a/s", if_modified_since="Fri, 31 Oct 2025 10:00:00 GMT")).status == 200
    assert (await viewer.ask("/live/a/s", if_modified_since="nonsense")).status == 200
    assert origin.asked["/live/a/s"] == 1


async def test_head_of_what_is_not_cached_fetches_it_once(edge: Edge, origin: ScriptedOrigin) -> None:
    origin.answers["/live/a/s"] = answer(200, bytes(100_000), {"cache-control": "max-age=60"})
    assert (await edge.get("/live/a/s", "HEAD")).headers["content-length"] == "100000"
    assert len((await edge.get("/live/a/s")).body) == 100_000
    assert origin.asked["/live/a/s"] == 1


async def test_options_is_answered_here(edge: Edge, origin: ScriptedOrigin) -> None:
    reply = await edge.get("/live/a/s", "OPTIONS", origin="http://else.test", access_control_request_headers="range")
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (204, "*")
    assert "Range" in reply.headers["access-control-allow-headers"]
    assert not origin.requests


async def test_pipelined_requests_are_answered_in_order(warm: Edge, origin: ScriptedOrigin) -> None:
    gate = asyncio.Event()
    origin.answers["/live/a/slow"] = held(gate, answer(200, b"slow", {"cache-control": "max-age=60"}))
    viewer = await warm.connect()
    for path in ("/live/a/slow", "/live/a/s", "/live/a/slow", "/live/a/s"):
        viewer.send(path)
    await warm.until(lambda: origin.asked["/live/a/slow"] == 1)
    gate.set()
    assert [(await viewer.reply()).body for _ in range(4)] == [b"slow", BODY, b"slow", BODY]


async def test_a_request_byte_by_byte_and_after_an_empty_line(warm: Edge) -> None:
    viewer = await warm.connect()
    for byte in b"\r\nGET /live/a/s HTTP/1.1\r\nHost: x\r\n\r\n":
        viewer.writer.write(bytes([byte]))
        await viewer.writer.drain()
        await asyncio.sleep(0)
    assert (await viewer.reply()).body == BODY


async def test_http10_and_close_end_the_connection(warm: Edge) -> None:
    for text in (b"GET /live/a/s HTTP/1.0\r\n\r\n", b"GET /live/a/s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
        viewer = await warm.connect()
        viewer.writer.write(text)
        reply = await viewer.reply()
        assert (reply.body, reply.headers["connection"]) == (BODY, "close")
        assert await viewer.reader.read() == b""


async def test_an_absolute_uri_is_the_same_object(warm: Edge, origin: ScriptedOrigin) -> None:
    assert (await warm.get("http://other.test/live/./b/../a/%73?cmcd=1")).headers["x-cache"] == "HIT"
    assert origin.asked == {"/live/a/s": 1}


BAD = {
    "junk": (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400),
    "no head": (b"\x00" * 40, 400),
    "text": (b"hello, world\n", 400),
    "bare lf": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "bare cr": (b"GET / HTTP/1.1\r\nHost: x\rX: y\r\n\r\n", 400),
    "folded": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
    "blank before colon": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\n", 400),
    "nul": (b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "cl and te": (
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1",
        400,
    ),
    "te": (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n", 400),
    "two lengths": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", 400),
    "length": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n", 400),
    "body": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 413),
    "expect": (b"GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n", 417),
    "post": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
    "connect": (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "version": (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505),
    "version 1.2": (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505),
    "http 2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "long target": (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "long head": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20_000, 431),
    "many fields": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
    "above root": (b"GET /live/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "encoded above": (b"GET /live/%2e%2e/%2E%2e/etc HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "encoded slash": (b"GET /live%2f..%2fetc HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "backslash": (b"GET /live\\..\\etc HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "encoded nul": (b"GET /live/a%00b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "broken percent": (b"GET /live/%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "fragment": (b"GET /live#a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "two parameters": (b"GET /live?_HLS_msn=1&_HLS_msn=2 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_requests_are_answered_and_the_connection_ends(edge: Edge, origin: ScriptedOrigin, name: str) -> None:
    text, status = BAD[name]
    viewer = await edge.connect()
    viewer.writer.write(text)
    reply = await viewer.reply()
    assert (reply.status, reply.headers["connection"]) == (status, "close")
    assert await viewer.reader.read() == b""
    assert not origin.requests
    assert edge.worker.stats.bad_requests == 1


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_request_or_a_protocol_error(data: bytes) -> None:
    for head in (
        data,
        b"GET " + data + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + data + b"\r\n\r\n",
    ):
        try:
            size = request.find_end(head, 1000)
            if size:
                request.parse(head[:size], KEYS)
        except ProtocolError:
            pass


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=60))
@settings(max_examples=500, deadline=None)
def test_normalising_is_stable_and_stays_below_the_root(text: str) -> None:
    try:
        found = target.parse("/" + text, KEYS)
    except ProtocolError:
        return
    assert "/../" not in found.path + "/"
    assert "/./" not in found.path + "/"
    if not found.path.startswith("/t/"):
        assert target.parse(found.key, KEYS).key == found.key


@given(st.text(max_size=30), st.integers(0, 1000))
def test_any_range_lies_within_the_body(text: str, total: int) -> None:
    found = ranges.parse(text) or ranges.parse("bytes=" + text)
    span = found.resolve(total) if found is not None else None
    if span is not None:
        assert 0 <= span[0] < span[1] <= total


@pytest.mark.parametrize(
    ("raw", "key", "token"),
    [
        ("/a/m.m3u8?_HLS_part=1&x=2&_HLS_msn=9", "/a/m.m3u8?_HLS_msn=9&_HLS_part=1", ""),
        ("/a/m.m3u8?%5FHLS_msn=%39", "/a/m.m3u8?_HLS_msn=9", ""),
        ("/a/m.m3u8?", "/a/m.m3u8", ""),
        ("/%7Euser/%c3%a9", "/~user/%C3%A9", ""),
        ("/a/b/..", "/a/", ""),
        ("/a/./b/.", "/a/b/", ""),
        ("http://x", "/", ""),
        ("/a?token=abc.d", "/a", "abc.d"),
        ("/t/abc.d/live/a/i.m3u8?_HLS_msn=2", "/live/a/i.m3u8?_HLS_msn=2", "abc.d"),
    ],
)
def test_targets(raw: str, key: str, token: str) -> None:
    found = target.parse(raw, KEYS)
    assert (found.key, found.token) == (key, token)


async def test_a_viewer_that_takes_nothing_is_cut(make_edge: MakeEdge, origin: ScriptedOrigin) -> None:
    edge = await make_edge(stall_timeout_s=1.0)
    body = bytes(8 * 2**20)
    origin.answers["/live/a/big"] = answer(200, body, {"cache-control": "max-age=60"})
    assert len((await edge.get("/live/a/big")).body) == len(body)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(slow, ("127.0.0.1", edge.worker.port))
    for _ in range(4):
        await loop.sock_sendall(slow, b"GET /live/a/big HTTP/1.1\r\nHost: x\r\n\r\n")
    await edge.until(lambda: edge.worker.stats.slow_viewers == 1)
    slow.close()
    await edge.until(lambda: not edge.worker.server.connections)


async def test_half_a_head_times_out(make_edge: MakeEdge) -> None:
    edge = await make_edge(head_timeout_s=0.5)
    viewer = await edge.connect()
    viewer.writer.write(b"GET / HTTP/1.1\r\nHost")
    assert (await viewer.reply()).status == 408


async def test_a_silent_connection_is_closed(make_edge: MakeEdge) -> None:
    edge = await make_edge(idle_timeout_s=0.5)
    viewer = await edge.connect()
    assert await viewer.reader.read() == b""


async def test_connection_limits(make_edge: MakeEdge) -> None:
    edge = await make_edge(max_connections=3, max_connections_per_address=2)
    kept = [await edge.connect() for _ in range(2)]
    third = await edge.connect()
    assert (await third.reply()).status == 429
    fourth = await edge.connect()
    reply = await fourth.reply()
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert (await kept[0].ask("/")).status == 200


async def test_the_request_rate_of_an_address(make_edge: MakeEdge) -> None:
    edge = await make_edge(requests_per_s_per_address=0.5)
    viewer = await edge.connect()
    assert [(await viewer.ask("/")).status for _ in range(6)] == [200] * 5 + [429]


async def test_a_viewer_behind_a_trusted_proxy_counts_by_its_own_address(make_edge: MakeEdge) -> None:
    edge = await make_edge(requests_per_s_per_address=0.1, trusted_proxies=("127.0.0.0/8",))
    viewer = await edge.connect()
    for number in range(5):
        assert (await viewer.ask("/", x_forwarded_for=f"6.6.6.6, 10.0.0.{number}")).status == 200
    assert (await viewer.ask("/", x_forwarded_for="10.0.0.1, 127.0.0.9")).status == 429


async def test_the_addresses_of_one_ipv6_host_count_as_one(make_edge: MakeEdge) -> None:
    edge = await make_edge(requests_per_s_per_address=0.1, trusted_proxies=("127.0.0.0/8",))
    viewer = await edge.connect()
    said = [(await viewer.ask("/", x_forwarded_for=f"2001:db8::{n}")).status for n in (1, 2)]
    assert said == [200, 429]
    assert (await viewer.ask("/", x_forwarded_for="2001:db8:0:1::1")).status == 200


async def test_a_loop_is_found(edge: Edge, origin: ScriptedOrigin) -> None:
    assert (await edge.get("/live/a/s", via="1.1 other, 1.1 headrace")).status == 508
    assert not origin.requests
    assert (await edge.get("/live/a/s", cdn_loop="other; v=1, Headrace")).status == 508
    assert not origin.requests
    await edge.get("/live/a/s", via="1.1 other", cdn_loop="other; v=1")
    assert origin.requests[0].headers["via"] == "1.1 other, 1.1 headrace"
    assert origin.requests[0].headers["cdn-loop"] == "other; v=1, headrace"


async def test_viewers_are_counted_once_each(warm: Edge) -> None:
    for agent in ("one", "two", "one"):
        viewer = await warm.connect()
        for _ in range(3):
            await viewer.ask("/live/a/s", user_agent=agent)
    seen = warm.worker.viewers.snapshot()
    assert len(seen["a"]) == 3  # "one", "two", and the fixture's, which names no player


async def test_a_body_that_breaks_off_does_not_look_whole(edge: Edge, origin: ScriptedOrigin) -> None:
    """Over HTTP/1.0 the end of the connection is the end of a body of unknown length: a proxy would have kept it."""

    async def breaks_off(request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await writer.drain()
        await gate.wait()
        writer.close()

    for version in (b"1.0", b"1.1"):
        gate = asyncio.Event()
        origin.answers["/live/a/s"] = breaks_off
        viewer = await edge.connect()
        viewer.writer.write(b"GET /live/a/s HTTP/%b\r\nHost: x\r\n\r\n" % version)
        head = await viewer.head()
        assert ("transfer-encoding" in head.headers) == (version == b"1.1")
        assert await (viewer.reader.readexactly(3) if version == b"1.0" else viewer.chunk()) == b"one"
        gate.set()
        if version == b"1.0":
            with pytest.raises(ConnectionResetError):
                await viewer.reader.read()
        else:
            assert await viewer.reader.read() == b""


async def test_packed_answers_say_what_the_origin_took(edge: Edge, origin: ScriptedOrigin) -> None:
    kind = {"cache-control": "max-age=60", "content-type": "text/plain"}
    origin.answers["/live/a/p"] = answer(200, b"again and again " * 100, kind)
    reply = await edge.get("/live/a/p", accept_encoding="gzip")
    assert reply.headers["content-encoding"] == "gzip"
    [entry] = edge.worker.cache.entries.values()
    entry.fetched_s = 0.05
    entry.packed.clear()
    assert b"origin;dur=50.0" in entry.squeezed("gzip").head(0.0, b"MISS")
