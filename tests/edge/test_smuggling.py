"""Smuggled requests and paths that climb, through a real worker: what reaches the server behind it.

Behind it stand nginx, which reads requests its own way, another edge of ours, and a recorder of bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
from edge_double import Edge, MakeEdge, OriginRequest, ScriptedOrigin, answer
from ports import free_port

GOOD = b"GET /live/a/p HTTP/1.1\r\nHost: edge.test\r\n\r\n"
EVIL = b"GET /evil HTTP/1.1\r\nHost: edge.test\r\n\r\n"
ECHO = {"cache-control": "no-store"}


class Behind(Protocol):
    """A server behind the edge."""

    url: str

    async def seen(self) -> list[str]:
        """The targets that it was asked for."""
        ...


@dataclass
class Nginx:
    url: str
    log: Path

    def _lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    async def seen(self) -> list[str]:
        async with asyncio.timeout(60):  # it writes a line after the answer
            while not (lines := self._lines()) or not lines[-1].startswith("GET /live/last "):  # noqa: ASYNC110 (another process)
                await asyncio.sleep(0.01)
        assert all(line.endswith(" HTTP/1.1 200") for line in lines), lines
        return [line.split(" ")[1] for line in lines[:-1]]


@dataclass
class Recorder:
    url: str
    origin: ScriptedOrigin

    async def seen(self) -> list[str]:
        return [request.target for request in self.origin.requests[:-1]]


async def echo(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
    await answer(200, request.target.encode(), ECHO)(request, writer)


@contextlib.asynccontextmanager
async def nginx(folder: Path) -> AsyncIterator[Nginx]:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is missing")
    port = free_port()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    (folder / "seen.log").touch()
    (folder / "nginx.conf").write_text(
        f"user root;\npid {folder}/nginx.pid;\ndaemon off;\nworker_processes 1;\nevents {{ worker_connections 64; }}\n"
        "http {\n"
        + "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
        + f"log_format seen escape=none '$request $status';\naccess_log {folder}/seen.log seen;\n"
        f"server {{ listen 127.0.0.1:{port}; merge_slashes off;\n"
        "location / { add_header Cache-Control no-store; return 200 $request_uri; } }\n}\n"
    )
    process = await asyncio.create_subprocess_exec(
        *("nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf"))
    )
    try:
        async with asyncio.timeout(60):
            while True:
                assert process.returncode is None, (folder / "error.log").read_text()
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        yield Nginx(f"http://127.0.0.1:{port}", folder / "seen.log")
    finally:
        process.terminate()
        await process.wait()


@pytest.fixture(params=["recorder", "nginx", "edge"])
async def behind(
    request: pytest.FixtureRequest, tmp_path: Path, origin: ScriptedOrigin, make_edge: MakeEdge
) -> AsyncIterator[Behind]:
    origin.default = echo
    if request.param == "nginx":
        async with nginx(tmp_path) as server:
            yield server
    elif request.param == "edge":
        shield = await make_edge(name="shield")
        yield Recorder(f"http://127.0.0.1:{shield.worker.port}", origin)
    else:
        yield Recorder(origin.url, origin)


async def through(edge: Edge, raw: bytes) -> list[tuple[int, bytes]]:
    """Send bytes on a connection of their own, close our side, and read all answers."""
    viewer = await edge.connect()
    viewer.writer.write(raw)
    found = []
    async with asyncio.timeout(60):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                reply = await viewer.reply()
                found.append((reply.status, reply.body))
                if reply.headers.get("connection") == "close" or len(found) == raw.count(b" HTTP/1."):
                    break
    await viewer.close()
    return found


def get(*fields: bytes, target: bytes = b"/live/a/p") -> bytes:
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: edge.test", *fields, b"", b""])


SMUGGLED = {
    "length and chunked": get(b"Content-Length: 6", b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + EVIL,
    "chunked and length": get(b"Transfer-Encoding: chunked", b"Content-Length: 5") + b"0\r\n\r\n" + EVIL,
    "length and a request as body": get(b"Content-Length: %d" % len(EVIL)) + EVIL,
    "chunked with an extension": get(b"Transfer-Encoding: chunked") + b'5;x="\r\n' + EVIL + b"0\r\n\r\n",
    "chunked, in other letters": get(b"tRANSFER-eNCODING: Chunked") + b"0\r\n\r\n" + EVIL,
    "chunked, misspelt": get(b"Transfer-Encoding: xchunked") + EVIL,
    "chunked behind a tab": get(b"Transfer-Encoding:\tchunked") + EVIL,
    "blank before the colon": get(b"Transfer-Encoding : chunked") + EVIL,
    "chunked on a folded line": get(b"Transfer-Encoding:", b" chunked") + EVIL,
    "a folded first line": b"GET /live/a/p HTTP/1.1\r\n Host: edge.test\r\n\r\n" + EVIL,
    "a folded field": get(b"X: a", b"\tContent-Length: 50") + EVIL,
    "two lengths alike": get(b"Content-Length: 0", b"Content-Length: 0") + EVIL,
    "two lengths": get(b"Content-Length: 0", b"Content-Length: %d" % len(EVIL)) + EVIL,
    "a list of lengths": get(b"Content-Length: 0, 44") + EVIL,
    "a length with a sign": get(b"Content-Length: +44") + EVIL,
    "a hexadecimal length": get(b"Content-Length: 0x2c") + EVIL,
    "a length in other digits": get("Content-Length: ²".encode("latin-1")) + EVIL,
    "a length beyond all": get(b"Content-Length: " + b"0" * 30 + b"44") + EVIL,
    "bare line feeds": GOOD.replace(b"\r\n", b"\n") + EVIL,
    "a field behind a bare line feed": get(b"X: y\nContent-Length: 44") + EVIL,
    "a field behind a bare return": get(b"X: y\rContent-Length: 44") + EVIL,
    "a request behind a bare line feed": b"GET /live/a/p HTTP/1.1\r\nHost: edge.test\r\nX: y\n\n" + EVIL,
    "nul in a value": get(b"X: y\0z") + EVIL,
    "nul in a name": get(b"X\0: y") + EVIL,
    "no colon": get(b"X") + EVIL,
    "no name": get(b": x") + EVIL,
    "two hosts": get(b"Host: evil.test") + EVIL,
    "a host with a path": GOOD.replace(b"edge.test", b"edge.test/evil") + EVIL,
    "expectation": get(b"Expect: 100-continue", b"Content-Length: 44") + EVIL,
    "two blanks": b"GET  /live/a/p HTTP/1.1\r\nHost: edge.test\r\n\r\n" + EVIL,
    "a tab between": b"GET\t/live/a/p\tHTTP/1.1\r\nHost: edge.test\r\n\r\n" + EVIL,
    "a request in the target": b"GET /live/a/p HTTP/1.1\r\nX: GET /evil HTTP/1.1\r\nHost: edge.test\r\nX\r\n\r\n"
    + EVIL,
    "no version": b"GET /live/a/p\r\n\r\n" + EVIL,
    "a version with a blank": b"GET /live/a/p HTTP/1.1 \r\nHost: edge.test\r\n\r\n" + EVIL,
    "small letters": b"get /live/a/p http/1.1\r\nHost: edge.test\r\n\r\n" + EVIL,
    "many fields": get(*[b"X: y"] * 200) + EVIL,
    "a head too long": get(b"X: " + b"y" * 40_000) + EVIL,
    "a target too long": get(target=b"/live/" + b"a" * 9000) + EVIL,
    "post": GOOD.replace(b"GET", b"POST") + EVIL,
    "connect": b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test\r\n\r\n" + EVIL,
    "a blank in the target": get(target=b"/live/a p"),
    "above the root": get(target=b"/live/../../etc/passwd"),
    "above the root, encoded": get(target=b"/live/%2e%2e/%2E%2E/etc/passwd"),
    "an encoded slash": get(target=b"/live/a/..%2fevil"),
    "an encoded slash, twice": get(target=b"/live/a%2F%2Fevil"),
    "a backslash": get(target=b"/live/a\\..\\..\\evil"),
    "an encoded backslash": get(target=b"/live/a/..%5c..%5cevil"),
    "two slashes": get(target=b"//evil"),
    "two slashes within": get(target=b"/live//evil"),
    "two slashes after dots": get(target=b"/live/a/..//evil"),
    "encoded nul": get(target=b"/live/a%00/evil"),
    "an encoded line": get(target=b"/live/a%0d%0aX:%20y"),
    "broken percent": get(target=b"/live/%2"),
    "a fragment": get(target=b"/live/a#/../evil"),
    "another scheme": get(target=b"ftp://edge.test/live/a/p"),
    "a user in the target": get(target=b"http://a@evil.test/live/a/p"),
    "no path, no scheme": get(target=b"live/a/p"),
    "only a host": get(target=b"evil.test:80"),
}
ENDS = re.compile(rb"4\d\d |50[05] ")

PASSED = {
    b"/live/./b/../a/%70": "/live/a/p",
    b"/live/%2e/a/p": "/live/a/p",
    b"/live/a/.%2e/a/p": "/live/a/p",
    b"/live/a/..": "/live/",
    b"http://evil.test/live/a/p": "/live/a/p",
    b"HTTPS://evil.test:8443/live/a/p?token=x": "/live/a/p",
    b"http://evil.test": "/",
    b"/live/%c0%ae%c0%ae/x": "/live/%C0%AE%C0%AE/x",
    b"/live/%252e%252e/x": "/live/%252e%252e/x",
    b"/live/%252f..%252fx": "/live/%252f..%252fx",
    b"/live/a;/..;/x": "/live/a;/..;/x",
    b"/live/.../": "/live/.../",
    b"/live/a%20HTTP": "/live/a%20HTTP",
    b"/live/a/p?x=/../../evil&y=%0d%0aX:y": "/live/a/p",
    b"/live/a/p?_HLS_msn=1%0d%0aX:%20y": "/live/a/p?_HLS_msn=1%0D%0AX:%20y",
    b"/live/a/p?_HLS_msn=%20HTTP/1.1%0d%0a%0d%0aGET%20/evil": ("/live/a/p?_HLS_msn=%20HTTP/1.1%0D%0A%0D%0AGET%20/evil"),
    b"/t/abc/live/a/p": "/live/a/p",
}


async def test_nothing_of_it_gets_through(behind: Behind, make_edge: MakeEdge) -> None:
    """Each on a connection of its own; then one to a viewer who asks for something, whose answer must be its own."""
    edge = await make_edge(upstream=(behind.url,), forward_headers=("*",))
    for name, raw in SMUGGLED.items():
        found = await through(edge, raw)
        assert [status for status, _ in found if status < 400] == [], (name, found)
        assert len(found) == 1, (name, found, "and the end of the connection")
    assert await through(edge, get(target=b"/live/last")) == [(200, b"/live/last")]
    assert await behind.seen() == []


async def test_what_is_meant_gets_through_as_one_reading_of_it(behind: Behind, make_edge: MakeEdge) -> None:
    edge = await make_edge(upstream=(behind.url,), forward_headers=("*",))
    for raw, meant in PASSED.items():
        if meant == "/":  # the edge's own page
            assert (await through(edge, get(target=raw)))[0][0] == 200
            continue
        edge.worker.cache.purge("/")
        assert await through(edge, get(target=raw)) == [(200, meant.encode())], raw
    assert await through(edge, get(target=b"/live/last")) == [(200, b"/live/last")]
    assert await behind.seen() == [meant for meant in PASSED.values() if meant != "/"]


async def test_what_is_said_between_two_stays_between_them(origin: ScriptedOrigin, make_edge: MakeEdge) -> None:
    """With every header handed on: none that frames, none of the connection, and the host is the upstream's."""
    edge = await make_edge(forward_headers=("*",))
    origin.default = echo
    fields = (
        b"Connection: x-secret, host, keep-alive",
        b"X-Secret: one",
        b"X-Open: two",
        b"Content-Length: 0",
        b"Keep-Alive: timeout=5",
        b"TE: trailers",
        b"Trailer: x",
        b"Upgrade: h2c",
        b"Proxy-Connection: keep-alive",
        b"Content_Length: 44",
        b"Range: bytes=0-1",
        b"Via: 1.1 before",
        b"X-Open: three",
    )
    assert (await through(edge, get(*fields, target=b"http://evil.test/live/a/p")))[0][0] in (200, 206)
    [asked] = origin.requests
    assert asked.target == "/live/a/p"
    assert asked.headers == {
        "host": "origin",
        "x-open": "two, three",
        "content_length": "44",
        "via": "1.1 before, 1.1 headrace",
        "cdn-loop": "headrace",
        "accept-encoding": "identity",
    }


