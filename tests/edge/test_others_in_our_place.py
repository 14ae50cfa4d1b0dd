"""nginx and Varnish, with the files in docker/, in front of an origin with our headers on a TCP port."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from edge_double import Answer, OriginRequest, Reply, ScriptedOrigin, Viewer, held
from ports import free_port
from until import until

from packager import replies

DOCKER = Path(__file__).resolve().parents[2] / "docker"
PLAYLIST = b"#EXTM3U\n" + b"#EXTINF:2,\nseg\n" * 60
PART = bytes(range(256)) * 200


def reply(found: replies.Reply) -> Answer:
    """An answer as our origin gives it."""

    async def write(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {found.status} x", *(f"{k.decode()}: {v.decode()}" for k, v in found.headers())]
        writer.write("\r\n".join([*lines, "", ""]).encode() + b"".join(found.body))

    return write


PLAYLIST_REPLY = reply(replies.playlist(PLAYLIST, "1", 4, blocking=True))
PART_REPLY = reply(replies.media((PART,), replies.VIDEO, "2"))


def nginx(folder: Path, port: int, origin: int) -> list[str]:
    text = (DOCKER / "nginx.conf").read_text()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    for old, new in (
        ("listen 8080", f"listen 127.0.0.1:{port}"),
        ("core:8082", f"127.0.0.1:{origin}"),
        ("/var/cache/nginx/headrace", f"{folder}/cache"),
        ("worker_processes auto", "worker_processes 1"),
        ("worker_rlimit_nofile 65536;\n", ""),
        ("worker_connections 16384", "worker_connections 512"),
        ("http {\n", "http {\n" + paths),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(f"user root;\npid {folder}/nginx.pid;\ndaemon off;\n" + text)
    return ["nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]


def varnish(folder: Path, port: int, origin: int) -> list[str]:
    text = (DOCKER / "varnish.vcl").read_text()
    for old, new in (('.host = "core"', '.host = "127.0.0.1"'), ('.port = "8082"', f'.port = "{origin}"')):
        assert old in text
        text = text.replace(old, new)
    (folder / "edge.vcl").write_text(text)
    return [
        *("varnishd", "-F", "-n", str(folder / "v"), "-a", f"127.0.0.1:{port}", "-f", str(folder / "edge.vcl")),
        *("-s", "malloc,32m", "-j", "none", "-p", "thread_pools=1", "-p", "thread_pool_min=20"),
    ]


MAKERS = {"nginx": ("nginx", nginx), "varnish": ("varnishd", varnish)}


@dataclass
class Other:
    name: str
    port: int
    origin: ScriptedOrigin

    async def get(self, target: str, method: str = "GET", **headers: str) -> Reply:
        viewer = Viewer(*await asyncio.open_connection("127.0.0.1", self.port))
        try:
            async with asyncio.timeout(60):
                return await viewer.ask(target, method, **headers)
        finally:
            await viewer.close()


@pytest.fixture(params=list(MAKERS))
async def other(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Other]:
    program, command = MAKERS[request.param]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is missing")
    origin = ScriptedOrigin(tmp_path / "origin.sock")
    origin_port = await origin.start_tcp()
    port = free_port()
    with (tmp_path / "said").open("wb") as said:
        process = await asyncio.create_subprocess_exec(*command(tmp_path, port, origin_port), stdout=said, stderr=said)
    try:
        async with asyncio.timeout(60):
            while True:
                assert process.returncode is None, (tmp_path / "said").read_text()
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
        yield Other(request.param, port, origin)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        await origin.stop()


async def test_a_crowd_is_one_request_and_waits_for_a_blocked_playlist(other: Other) -> None:
    gate = asyncio.Event()
    target = "/live/a/v/media.m3u8?_HLS_msn=7&_HLS_part=2"
    other.origin.answers[target] = held(gate, PLAYLIST_REPLY)
    crowd = [asyncio.create_task(other.get(target)) for _ in range(20)]
    await until(lambda: other.origin.asked[target])
    late = [asyncio.create_task(other.get(target + "&junk=1")) for _ in range(5)]
    await asyncio.sleep(0.1)  # nobody can see that the proxy has them; too short, they prove less, and nothing fails
    gate.set()
    found = await asyncio.gather(*crowd, *late)
    assert {(item.status, item.body) for item in found} == {(200, PLAYLIST)}
    assert other.origin.asked.total() == 1
    assert (await other.get(target)).headers["x-cache"] == "HIT"


async def test_parts_are_kept_and_give_ranges_to_all(other: Other) -> None:
    other.origin.answers["/live/a/p.m4s"] = PART_REPLY
    for _ in range(2):
        found = await other.get("/live/a/p.m4s?token=abc", Cookie="a=b")
        assert (found.status, found.body) == (200, PART)
    ranged = await other.get("/live/a/p.m4s", Range="bytes=5-9")
    assert (ranged.status, ranged.body) == (206, PART[5:10])
    assert found.headers["cache-control"] == "public, max-age=3600, immutable"
    assert found.headers["access-control-allow-origin"] == "*"
    assert other.origin.asked.total() == 1
    assert "cookie" not in other.origin.requests[0].headers


async def test_an_error_is_kept_for_its_second(other: Other) -> None:
    other.origin.default = reply(replies.not_found("Nothing."))
    for _ in range(5):
        assert (await other.get("/live/a/none")).status == 404
    assert other.origin.asked.total() <= 2


async def test_playlists_are_packed(other: Other) -> None:
    other.origin.answers["/live/a/v/media.m3u8"] = PLAYLIST_REPLY
    found = await other.get("/live/a/v/media.m3u8", Accept_Encoding="gzip")
    assert gzip.decompress(found.body) == PLAYLIST


async def test_what_is_not_a_stream_never_reaches_the_origin(other: Other) -> None:
    assert (await other.get("/anything")).status == 404
    assert (await other.get("/live/a/x", method="DELETE")).status in (403, 405)
    assert not other.origin.asked
