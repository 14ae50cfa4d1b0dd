"""A worker process on this machine: start, watch, end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import deque

from media.errors import HeadraceError
from transcode import messages as m
from transcode.link import Link
from transcode.settings import TranscodeSettings

START_TIMEOUT_S = 20.0
"""A loaded machine needs seconds to import libav; a worker that needs longer than this is of no use."""
LOG_LINES = 40
LOG_LINE_BYTES = 400


class WorkerError(HeadraceError):
    """A worker process cannot be started."""

    default_slug = "worker_failed"


async def spawn(
    settings: TranscodeSettings, sock: socket.socket, stderr: int | None, role: str = "worker"
) -> asyncio.subprocess.Process:
    """Start `python -m transcode ROLE` on its end of a socket pair. Raises OSError."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "transcode", role,
        "--fd", str(sock.fileno()),
        "--memory-bytes", str(settings.memory_bytes),
        "--nice", str(settings.nice),
        pass_fds=(sock.fileno(),),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,
        env={"SVT_LOG": "1", **os.environ},  # SVT-AV1: errors only, not its banner
    )  # fmt: skip


class Process(Link):
    """One worker process and its socket."""

    def __init__(self) -> None:
        super().__init__()
        self._hello: asyncio.Future[m.Hello] = asyncio.get_running_loop().create_future()
        self._closed = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._watch: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, settings: TranscodeSettings, role: str = "worker") -> Process:
        """Start a worker (or `stills`) and wait until it has loaded. Raises `WorkerError`; nothing is left behind
        then."""
        self = cls()
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise WorkerError(f"A transcode worker cannot be started: {error}.") from error
        try:
            with theirs:
                self._process = await spawn(settings, theirs, asyncio.subprocess.PIPE, role)
        except OSError as error:
            ours.close()
            raise WorkerError(f"A transcode worker cannot be started: {error}.") from error
        except asyncio.CancelledError:
            ours.close()
            raise
        self.pid = self._process.pid
        loop = asyncio.get_running_loop()
        self._watch = loop.create_task(self._until_exit(), name=f"worker-{self.pid}")
        try:
            ours.setblocking(False)
            await loop.create_unix_connection(lambda: self, sock=ours)
            async with asyncio.timeout(START_TIMEOUT_S):
                hello = await self._hello
        except (TimeoutError, OSError) as error:
            await self.kill("start")
            raise WorkerError(f"A transcode worker did not start: {self.log or error}.") from error
        except asyncio.CancelledError:
            await self.kill("start")
            raise
        if hello.version != m.VERSION:
            await self.kill("version")
            raise WorkerError("The transcode worker is of another version of Headrace.", slug="worker_version")
        return self

    @property
    def log(self) -> str:
        """The last lines that the worker wrote to stderr."""
        return "\n".join(self._lines)

    def kill_soon(self, why: str) -> None:
        """SIGKILL; `on_exit` follows, with `why` as the reason."""
        self._why = self._why or why
        if self._process is not None and self._process.returncode is None:
            # Not `Process.kill`: it polls first, and takes the exit code away from asyncio's own watcher.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def wait(self) -> None:
        """Until the process is gone."""
        if self._watch is not None:
            await asyncio.shield(self._watch)

    async def _until_exit(self) -> None:
        assert self._process is not None
        stderr = self._process.stderr
        assert stderr is not None
        rest = b""
        while data := await stderr.read(4096):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[:LOG_LINE_BYTES]
            self._lines.extend(line[:LOG_LINE_BYTES].decode(errors="replace") for line in lines if line.strip())
        if rest:
            self._lines.append(rest.decode(errors="replace"))
        code = await self._process.wait()
        if self._transport is not None:
            await self._closed.wait()
        self.exited = True
        self.exit_reason = self._why or _explain(code)
        if not self._hello.done():
            self._hello.set_exception(ConnectionError(self.exit_reason))
            self._hello.exception()
        self.on_exit(self.exit_reason)

    def received(self, message: m.Message, payload: bytes) -> None:
        if isinstance(message, m.Hello) and not self._hello.done():
            self._hello.set_result(message)
        else:
            self.on_message(message, payload)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()


def _explain(code: int) -> str:
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}  # real-time ones have none
        return f"killed by {names.get(-code, f'signal {-code}')}"
    return {0: "done", m.EXIT_BUG: "crashed", m.EXIT_MEMORY: "over its memory limit"}.get(code, f"exit code {code}")
