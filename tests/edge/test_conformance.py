"""What the public cache and HTTP/2 suites found (see bench/conformance.py), and RFC 9213; as tests that run here."""

from __future__ import annotations

import asyncio

import pytest
from edge_double import Edge, MakeEdge, OriginRequest, ScriptedOrigin, answer

from edge import freshness
from edge.h2 import frames
from edge.h2.core import Core
from edge.h2.frames import Code, Flag, Kind

GET = bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")
"""RFC 7541 C.4.1."""


async def test_an_answer_without_a_body_has_no_framing(edge: Edge, origin: ScriptedOrigin) -> None:
    origin.answers["/live/a/n"] = answer(204, b"", {"cache-control": "max-age=60"})
    viewer = await edge.connect()
    for result in ("MISS", "HIT"):
        reply = await viewer.ask("/live/a/n")
        assert (reply.status, reply.headers["x-cache"]) == (204, result)
        assert not {"content-length", "transfer-encoding"} & reply.headers.keys()


async def test_a_304_renews_the_stored_fields_but_not_those_of_the_body(edge: Edge, origin: ScriptedOrigin) -> None:
    now = edge.worker.coalescer._clock
    shift = [0.0]
    edge.worker.site.clock = edge.worker.coalescer._clock = lambda: now() + shift[0]
    first = {"cache-control": "max-age=2", "etag": '"v"', "x-a": "1", "x-b": "1", "content-type": "text/plain"}
    again = {"cache-control": "max-age=9", "etag": '"w"', "x-a": "2", "content-encoding": "br", "via": "1.1 other"}

    async def write(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
        if request.headers.get("if-none-match") == '"v"':
            await answer(304, b"", again)(request, writer)
        else:
            await answer(200, b"body " * 200, first)(request, writer)

    origin.answers["/live/a/p"] = write
    packed = await edge.get("/live/a/p", accept_encoding="gzip")
    shift[0] = 3.0
    await edge.get("/live/a/p")
    reply = await edge.get("/live/a/p")
    assert (reply.headers["x-cache"], reply.body) == ("HIT", b"body " * 200)
    assert (reply.headers["x-a"], reply.headers["x-b"], reply.headers["etag"]) == ("2", "1", '"v"')
    assert reply.headers["cache-control"] == "max-age=9"
    assert reply.headers["via"] == "1.1 other, 1.1 headrace"
    assert "content-encoding" not in reply.headers
    after = await edge.get("/live/a/p", accept_encoding="gzip")
    assert (after.body, after.headers["x-a"], after.headers["content-encoding"]) == (packed.body, "2", "gzip")


async def test_an_answer_to_credentials_is_not_for_others(make_edge: MakeEdge, origin: ScriptedOrigin) -> None:
    edge = await make_edge(forward_headers=("authorization",))
    for control, requests in (("max-age=60", 2), ("public, max-age=60", 1), ("s-maxage=60", 1)):
        target = f"/live/a/{len(origin.answers)}"
        origin.answers[target] = answer(200, b"x", {"cache-control": control})
        await edge.get(target, authorization="Basic eDp5")
        await edge.get(target)
        assert origin.asked[target] == requests, control


async def test_vary_with_a_star_is_asked_anew_for_each(edge: Edge, origin: ScriptedOrigin) -> None:
    for vary in ("*", "accept, *", "*, *"):
        origin.answers["/live/a/v"] = answer(200, b"x", {"cache-control": "max-age=60", "vary": vary})
        origin.asked.clear()
        for _ in range(2):
            await edge.get("/live/a/v")
        assert origin.asked["/live/a/v"] == 2, vary


@pytest.mark.parametrize(
    ("status", "headers", "store", "lifetime"),
    [
        (200, {"cache-control": "max-age=60", "cdn-cache-control": "max-age=5"}, True, 5),
        (200, {"cache-control": "no-store", "cdn-cache-control": "max-age=5"}, True, 5),
        (200, {"cache-control": "max-age=60", "cdn-cache-control": "no-store"}, False, 0),
        (200, {"cache-control": "max-age=60", "cdn-cache-control": "max-age=5;x=1, private"}, False, 5),
        (200, {"cache-control": "max-age=60", "cdn-cache-control": ""}, True, 60),
        (200, {"cache-control": "max-age=60", "cdn-cache-control": "max-age=5, &"}, True, 60),
        (200, {"cache-control": "max-age=60", "cdn-cache-control": 'max-age="5"'}, True, 60),
        (200, {"expires": "Thu, 01 Jan 2099 00:00:00 GMT", "cdn-cache-control": "must-revalidate"}, True, 0),
        (200, {"date": "nonsense", "expires": "Thu, 01 Jan 1970 00:01:10 GMT"}, True, 60),
        (200, {"cache-control": "max-age=60, must-understand, no-store"}, True, 60),
        (299, {"cache-control": "max-age=60, must-understand"}, False, 60),
    ],
)
def test_what_an_origin_says_to_caches_of_our_kind(
    status: int, headers: dict[str, str], store: bool, lifetime: float
) -> None:
    found = freshness.policy(status, headers, 1, received=10.0)
    assert (found.store, found.lifetime_s) == (store, lifetime)


class Silent:
    """A handler that answers nothing, or everything with an empty body."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.core = Core(self, 16_384)
        self.core.receive(frames.PREFACE + frames.settings({}), 0.0)

    def on_head(self, stream: int, block: bytes, *, ended: bool) -> None:
        self.core.decoder.decode(block, 1000)
        opened = self.core.open(stream, ended=ended)
        if self.answers:
            self.core.head(opened, b"\x88", ended=True)

    def on_ended(self, stream: object) -> None: ...

    def on_body(self, stream: object) -> None: ...

    def on_reset(self, stream: object) -> None: ...

    def hears(self, *parts: bytes) -> list[tuple[int, int]]:
        """Kind and error of the GOAWAY and RST_STREAM frames that follow."""
        self.core.take()
        for part in parts:
            self.core.receive(part, 0.0)
        data, at, found = self.core.take(), 0, []
        while at < len(data):
            length, kind, _, _ = frames.read_header(data, at)
            payload = data[at + frames.HEADER_BYTES : at + frames.HEADER_BYTES + length]
            if kind in (Kind.GOAWAY, Kind.RST_STREAM):
                found.append((kind, int.from_bytes(payload[-4:], "big")))
            at += frames.HEADER_BYTES + length
        return found


def ask(number: int) -> bytes:
    return frames.headers(number, GET, ended=True)


ALONE = frames.frame(Kind.HEADERS, Flag.END_HEADERS | Flag.END_STREAM | Flag.PRIORITY, 1, b"\0\0\0\1\0" + GET)


def test_http2_stream_states() -> None:
    assert Silent(answers=True).hears(ask(1), ask(1)) == [(Kind.GOAWAY, Code.STREAM_CLOSED)]
    assert Silent(answers=False).hears(ask(1), ask(1)) == [(Kind.RST_STREAM, Code.STREAM_CLOSED)]
    assert Silent(answers=True).hears(ask(5), ask(3)) == [(Kind.GOAWAY, Code.PROTOCOL_ERROR)]
    after_reset = Silent(answers=False).hears(ask(1), frames.reset(1, Code.CANCEL), ask(1))
    assert after_reset == [(Kind.RST_STREAM, Code.STREAM_CLOSED)]
    assert Silent(answers=False).hears(ALONE) == [(Kind.GOAWAY, Code.PROTOCOL_ERROR)]
    priority = frames.frame(Kind.PRIORITY, 0, 1, b"\0\0\0\1\0")
    assert Silent(answers=False).hears(ask(1), priority) == [(Kind.RST_STREAM, Code.PROTOCOL_ERROR)]
    open_ = frames.headers(1, GET, ended=False)
    for answers in (True, False):
        assert Silent(answers=answers).hears(open_, ask(1)) == [(Kind.RST_STREAM, Code.PROTOCOL_ERROR)], "trailers"
