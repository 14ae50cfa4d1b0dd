"""One upstream request per object, whatever the crowd; streaming joiners; failing origins."""

from __future__ import annotations

import asyncio

from edge_double import Edge, MakeEdge, OriginRequest, Reply, ScriptedOrigin, answer, held

CROWD = 500


async def crowd(edge: Edge, target: str, count: int = CROWD) -> list[asyncio.Task[Reply]]:
    """`count` viewers, all of whom have asked and wait."""
    viewers = await asyncio.gather(*(edge.connect() for _ in range(count)))
    tasks = [asyncio.create_task(viewer.ask(target)) for viewer in viewers]
    await edge.until(lambda: edge.worker.server.waiting >= count)
    return tasks


async def test_a_crowd_that_waits_is_one_request_and_is_woken_together(edge: Edge, origin: ScriptedOrigin) -> None:
    gate = asyncio.Event()
    target = "/live/a/720p/media.m3u8?_HLS_msn=7&_HLS_part=2"
    origin.answers[target] = held(gate, answer(200, b"#EXTM3U\n", {"cache-control": "max-age=12"}))
    tasks = await crowd(edge, "/live/a/720p/media.m3u8?cmcd=x&_HLS_part=2&_HLS_msn=7")
    gate.set()
    replies = await asyncio.gather(*tasks)
    assert {reply.body for reply in replies} == {b"#EXTM3U\n"}
    assert sorted({reply.headers["x-cache"] for reply in replies}) == ["COALESCED", "MISS"]
    assert sum(reply.headers["x-cache"] == "MISS" for reply in replies) == 1
    assert origin.asked == {target: 1}
    assert edge.worker.stats.coalesced == CROWD - 1
    assert edge.worker.stats.miss == 1


async def test_a_crowd_on_an_error_is_one_request_too(edge: Edge, origin: ScriptedOrigin) -> None:
    gate = asyncio.Event()
    origin.answers["/live/a/x"] = held(gate, answer(503, b"no", {}))
    tasks = await crowd(edge, "/live/a/x")
    gate.set()
    assert {reply.status for reply in await asyncio.gather(*tasks)} == {503}
    assert (await edge.get("/live/a/x")).status == 503
    assert origin.asked["/live/a/x"] == 1


async def test_an_unreachable_origin_is_tried_twice_for_all(make_edge: MakeEdge, origin: ScriptedOrigin) -> None:
    edge = await make_edge()
    await origin.stop()
    replies = await asyncio.gather(*(edge.get("/live/a/x") for _ in range(50)))
    assert {reply.status for reply in replies} == {502}
    assert replies[0].headers["retry-after"] == "1"
    assert edge.worker.stats.upstream_failures == 1
    await origin.start()


