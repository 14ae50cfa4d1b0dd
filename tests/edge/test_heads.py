"""The memos of request heads: whatever the short path lets through means the same on the long way."""

from __future__ import annotations

import pytest
from edge_double import Edge, MakeEdge, ScriptedOrigin, answer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge import request
from edge.heads import PER_GENERATION, Heads
from media.errors import ProtocolError

LINES = [
    b"Host: edge.test",
    b"host: a:80",
    b"Host : a",
    b"Host: a b",
    b"Accept-Encoding: gzip, br",
    b"Accept-Encoding: gzip;q=0",
    b"Connection: keep-alive",
    b"Connection: close",
    b"Connection: upgrade",
    b"Transfer-Encoding: chunked",
    b"Content-Length: 0",
    b"Content-Length: 7",
    b"Expect: 100-continue",
    b"Authorization: Bearer abc",
    b"Range: bytes=0-1",
    b"If-None-Match: *",
    b"If-Modified-Since: x",
    b"If-Range: x",
    b"Via: 1.1 a",
    b"X-Forwarded-For: 1.2.3.4",
    b"Forwarded: for=1.2.3.4",
    b"Upgrade: h2c",
    b"User-Agent: player/1",
    b"Cookie: a=b",
    b"X-Playback-Session-Id: 0",
    b" folded",
    b"no colon",
    b"nul: \0",
    b"lf: a\nRange: bytes=0-1",
    b"cr: a\rb",
    b": x",
    b"",
]
line = st.one_of(st.sampled_from(LINES), st.binary(max_size=12), st.sampled_from(LINES).map(bytes.lower))


def heads() -> Heads:
    return Heads(frozenset({"_HLS_msn"}), 4096, 16_384)


@settings(max_examples=1500, deadline=None)
@given(st.lists(line, max_size=6), st.sampled_from([b"\r\n\r\n", b"\r\n", b"", b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"]))
@example([b"Host: a", b"", b"GET /other HTTP/1.1", b"Host: b"], b"\r\n\r\n")
@example([b"Host: a", b"Host: a"], b"\r\n\r\n")
def test_what_the_scan_lets_through_is_ordinary(lines: list[bytes], end: bytes) -> None:
    block = b"\r\n".join([b"Host: edge.test", *lines]) + end
    coding = heads()._scan(block)
    if coding is not None:
        said = request.parse_fields(block, False)
        assert said.ordinary
        assert said.coding == coding


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(line, max_size=4), min_size=2, max_size=5))
def test_memory_changes_no_answer(blocks: list[list[bytes]]) -> None:
    memory, last = heads(), None
    for lines in [*blocks, *blocks]:
        head = b"\r\n".join([b"GET /live/a?_HLS_msn=1 HTTP/1.1", b"Host: x", *lines]) + b"\r\n\r\n"
        short = memory.short(head, last)
        try:
            fresh = request.parse(head, frozenset({"_HLS_msn"}))
        except ProtocolError:
            assert short is None
            with pytest.raises(ProtocolError):
                memory.parse(head, last)
            continue
        found, said = memory.parse(head, last)
        assert (found.key, found.plain, found.coding, found.headers) == (
            fresh.key,
            fresh.plain,
            fresh.coding,
            fresh.headers,
        )
        if short is not None:
            assert fresh.plain
            assert short[:2] == (fresh.key, fresh.coding)
        last = said if said.block is not None else last


def test_memory_is_bounded_whatever_viewers_say() -> None:
    memory = heads()
    for number in range(6 * PER_GENERATION):
        head = b"GET /live/%d HTTP/1.1\r\nHost: x\r\nA: %d\r\n\r\n" % (number, number)
        memory.parse(head)
        memory.short(head.replace(b"A:", b"B:"), None)
    for memo in (memory._plain, memory._blocks, memory._targets._found):
        assert len(memo) + len(memo._old) <= 2 * PER_GENERATION
    assert len(memory._judged) <= request.MAX_LINES
    assert len(memory._lines) <= request.MAX_LINES


async def test_a_viewer_with_a_head_of_its_own_takes_the_short_path(
    make_edge: MakeEdge, origin: ScriptedOrigin
) -> None:
    edge: Edge = await make_edge()
    origin.answers["/live/a/s"] = answer(200, b"x", {"cache-control": "max-age=60"})
    await edge.get("/live/a/s")
    long_way = []
    handle = edge.worker.site.handle
    edge.worker.site.handle = lambda asked, sink: (long_way.append(asked.headers["cookie"]), handle(asked, sink))[1]
    viewers = [await edge.connect() for _ in range(3)]
    for _ in range(4):
        for number, viewer in enumerate(viewers):
            assert (await viewer.ask("/live/a/s", cookie=f"own={number}")).body == b"x"
    assert len(long_way) == 3, "only each viewer's first request, which counts it"


async def test_a_head_is_as_long_as_it_may_be_on_every_way(make_edge: MakeEdge, origin: ScriptedOrigin) -> None:
    """What one viewer asked for before, another got with a head of any length, the first time."""
    edge: Edge = await make_edge(max_head_bytes=1000)
    origin.answers["/live/a/s"] = answer(200, b"x", {"cache-control": "max-age=60"})
    viewer = await edge.connect()
    assert (await viewer.ask("/live/a/s", cookie="short")).status == 200
    assert (await viewer.ask("/live/a/s", cookie="y" * 900)).status == 200
    assert (await viewer.ask("/live/a/s", cookie="y" * 1000)).status == 431
