"""An edge in the test's own loop in front of a scripted origin, and a viewer that speaks bytes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from edge.worker import Worker

Answer = Callable[["OriginRequest", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class OriginRequest:
    target: str
    headers: dict[str, str]


class ScriptedOrigin:
    """A small HTTP/1.1 server on a Unix socket. `answers` by target, else `default`; counts what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"unix:{path}"
        self.answers: dict[str, Answer] = {}
        self.default: Answer = answer(404, b"", {"cache-control": "max-age=1"})
        self.asked: Counter[str] = Counter()
        self.requests: list[OriginRequest] = []
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def start_tcp(self) -> int:
        """On TCP instead; the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.close()
            await self._server.wait_closed()
            self._server = None
            self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = head.split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:-2])
                request = OriginRequest(lines[0].split(" ")[1], headers)
                self.asked[request.target] += 1
                self.requests.append(request)
                await self.answers.get(request.target, self.default)(request, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


def answer(status: int, body: bytes, headers: dict[str, str] | None = None) -> Answer:
    """A whole answer, at once."""

    async def write(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} x", *(f"{k}: {v}" for k, v in (headers or {}).items())]
        if status not in (204, 304):
            lines.append(f"content-length: {len(body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    return write


def held(gate: asyncio.Event, then: Answer) -> Answer:
    """An answer that is given when `gate` is set."""

    async def write(request: OriginRequest, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await then(request, writer)

    return write


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Viewer:
    """One raw connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    extra: dict[str, str] = field(default_factory=dict)

    def send(self, target: str, method: str = "GET", **headers: str) -> None:
        fields = {"Host": "edge.test", **{k.replace("_", "-"): v for k, v in headers.items()}}
        text = "".join(f"{k}: {v}\r\n" for k, v in fields.items())
        self.writer.write(f"{method} {target} HTTP/1.1\r\n{text}\r\n".encode())

    async def head(self) -> Reply:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:-2])
        headers = {name.lower(): value for name, value in pairs}
        return Reply(int(lines[0].split(" ")[1]), headers)

    async def reply(self, *, bodyless: bool = False) -> Reply:
        reply = await self.head()
        if bodyless or reply.status in (204, 304):
            return reply
        if reply.headers.get("transfer-encoding") == "chunked":
            while chunk := await self.chunk():
                reply.body += chunk
        elif "content-length" in reply.headers:
            reply.body = await self.reader.readexactly(int(reply.headers["content-length"]))
        else:
            reply.body = await self.reader.read()
        return reply

    async def chunk(self) -> bytes:
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def ask(self, target: str, method: str = "GET", **headers: str) -> Reply:
        self.send(target, method, **headers)
        return await self.reply(bodyless=method == "HEAD")

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class Edge:
    """A worker in the test's loop."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.viewers: list[Viewer] = []

    async def connect(self) -> Viewer:
        viewer = Viewer(*await asyncio.open_connection("127.0.0.1", self.worker.port))
        self.viewers.append(viewer)
        return viewer

    async def get(self, target: str, method: str = "GET", **headers: str) -> Reply:
        viewer = await self.connect()
        reply = await viewer.ask(target, method, **headers)
        await viewer.close()
        return reply

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 (another process, or no event to wait for)
                await asyncio.sleep(0.001)


MakeEdge = Callable[..., Awaitable[Edge]]
