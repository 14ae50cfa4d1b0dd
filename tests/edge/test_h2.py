"""HTTP/2 over TLS with clients that we did not write: curl and nghttp; and the same rules as over HTTP/1.1."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

import pytest
from edge_certificate import write_certificate
from edge_double import Edge, MakeEdge, ScriptedOrigin, answer, held
from program import run

PLAYLIST = b"#EXTM3U\n" + b"#EXTINF:2,\nseg\n" * 100
BIG = os.urandom(700_000)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    chain, private = write_certificate(tmp_path_factory.mktemp("certificate"), "localhost")
    return {"certificate": chain, "private_key": private}


@pytest.fixture
async def secure(make_edge: MakeEdge, origin: ScriptedOrigin, certificate: dict[str, Path]) -> Edge:
    origin.answers["/live/a/p.m3u8"] = answer(
        200, PLAYLIST, {"cache-control": "max-age=60", "content-type": "application/vnd.apple.mpegurl", "etag": '"1"'}
    )
    origin.answers["/live/a/big"] = answer(200, BIG, {"cache-control": "max-age=60"})
    return await make_edge(**certificate)


async def curl(edge: Edge, target: str, *more: str) -> tuple[dict[str, str], bytes]:
    if shutil.which("curl") is None:
        pytest.skip("curl is missing")
    url = f"https://127.0.0.1:{edge.worker.tls_port}{target}"
    code, out, _ = await run("curl", "-sSk", "--http2", "--path-as-is", "-D", "-", *more, url)
    assert code == 0
    head, _, body = out.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0].startswith("HTTP/2 ")
    fields = dict(line.split(": ", 1) for line in lines[1:])
    return {":status": lines[0].split(" ")[1], **fields}, body


async def test_curl_gets_what_http1_viewers_get(secure: Edge) -> None:
    miss, body = await curl(secure, "/live/a/p.m3u8")
    assert (miss[":status"], miss["x-cache"], body) == ("200", "MISS", PLAYLIST)
    for _ in range(2):
        hit, body = await curl(secure, "/live/a/p.m3u8")
        assert (hit["x-cache"], hit["content-length"], body) == ("HIT", str(len(PLAYLIST)), PLAYLIST)
    packed, body = await curl(secure, "/live/a/p.m3u8", "--compressed")
    assert packed["content-encoding"] in ("br", "gzip")
    assert body == PLAYLIST
    plain = await secure.get("/live/a/p.m3u8")
    same = {"age", "x-cache", "date"}
    assert {k: v for k, v in plain.headers.items() if k not in same} == {
        k: v for k, v in hit.items() if k not in same and k != ":status"
    }


async def test_large_bodies_ranges_heads_and_conditions(secure: Edge) -> None:
    for _ in range(2):
        head, body = await curl(secure, "/live/a/big")
        assert body == BIG
    head, body = await curl(secure, "/live/a/big", "-r", "500000-500099")
    assert (head[":status"], body) == ("206", BIG[500_000:500_100])
    head, body = await curl(secure, "/live/a/big", "-I", "-o", "/dev/null")
    assert (head["content-length"], body) == (str(len(BIG)), b"")
    head, body = await curl(secure, "/live/a/p.m3u8", "-H", 'If-None-Match: "1"')
    assert (head[":status"], body) == ("304", b"")


@pytest.mark.parametrize(
    ("target", "more", "status"),
    [
        ("/../etc", (), "400"),
        ("/live/a%2f..", (), "400"),
        ("/" + "a" * 5000, (), "414"),
        ("/live/a/p.m3u8", ("-X", "DELETE"), "405"),
        ("/live/a/p.m3u8", ("-d", "x" * 1000), "413"),
        ("/live/a/p.m3u8", ("-X", "GET", "-d", "x" * 1000), "413"),
        ("/nothing", (), "404"),
    ],
)
async def test_refusals(secure: Edge, target: str, more: tuple[str, ...], status: str) -> None:
    head, _ = await curl(secure, target, *more)
    assert head[":status"] == status


async def test_streams_wait_together_and_arrive_as_they_come(secure: Edge, origin: ScriptedOrigin) -> None:
    gate = asyncio.Event()
    origin.answers["/live/a/wait"] = held(gate, answer(200, PLAYLIST, {"cache-control": "max-age=60"}))

    async def dripping(request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await gate.wait()
        writer.write(b"6\r\nsecond\r\n0\r\n\r\n")

    origin.answers["/live/a/drip"] = dripping
    waiting = [asyncio.create_task(curl(secure, "/live/a/wait")) for _ in range(4)]
    drip = asyncio.create_task(curl(secure, "/live/a/drip"))
    await secure.until(lambda: secure.worker.server.waiting == 5)
    gate.set()
    assert {body for _, body in await asyncio.gather(*waiting)} == {PLAYLIST}
    assert (await drip)[1] == b"firstsecond"
    assert origin.asked["/live/a/wait"] == 1


async def test_many_requests_on_few_connections(secure: Edge) -> None:
    if shutil.which("h2load") is None:
        pytest.skip("h2load is missing")
    base = f"https://127.0.0.1:{secure.worker.tls_port}"
    await curl(secure, "/live/a/big")
    _, out, _ = await run("h2load", "-n400", "-c4", "-m20", f"{base}/live/a/p.m3u8", f"{base}/live/a/big")
    assert b"400 succeeded, 0 failed" in out
    _, out, _ = await run("h2load", "-n20", "-c1", "-m4", "-w14", "-W15", f"{base}/live/a/big")
    assert b"20 succeeded, 0 failed" in out, "small windows"


async def test_draining_answers_what_is_asked(secure: Edge, origin: ScriptedOrigin) -> None:
    gate = asyncio.Event()
    origin.answers["/live/a/wait"] = held(gate, answer(200, b"done"))
    waiting = asyncio.create_task(curl(secure, "/live/a/wait"))
    await secure.until(lambda: secure.worker.server.waiting == 1)
    secure.worker.server.drain()
    gate.set()
    assert (await waiting)[1] == b"done"
    await secure.until(lambda: not secure.worker.server.connections or secure.worker.server.drain() is not None)


async def test_nghttp_speaks_with_us(secure: Edge) -> None:
    if shutil.which("nghttp") is None:
        pytest.skip("nghttp is missing")
    base = f"https://127.0.0.1:{secure.worker.tls_port}"
    _, out, _ = await run("nghttp", "-nv", "--no-dep", f"{base}/live/a/p.m3u8", f"{base}/live/a/big")
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.decode(errors="replace"))
    assert text.count(":status: 200") == 2
    assert "GOAWAY" not in text.split("send GOAWAY")[0]
    assert "SETTINGS_HEADER_TABLE_SIZE(0x01):0" in text