BROKEN_ANSWERS = {
    "length and chunked": (
        b"HTTP/1.1 200 x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n"
    ),
    "two lengths": b"HTTP/1.1 200 x\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nonetwo",
    "a length with a sign": b"HTTP/1.1 200 x\r\ncontent-length: +3\r\n\r\none",
    "blank before the colon": b"HTTP/1.1 200 x\r\ncontent-length : 3\r\n\r\none",
    "a chunk of no size": b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\nx\r\none\r\n0\r\n\r\n",
    "a size too large": b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\none\r\n0\r\n\r\n",
    "nul": b"HTTP/1.1 200 x\r\nx: \0\r\ncontent-length: 3\r\n\r\none",
    "a range nobody asked for": b"HTTP/1.1 206 x\r\ncontent-range: bytes 0-2/9\r\ncontent-length: 3\r\n\r\none",
    "no http": b"220 mail.test ESMTP\r\n",
}


@pytest.mark.parametrize("name", BROKEN_ANSWERS)
async def test_an_answer_of_two_readings_is_no_answer(origin: ScriptedOrigin, edge: Edge, name: str) -> None:
    async def broken(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(BROKEN_ANSWERS[name])
        await writer.drain()
        writer.close()

    origin.default = echo
    origin.answers["/live/a/broken"] = broken
    viewer = await edge.connect()
    viewer.send("/live/a/broken")
    try:
        reply = await viewer.reply()
    except (asyncio.IncompleteReadError, ValueError):
        pass  # it had begun, and breaks off: no chunk of size 0 ends it
    else:
        assert reply.status == 502
    assert (await edge.get("/live/a/p")).body == b"/live/a/p"
    assert edge.worker.cache.entries.get("/live/a/broken") is None or (
        edge.worker.cache.entries["/live/a/broken"].status == 502
    )


@pytest.mark.parametrize(
    "more",
    [
        b"HTTP/1.1 200 x\r\ncache-control: max-age=60\r\ncontent-length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 x\r\ncontent-length: 9999\r\n\r\nev",
        b"HTTP/1.1 200 x\r\nx: ",
        b"evil",
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_an_answer_nobody_asked_for_is_nobodys(
    origin: ScriptedOrigin, edge: Edge, more: bytes, together: bool
) -> None:
    """What an origin sends behind an answer must not become the answer to what is asked next on that connection."""

    async def double(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
        first = b"HTTP/1.1 200 x\r\ncache-control: no-store\r\ncontent-length: 3\r\n\r\none"
        writer.write(first + more if together else first)
        await writer.drain()
        if not together:
            await answered.wait()
            writer.write(more)
            await writer.drain()

    answered = asyncio.Event()
    origin.default = echo
    origin.answers["/live/a/double"] = double
    assert (await edge.get("/live/a/double")).body == b"one"
    answered.set()
    [idle] = edge.worker.upstream._idle.values()
    await edge.until(lambda: not any(connection.open for connection in idle))
    for number in range(3):
        reply = await edge.get(f"/live/a/{number}")
        assert (reply.status, reply.body) == (200, f"/live/a/{number}".encode())