async def test_a_way_that_one_viewer_invents_is_no_matter_of_the_others(edge: Edge, origin: ScriptedOrigin) -> None:
    """A shield behind us finds its own name in CDN-Loop."""
    gate = asyncio.Event()

    async def shield(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        looped = "shield" in request.headers["cdn-loop"]
        await answer(508 if looped else 200, b"x", {"cache-control": "max-age=60"})(request, writer)

    origin.answers["/live/a/x"] = shield
    liar = await edge.connect()
    liar.send("/live/a/x", cdn_loop="shield")
    await edge.until(lambda: origin.asked["/live/a/x"] == 1)
    tasks = await crowd(edge, "/live/a/x")
    gate.set()
    assert (await liar.reply()).status == 508
    assert {reply.status for reply in await asyncio.gather(*tasks)} == {200}
    assert origin.asked["/live/a/x"] == 2
    assert (await edge.get("/live/a/x")).status == 200
    assert (await edge.get("/live/a/y", via=", ".join(["1.1 elsewhere"] * 200))).status == 508


async def test_a_small_answer_that_breaks_off_counts_as_an_error(edge: Edge, origin: ScriptedOrigin) -> None:
    async def broken(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 100\r\n\r\n" + bytes(50))
        writer.close()

    origin.answers["/live/a/x"] = broken
    assert (await edge.get("/live/a/x")).status == 502
    assert (edge.worker.stats.error, edge.worker.stats.miss) == (1, 0)


async def test_a_viewer_that_leaves_cancels_nothing(edge: Edge, origin: ScriptedOrigin) -> None:
    gate = asyncio.Event()
    origin.answers["/live/a/p"] = held(gate, answer(200, b"part", {"cache-control": "max-age=12"}))
    first, second = await edge.connect(), await edge.connect()
    first.send("/live/a/p")
    await edge.until(lambda: origin.asked["/live/a/p"] == 1)
    second.send("/live/a/p")
    await edge.until(lambda: edge.worker.server.waiting == 2)
    await first.close()
    await edge.until(lambda: edge.worker.server.waiting == 1)
    gate.set()
    reply = await second.reply()
    assert (reply.body, reply.headers["x-cache"]) == (b"part", "COALESCED")
    assert origin.asked["/live/a/p"] == 1


async def test_all_leave_and_the_answer_is_cached_all_the_same(edge: Edge, origin: ScriptedOrigin) -> None:
    gate = asyncio.Event()
    origin.answers["/live/a/p"] = held(gate, answer(200, b"part", {"cache-control": "max-age=12"}))
    viewer = await edge.connect()
    viewer.send("/live/a/p")
    await edge.until(lambda: origin.asked["/live/a/p"] == 1)
    await viewer.close()
    await edge.until(lambda: edge.worker.server.waiting == 0)
    gate.set()
    await edge.until(lambda: len(edge.worker.cache) == 1)
    assert (await edge.get("/live/a/p")).headers["x-cache"] == "HIT"


async def test_a_body_in_progress_goes_to_joiners_as_it_comes(edge: Edge, origin: ScriptedOrigin) -> None:
    steps: asyncio.Queue[bytes] = asyncio.Queue()

    async def dripping(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n")
        while data := await steps.get():
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        writer.write(b"0\r\n\r\n")

    origin.answers["/live/a/seg"] = dripping
    first = await edge.connect()
    first.send("/live/a/seg")
    steps.put_nowait(b"one")
    assert (await first.head()).headers["transfer-encoding"] == "chunked"
    assert await first.chunk() == b"one"
    late = await edge.connect()
    late.send("/live/a/seg")
    assert (await late.head()).headers["x-cache"] == "COALESCED"
    assert await late.chunk() == b"one"
    steps.put_nowait(b"two")
    assert (await first.chunk(), await late.chunk()) == (b"two", b"two")
    ranged = await edge.connect()
    ranged.send("/live/a/seg", range="bytes=2-4")
    await edge.until(lambda: edge.worker.server.waiting == 3)
    steps.put_nowait(b"")
    assert (await first.chunk(), await late.chunk()) == (b"", b"")
    reply = await ranged.reply()
    assert (reply.status, reply.body, reply.headers["content-range"]) == (206, b"etw", "bytes 2-4/6")
    whole = await edge.get("/live/a/seg")
    assert (whole.body, whole.headers["content-length"], whole.headers["x-cache"]) == (b"onetwo", "6", "HIT")
    assert origin.asked["/live/a/seg"] == 1


async def test_a_range_from_the_middle_of_a_body_still_arriving(edge: Edge, origin: ScriptedOrigin) -> None:
    gate = asyncio.Event()
    body = bytes(range(256)) * 1024

    async def halves(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body[: len(body) // 2])
        await gate.wait()
        writer.write(body[len(body) // 2 :])

    origin.answers["/live/a/seg"] = halves
    early, late = await edge.connect(), await edge.connect()
    early.send("/live/a/seg", range="bytes=1000-70000")
    assert (await early.reply()).body == body[1000:70001]
    late.send("/live/a/seg", range="bytes=-100001")
    assert (await late.head()).headers["content-range"] == f"bytes {len(body) - 100001}-{len(body) - 1}/{len(body)}"
    gate.set()
    assert await late.reader.readexactly(100001) == body[-100001:]
    assert origin.asked["/live/a/seg"] == 1


async def test_a_body_that_breaks_off_is_cut_for_viewers_and_not_cached(edge: Edge, origin: ScriptedOrigin) -> None:
    async def broken(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 100000\r\n\r\n" + bytes(50_000))
        await writer.drain()
        writer.close()

    origin.answers["/live/a/seg"] = broken
    viewer = await edge.connect()
    viewer.send("/live/a/seg")
    assert (await viewer.head()).headers["content-length"] == "100000"
    assert len(await viewer.reader.read(-1)) <= 50_000
    origin.answers["/live/a/seg"] = answer(200, b"good", {"cache-control": "max-age=60"})
    assert (await edge.get("/live/a/seg")).body == b"good"


async def test_an_answer_that_must_not_be_shared_is_not(edge: Edge, origin: ScriptedOrigin) -> None:
    gate = asyncio.Event()
    count = 0

    async def each(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        await answer(200, b"%d" % count, {"cache-control": "no-store"})(request, writer)

    origin.answers["/live/a/time"] = held(gate, each)
    tasks = await crowd(edge, "/live/a/time", 20)
    gate.set()
    replies = await asyncio.gather(*tasks)
    assert len({reply.body for reply in replies}) == 20
    assert {reply.headers["x-cache"] for reply in replies} == {"MISS"}


async def test_an_idle_origin_connection_that_was_closed_is_no_error(edge: Edge, origin: ScriptedOrigin) -> None:
    origin.answers["/live/a/1"] = origin.answers["/live/a/2"] = answer(200, b"x", {"cache-control": "max-age=9"})
    assert (await edge.get("/live/a/1")).status == 200
    await origin.stop()
    await origin.start()
    assert (await edge.get("/live/a/2")).status == 200


async def test_a_second_upstream_stands_in(make_edge: MakeEdge, origin: ScriptedOrigin) -> None:
    edge = await make_edge(upstream=(f"unix:{origin.path}.gone", origin.url))
    origin.answers["/live/a/1"] = answer(200, b"x", {"cache-control": "max-age=9"})
    assert (await edge.get("/live/a/1")).body == b"x"


async def test_a_full_upstream_queue_answers_503(make_edge: MakeEdge, origin: ScriptedOrigin) -> None:
    edge = await make_edge(upstream_connections=1, upstream_queue=0)
    gate = asyncio.Event()
    origin.answers["/live/a/1"] = held(gate, answer(200, b"x", {}))
    first = await edge.connect()
    first.send("/live/a/1")
    await edge.until(lambda: origin.asked["/live/a/1"] == 1)
    reply = await edge.get("/live/a/2")
    assert (reply.status, reply.body) == (503, b"503 upstream_queue_full\n")
    assert edge.worker.stats.queue_drops == 1
    gate.set()
    assert (await first.reply()).status == 200
