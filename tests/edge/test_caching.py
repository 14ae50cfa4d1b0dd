"""Freshness, Age, stale answers, revalidation, Vary, gzip and the byte budget."""

from __future__ import annotations

import asyncio
import gzip
import math
import time
from collections.abc import Iterator
from email.utils import formatdate

import brotli
import pytest
from edge_double import Edge, MakeEdge, OriginRequest, ScriptedOrigin, answer

from edge import freshness
from edge.cache import Cache
from edge.entry import Entry

PLAYLIST = {"content-type": "application/vnd.apple.mpegurl"}


class Clock:
    """Moves the edge's clock without waiting."""

    def __init__(self, edge: Edge) -> None:
        self.offset = 0.0
        loop_time = asyncio.get_running_loop().time
        edge.worker.site.clock = lambda: loop_time() + self.offset
        edge.worker.coalescer._clock = edge.worker.site.clock

    def advance(self, seconds: float) -> None:
        self.offset += seconds


async def test_a_hit_tells_its_age_and_ends_with_its_lifetime(edge: Edge, origin: ScriptedOrigin) -> None:
    clock = Clock(edge)
    origin.answers["/live/a/p"] = answer(200, b"x", {"cache-control": "s-maxage=10, max-age=99"})
    first = await edge.get("/live/a/p")
    assert (first.headers["x-cache"], first.headers["age"]) == ("MISS", "0")
    clock.advance(7)
    second = await edge.get("/live/a/p")
    assert (second.headers["x-cache"], second.headers["age"]) == ("HIT", "7")
    assert second.headers["cache-control"] == "s-maxage=10, max-age=99"
    assert second.headers["access-control-allow-origin"] == "*"
    assert "Age" in second.headers["access-control-expose-headers"]
    assert second.headers["via"] == "1.1 headrace"
    clock.advance(4)
    assert (await edge.get("/live/a/p")).headers["x-cache"] == "MISS"
    assert origin.asked["/live/a/p"] == 2


async def test_the_age_of_a_cache_behind_us_counts(edge: Edge, origin: ScriptedOrigin) -> None:
    clock = Clock(edge)
    origin.answers["/live/a/p"] = answer(200, b"x", {"cache-control": "max-age=10", "age": "8"})
    assert (await edge.get("/live/a/p")).headers["age"] == "8"
    clock.advance(1)
    assert (await edge.get("/live/a/p")).headers["age"] == "9"
    clock.advance(1.5)
    assert (await edge.get("/live/a/p")).headers["x-cache"] == "MISS"


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "FAR5")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_from_utc")
def test_every_form_of_a_date_is_utc() -> None:
    """RFC 9110 5.6.7: the three forms of one instant."""
    forms = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994")
    assert {freshness.date(form) for form in forms} == {784111777.0}


def test_a_blocked_request_does_not_look_old() -> None:
    now = 1_800_000_000.6
    fresh = {"date": formatdate(1_800_000_000, usegmt=True)}
    assert freshness.initial_age(fresh, now, delay_s=1.9) == 0
    assert freshness.initial_age({"date": formatdate(1_799_999_998, usegmt=True)}, now, 5.0) == 2
    assert freshness.initial_age({"date": formatdate(1_799_990_000, usegmt=True)}, now, 0.1) == 0.1, "a wrong clock"
    assert freshness.initial_age({"age": "4", **fresh}, now, 0.1) == 4
    assert freshness.initial_age({"age": "x"}, now, 0.1) == 0


@pytest.mark.parametrize(
    ("status", "control", "store", "share", "lifetime"),
    [
        (200, "max-age=5", True, True, 5),
        (200, "max-age=5, s-maxage=2", True, True, 2),
        (200, "no-store", False, False, 0),
        (200, "private, max-age=5", False, False, 5),
        (200, "max-age=5, no-cache", True, True, 0),
        (200, 'max-age="7"', True, True, 7),
        (200, "max-age=-1", True, True, 0),
        (200, "max-age=1.5", True, True, 0),
        (200, "", True, True, 0),
        (404, "", True, True, 1),
        (404, "max-age=8", True, True, 8),
        (404, "no-store", False, True, 1),
        (503, "no-store", True, True, 1),
        (503, "private", False, False, 1),
        (302, "", False, True, 0),
    ],
)
def test_policy(status: int, control: str, store: bool, share: bool, lifetime: float) -> None:
    found = freshness.policy(status, {"cache-control": control}, negative_s=1)
    assert (found.store, found.share, found.lifetime_s) == (store, share, lifetime)


