"""The access log: one JSON object a line for each answer, or for a sample of them. No keys, no tokens.

A request that is to be written down goes the long way (see `edge.connection`), where a `Tap` stands between its
answer and its connection and notes what passes. Lines wait in a bounded buffer; a thread writes them, so that a slow
disk costs lines, which are counted, and never a viewer's time.

The file may be moved away at any time: within a second it is opened anew under its name. So logrotate needs neither
`copytruncate` nor a signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from edge.entry import Entry, Fields
from edge.prepared import Prepared
from edge.reader import Buffer, Reader, Sink
from edge.request import Request

log = structlog.get_logger(__name__)

BUFFER_BYTES = 4 * 2**20
"""Lines that may wait for the disk, per worker: a second of 15,000 requests. More are dropped."""
WRITE_EVERY_S = 0.5
LONGEST = 512
"""Characters kept of what a viewer says of itself."""
LEFT = 499
"""Status of a request whose viewer went before there was an answer, as nginx has it."""

_TOKEN_SEGMENT = re.compile(r"(?i)/(?:t|%74)/[^/?#]+")
_JWT = re.compile(r"eyJ[\w-]{4,}(?:\.[\w-]*){1,4}")
_encode = msgspec.json.Encoder().encode


def hide(text: str) -> str:
    """`text` without viewer tokens: neither in its path nor anywhere else."""
    return _JWT.sub("-", _TOKEN_SEGMENT.sub("/t/-", text))


class AccessLog:
    """Decides what is written down, and writes it. One per worker."""

    def __init__(
        self, where: str, rate: float, error_rate: float, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        """`where` is a path or `stderr`; the rates are the parts of answers, and of errors (400 and up), written."""
        self.path = None if where == "stderr" else Path(where)
        self._rate, self.error_rate = rate, error_rate
        self.clock, self._wall = clock, wall
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._chosen = False
        self._file: int | None = None
        self._identity = (0, 0)
        self.lines = 0
        """Lines written."""
        self.drops = 0
        """Lines that found no room or no disk."""

    def due(self) -> bool:
        """Whether the hit that is about to be answered is one to write down. It then has to come to `tap`."""
        if not self._chosen:
            self._chosen = random.random() < self._rate
        return self._chosen

    def tap(self, sink: Sink, request: Request, client: str, protocol: str) -> Tap:
        """A sink that notes what goes to `sink`."""
        chosen, self._chosen = self._chosen or random.random() < self._rate, False
        return Tap(self, sink, request, client, protocol, chosen=chosen)

    def broken(self, client: str, status: int, reason: str) -> None:
        """A request that was none, or came too late."""
        if random.random() < self.error_rate:
            self.write({"client": client, "status": status, "result": "error", "reason": reason})

    def write(self, record: dict[str, object]) -> None:
        """Put a line into the buffer, with the time in front."""
        now = self._wall()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03}Z"
        line = _encode({"time": stamp, **record}) + b"\n"
        if self._waiting_bytes + len(line) > BUFFER_BYTES:
            self.drops += 1
            return
        self._waiting.append(line)
        self._waiting_bytes += len(line)

    async def run(self) -> None:
        """Write what waits, again and again, until cancelled; then `close`."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what waits now. What comes meanwhile waits for the next time."""
        lines, self._waiting = self._waiting, []
        if not lines:
            return
        try:
            await asyncio.to_thread(self._put, b"".join(lines))
        except OSError as error:
            self.drops += len(lines)
            log.warning("access_log_not_written", error=error.strerror, path=str(self.path), lines=len(lines))
        else:
            self.lines += len(lines)
        finally:
            self._waiting_bytes -= sum(map(len, lines))

    async def close(self) -> None:
        """Write the rest and close the file."""
        await self.flush()
        if self._file is not None and self.path is not None:
            os.close(self._file)
        self._file = None

    def _put(self, data: bytes) -> None:
        """In a thread. Workers share the file: whole lines in one appending write do not mix."""
        file = self._open()
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]

    def _open(self) -> int:
        if self.path is None:
            return sys.stderr.fileno()
        found = None
        with contextlib.suppress(FileNotFoundError):
            found = self.path.stat()
        if self._file is not None and (found is None or (found.st_dev, found.st_ino) != self._identity):
            os.close(self._file)
            self._file = None
        if self._file is None:
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            opened = os.fstat(self._file)
            self._identity = opened.st_dev, opened.st_ino
        return self._file


