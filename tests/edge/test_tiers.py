"""Several upstreams: preference, another one in a failing one's place, checks; an edge behind an edge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from edge_double import Edge, MakeEdge, OriginRequest, ScriptedOrigin, answer

from edge.upstream import Choice, Upstream

GOOD = {"cache-control": "max-age=60"}


@pytest.fixture
async def second(tmp_path: Path) -> AsyncIterator[ScriptedOrigin]:
    found = ScriptedOrigin(tmp_path / "second.sock")
    await found.start()
    yield found
    await found.stop()


def upstream(urls: tuple[str, ...], choice: Choice) -> Upstream:
    return Upstream(
        urls, connections=1, queue=1, connect_timeout_s=1, first_byte_timeout_s=1, body_timeout_s=1, choice=choice
    )


async def test_each_stream_has_its_own_order_and_keeps_it() -> None:
    urls = tuple(f"http://shield-{number}" for number in range(4))

    def first(of: tuple[str, ...]) -> dict[str, str]:
        asked = upstream(of, Choice.SPREAD)
        return {f"s{n}": asked.order(f"/live/s{n}/720p/media.m3u8", 0)[0].url for n in range(200)}

    before = first(urls)
    assert {url: list(before.values()).count(url) > 25 for url in urls} == dict.fromkeys(urls, True)
    assert first(tuple(reversed(urls))) == before
    spread = upstream(urls, Choice.SPREAD)
    assert spread.order("/live/s1/a", 0) == spread.order("/live/s1/b/c?d", 0)
    after = first(urls[:3])
    assert all(after[name] == url for name, url in before.items() if url != urls[3]), "others do not move"
    plain = upstream(urls, Choice.FIRST)
    plain.order("/x", 0)[0].up = False
    assert [address.url for address in plain.order("/x", 0)] == [*urls[1:], urls[0]]


@pytest.mark.parametrize("status", [502, 504])
async def test_another_is_asked_for_what_one_cannot_get(
    make_edge: MakeEdge, origin: ScriptedOrigin, second: ScriptedOrigin, status: int
) -> None:
    edge = await make_edge(upstream=(origin.url, second.url), health_interval_s=0)
    origin.default, second.default = answer(status, b"gone"), answer(200, b"here", GOOD)
    for number in range(3):  # over the same connections, too
        reply = await edge.get(f"/live/a/{number}")
        assert (reply.status, reply.body) == (200, b"here")
    second.default = answer(status, b"gone too", GOOD)
    assert (await edge.get("/live/a/last")).status == status
    assert (origin.asked["/live/a/last"], second.asked["/live/a/last"]) == (1, 1)
    origin.default = answer(503, b"wait", GOOD)
    assert (await edge.get("/live/a/late")).status == 503
    assert not second.asked["/live/a/late"], "503 is what the origin has to say"


async def test_checks_take_one_out_and_in_again(
    make_edge: MakeEdge, origin: ScriptedOrigin, second: ScriptedOrigin
) -> None:
    edge = await make_edge(upstream=(origin.url, second.url), health_interval_s=0.02, health_path="/health")
    origin.default, second.default = answer(200, b"first", {}), answer(200, b"second", {})
    sick = False

    async def health(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
        await answer(500 if sick else 404, b"", {"connection": "close"})(request, writer)

    origin.answers["/health"] = second.answers["/health"] = health

    def up() -> list[float]:
        return [values[0] for values in edge.worker.upstream.snapshot().values()]

    async def who() -> bytes:
        return (await edge.get("/live/a/x")).body

    await edge.until(lambda: origin.asked["/health"] > 2)
    assert await who() == b"first"
    second.answers["/health"] = answer(404, b"", {"connection": "close"})
    sick = True
    await edge.until(lambda: up() == [0, 1])
    assert await who() == b"second"
    sick = False
    await edge.until(lambda: up() == [1, 1])
    assert await who() == b"first"
    await origin.stop()
    assert await who() == b"second", "between two checks, or after one"
    await origin.start()
    await edge.until(lambda: up() == [1, 1])
    assert await who() == b"first"
    asked = edge.worker.snapshot().upstreams[origin.url]
    assert asked[1] >= 3


async def test_what_one_cannot_give_is_counted(
    make_edge: MakeEdge, origin: ScriptedOrigin, second: ScriptedOrigin
) -> None:
    edge = await make_edge(upstream=(origin.url, second.url), health_interval_s=0)
    second.default = answer(200, b"second", {})
    await origin.stop()
    assert (await edge.get("/live/a/x")).body == b"second"
    assert edge.worker.snapshot().upstreams[origin.url][2] == 1


async def test_an_edge_behind_an_edge(make_edge: MakeEdge, origin: ScriptedOrigin, edge: Edge) -> None:
    origin.answers["/live/a/p"] = answer(200, b"x", GOOD)
    shield = f"http://127.0.0.1:{edge.worker.port}"
    front = await make_edge(upstream=(shield,), name="front")
    other = await make_edge(upstream=(shield,), name="other")
    for item in (front, other, front):
        assert (await item.get("/live/a/p")).body == b"x"
    assert origin.asked["/live/a/p"] == 1
    assert (await front.get("/live/a/p")).headers["via"] == "1.1 headrace, 1.1 front"
    same = await make_edge(upstream=(shield,))
    reply = await same.get("/live/a/p")
    assert reply.status == 508
    assert b"edge.name" in reply.body