def test_expires() -> None:
    date = formatdate(1_800_000_000, usegmt=True)
    later = formatdate(1_800_000_030, usegmt=True)
    assert freshness.policy(200, {"date": date, "expires": later}, 1).lifetime_s == 30
    assert freshness.policy(200, {"date": date, "expires": "0"}, 1).lifetime_s == 0


async def test_a_stale_entry_is_revalidated_and_its_body_not_fetched_again(edge: Edge, origin: ScriptedOrigin) -> None:
    clock = Clock(edge)

    async def conditional(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
        headers = {"cache-control": "max-age=2", "etag": '"v1"'}
        same = request.headers.get("if-none-match") == '"v1"'
        await answer(304 if same else 200, b"" if same else b"body", headers)(request, writer)

    origin.answers["/live/a/p"] = conditional
    await edge.get("/live/a/p")
    clock.advance(3)
    reply = await edge.get("/live/a/p")
    assert (reply.status, reply.body, reply.headers["age"]) == (200, b"body", "0")
    assert (await edge.get("/live/a/p")).headers["x-cache"] == "HIT"
    assert origin.asked["/live/a/p"] == 2


async def test_stale_while_revalidate_answers_at_once(edge: Edge, origin: ScriptedOrigin) -> None:
    clock = Clock(edge)
    control = {"cache-control": "max-age=2, stale-while-revalidate=10"}
    origin.answers["/live/a/p"] = answer(200, b"old", control)
    await edge.get("/live/a/p")
    origin.answers["/live/a/p"] = answer(200, b"new", control)
    clock.advance(3)
    reply = await edge.get("/live/a/p")
    assert (reply.body, reply.headers["x-cache"], reply.headers["age"]) == (b"old", "STALE", "3")
    await edge.until(lambda: edge.worker.coalescer.flights == 0)
    reply = await edge.get("/live/a/p")
    assert (reply.body, reply.headers["x-cache"]) == (b"new", "HIT")
    assert origin.asked["/live/a/p"] == 2


@pytest.mark.parametrize("gone", [True, False])
async def test_stale_if_error(make_edge: MakeEdge, origin: ScriptedOrigin, gone: bool) -> None:
    edge = await make_edge()
    clock = Clock(edge)
    origin.answers["/live/a/p"] = answer(200, b"old", {"cache-control": "max-age=2, stale-if-error=10"})
    await edge.get("/live/a/p")
    clock.advance(3)
    if gone:
        await origin.stop()
    origin.answers["/live/a/p"] = answer(503, b"broken", {})
    reply = await edge.get("/live/a/p")
    assert (reply.status, reply.body, reply.headers["x-cache"]) == (200, b"old", "STALE")
    asked = edge.worker.upstream.requests
    assert (await edge.get("/live/a/p")).headers["x-cache"] == "STALE"
    assert edge.worker.upstream.requests == asked, "a failing origin is asked once a second, not by every viewer"
    clock.advance(20)
    assert (await edge.get("/live/a/p")).status in (502, 503)
    if gone:
        await origin.start()


async def test_errors_are_remembered_for_a_second(edge: Edge, origin: ScriptedOrigin) -> None:
    clock = Clock(edge)
    origin.default = answer(404, b"", {})
    assert [(await edge.get("/live/a/no")).status for _ in range(3)] == [404] * 3
    assert origin.asked["/live/a/no"] == 1
    clock.advance(1.1)
    await edge.get("/live/a/no")
    assert origin.asked["/live/a/no"] == 2


async def test_packed_text_is_made_once_per_version_and_has_its_own_validator(
    edge: Edge, origin: ScriptedOrigin
) -> None:
    body = b"#EXTINF:2,\nseg.m4s\n" * 100
    origin.answers["/live/a/i.m3u8"] = answer(200, body, {**PLAYLIST, "cache-control": "max-age=60", "etag": '"a"'})
    plain = await edge.get("/live/a/i.m3u8")
    for _ in range(2):
        squeezed = await edge.get("/live/a/i.m3u8", accept_encoding="br;q=0.1, gzip;q=0.8")
        assert squeezed.headers["content-encoding"] == "gzip"
        assert gzip.decompress(squeezed.body) == body
    assert plain.body == body
    assert plain.headers["vary"] == squeezed.headers["vary"] == "accept-encoding"
    assert (plain.headers["etag"], squeezed.headers["etag"]) == ('"a"', '"a-gz"')
    for _ in range(2):
        smaller = await edge.get("/live/a/i.m3u8", accept_encoding="gzip, deflate, br")
        assert (smaller.headers["content-encoding"], smaller.headers["etag"]) == ("br", '"a-br"')
        assert brotli.decompress(smaller.body) == body
    refused = await edge.get("/live/a/i.m3u8", accept_encoding="gzip;q=0")
    assert "content-encoding" not in refused.headers
    same = await edge.get("/live/a/i.m3u8", accept_encoding="gzip", if_none_match='W/"a-gz"')
    assert same.status == 304
    assert origin.asked["/live/a/i.m3u8"] == 1
    assert {request.headers["accept-encoding"] for request in origin.requests} == {"identity"}


async def test_media_are_never_squeezed(edge: Edge, origin: ScriptedOrigin) -> None:
    origin.answers["/live/a/s.m4s"] = answer(
        200, bytes(5000), {"content-type": "video/mp4", "cache-control": "max-age=9"}
    )
    assert "content-encoding" not in (await edge.get("/live/a/s.m4s", accept_encoding="gzip")).headers


async def test_vary_keeps_variants_apart(make_edge: MakeEdge, origin: ScriptedOrigin) -> None:
    edge = await make_edge(forward_headers=("accept-language",))

    async def greeting(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
        body = request.headers.get("accept-language", "none").encode()
        await answer(200, body, {"cache-control": "max-age=60", "vary": "Accept-Language"})(request, writer)

    origin.answers["/live/a/p"] = greeting
    for _ in range(2):
        for language in ("de", "fr"):
            assert (await edge.get("/live/a/p", accept_language=language)).body == language.encode()
    assert origin.asked["/live/a/p"] == 2
    replies = await asyncio.gather(*(edge.get("/live/a/p", accept_language=f"x{i % 3}") for i in range(30)))
    assert [reply.body for reply in replies] == [f"x{i % 3}".encode() for i in range(30)]
    assert origin.asked["/live/a/p"] == 5


async def test_purge_forgets_a_stream_also_what_is_on_its_way(edge: Edge, origin: ScriptedOrigin) -> None:
    for name in ("a", "b"):
        origin.answers[f"/live/{name}/p"] = answer(200, b"x", {"cache-control": "max-age=60"})
        await edge.get(f"/live/{name}/p")
    assert edge.worker._obey({"do": "purge", "prefix": "/live/a/"}) == {"purged": 1}
    assert (await edge.get("/live/a/p")).headers["x-cache"] == "MISS"
    assert (await edge.get("/live/b/p")).headers["x-cache"] == "HIT"


def entry(key: str, size: int, kind: bytes = b"video/mp4") -> Entry:
    made = Entry(key, 200, ((b"content-type", kind),), bytes(size), now=0.0)
    made.fresh_until = made.revalidate_until = made.error_until = math.inf
    return made


def test_the_budget_holds_and_pools_do_not_push_each_other_out() -> None:
    cache = Cache(1_000_000, 0.2, 10_000)
    cache.put(entry("/playlist", 4_000, b"application/vnd.apple.mpegurl"), "/playlist")
    for number in range(200):
        cache.put(entry(f"/seg{number}", 50_000), f"/seg{number}")
        assert cache.bytes <= cache.budget
    assert "/playlist" in cache.entries
    assert "/seg199" in cache.entries
    assert cache.evictions >= 180
    segments = sum(key.startswith("/seg") for key in cache.entries)
    for number in range(200):
        cache.put(entry(f"/text{number}", 4_000, b"text/plain"), f"/text{number}")
    assert sum(key.startswith("/seg") for key in cache.entries) == segments
    cache.put(entry("/huge", 2_000_000), "/huge")
    assert "/huge" not in cache.entries


def test_what_is_used_stays() -> None:
    cache = Cache(1_000_000, 0.2, 10_000)
    cache.put(entry("/hot", 50_000), "/hot")
    for number in range(200):
        cache.entries["/hot"].used = True
        cache.put(entry(f"/seg{number}", 50_000), f"/seg{number}")
    assert "/hot" in cache.entries


def test_a_flood_of_urls_is_bounded() -> None:
    cache = Cache(10_000_000, 0.2, 1000)
    for number in range(20_000):
        cache.put(entry(f"/{number}", 0), f"/{number}")
    assert len(cache) <= 1000


def test_dead_entries_are_forgotten() -> None:
    cache = Cache(1_000_000, 0.2, 1000)
    dead = entry("/a", 10)
    dead.fresh_until = dead.revalidate_until = dead.error_until = 5.0
    cache.put(dead, "/a")
    cache.put(entry("/b", 10), "/b")
    assert cache.expire(4.9) == 0
    assert cache.expire(5.1) == 1
    assert list(cache.entries) == ["/b"]