class Tap:
    """One answer on its way to its sink. See the module; implements `edge.reader.Sink`."""

    __slots__ = (
        "_blocked",
        "_chosen",
        "_client",
        "_done",
        "_first",
        "_log",
        "_protocol",
        "_request",
        "_result",
        "_since",
        "_sink",
        "_size",
        "_status",
        "reason",
    )  # fmt: skip

    def __init__(
        self, log: AccessLog, sink: Sink, request: Request, client: str, protocol: str, *, chosen: bool
    ) -> None:
        self._log, self._sink, self._request = log, sink, request
        self._client, self._protocol, self._chosen = client, protocol, chosen
        self._since = self._first = log.clock()
        self._status, self._size, self._result = LEFT, 0, ""
        self._blocked = self._done = False
        self.reason = ""
        """Why it is refused: the slug of an error of the edge's own."""

    @property
    def reader(self) -> Reader | None:
        return self._sink.reader

    @reader.setter
    def reader(self, reader: Reader | None) -> None:
        self._sink.reader = reader
        self._blocked = True
        if reader is None:
            # Before the answer's end, or because the viewer has gone: which one shows in a moment.
            asyncio.get_running_loop().call_soon(self._look)

    @property
    def paused(self) -> bool:
        return self._sink.paused

    def respond(self, status: int, fields: Fields, body: Buffer, length: int | None) -> None:
        self._head(status, next((value for name, value in fields if name == b"x-cache"), b""))
        self._sink.respond(status, fields, body, length)
        self._write(len(body))

    def respond_entry(self, entry: Entry, now: float, result: bytes, *, bodiless: bool) -> None:
        self._head(entry.status, result)
        self._sink.respond_entry(entry, now, result, bodiless=bodiless)
        self._write(0 if bodiless else len(entry.body))

    def take(self, answer: Prepared, now: float) -> bool:
        return False

    def begin(self, status: int, fields: Fields, length: int | None) -> None:
        self._head(status, next((value for name, value in fields if name == b"x-cache"), b""))
        self._sink.begin(status, fields, length)

    def push(self, data: Buffer) -> None:
        self._size += len(data)
        self._sink.push(data)

    def end(self) -> None:
        self._sink.end()
        self._write(0)

    def abort(self) -> None:
        self._sink.abort()
        self.reason = "broke_off"
        self._write(0)

    def _look(self) -> None:
        if not self._done and self._sink.reader is None:
            self.reason = "viewer_left"
            self._write(0)

    def _head(self, status: int, result: bytes) -> None:
        self._status, self._first = status, self._log.clock()
        self._result = result.decode("ascii").lower()

    def _write(self, size: int) -> None:
        if self._done:
            return
        self._done = True
        error = self._status >= 400
        if not (random.random() < self._log.error_rate if error else self._chosen):
            return
        request, waited = self._request, round(1000 * (self._first - self._since), 1)
        record: dict[str, object] = {
            "client": self._client,
            "method": request.method,
            "path": hide(request.key),
            "status": self._status,
            "bytes": self._size + size,
            "result": "error" if self._status >= 500 or not self._result else self._result,
            "ttfb_ms": waited,
            "blocked_ms": waited if self._blocked else 0.0,
            "total_ms": round(1000 * (self._log.clock() - self._since), 1),
            "protocol": self._protocol,
            "agent": hide(request.headers.get("user-agent", "")[:LONGEST]),
            "referer": hide(request.headers.get("referer", "")[:LONGEST].partition("?")[0].partition("#")[0]),
        }
        if self.reason:
            record["reason"] = self.reason
        self._log.write(record)


def refused(sink: Sink, slug: str) -> None:
    """Note why a request is refused, if its answer is written down."""
    if isinstance(sink, Tap):
        sink.reason = slug
