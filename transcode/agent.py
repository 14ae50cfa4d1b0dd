"""`headrace worker`: offers this machine's worker processes to a core elsewhere (`remote` is the core's side).

Each of `jobs` places holds one connection. Once the core has admitted it, a worker process is started, and what comes
from one side goes to the other, unread, until either ends; then the place begins anew. Nothing is buffered but what
the two sockets hold: who reads slowly slows the writer down.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from media.errors import HeadraceError, ProtocolError, Refused
from transcode import messages as m
from transcode.process import spawn
from transcode.settings import TranscodeSettings
from transcode.wire import Decoder, frame

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
SHORT_S = 5.0
"""A worker that ends sooner was of no use: a pause follows."""
CHUNK_BYTES = 256 * 1024
END_S = 3.0
"""How long a worker may take to notice that its connection is over."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What this machine offers, and to whom."""

    host: str
    port: int
    tls: ssl.SSLContext
    token: str
    machine: str
    cpus: int
    encoders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Agent:
    """`run` until cancelled."""

    def __init__(self, offer: Offer, settings: TranscodeSettings, jobs: int) -> None:
        self._offer = offer
        self._settings = settings
        self._jobs = jobs
        self._trouble = ""
        self.admitted = 0
        """Places that the core has admitted at this moment."""

    async def run(self) -> None:
        """Keep every place filled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._jobs):
                group.create_task(self._place())

    async def _place(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            try:
                await self._once()
            except (OSError, EOFError, TimeoutError, HeadraceError) as error:
                self._tell(str(error) or type(error).__name__)
            if time.monotonic() - began > SHORT_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s * random.uniform(0.7, 1.3))  # many places, or machines, not all at once
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _tell(self, trouble: str) -> None:
        """Every place has the same trouble: it is told once."""
        if trouble != self._trouble:
            log.warning("core_not_joined", core=f"{self._offer.host}:{self._offer.port}", reason=trouble)
        self._trouble = trouble

    async def _once(self) -> None:
        """One connection, from its first byte to its last."""
        offer = self._offer
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                offer.host, offer.port, ssl=offer.tls, server_hostname=offer.host, limit=CHUNK_BYTES
            )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._join(reader, writer)
            self._trouble = ""
            self.admitted += 1
            log.info("joined", core=f"{offer.host}:{offer.port}")
            try:
                await self._work(reader, writer)
            finally:
                self.admitted -= 1
        finally:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(END_S):
                    await writer.wait_closed()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Raises `Refused` where the core does not want us, `EOFError`, `ProtocolError`."""
        offer = self._offer
        writer.writelines(
            frame(
                m.Join(
                    m.VERSION, offer.token, offer.machine, offer.cpus, {k: tuple(v) for k, v in offer.encoders.items()}
                )
            )
        )
        await writer.drain()
        # The core says no more than this until our worker's `Hello`, so nothing that belongs to the worker is read.
        decoder = Decoder()
        while not (answer := decoder.feed(await reader.read(1024))):
            if reader.at_eof():
                raise EOFError("the core ended the connection without a word")
        message = answer[0][0]
        if not isinstance(message, m.Admitted):
            raise ProtocolError("The core does not answer as a Headrace does.")
        if message.slug:
            raise Refused(message.text, slug=message.slug)

    async def _work(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A worker process on the connection, until one of the two ends."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await spawn(self._settings, theirs, None)
        except BaseException:
            ours.close()
            raise
        try:
            near, out = await asyncio.open_connection(sock=ours, limit=CHUNK_BYTES)
            try:
                ways = {asyncio.ensure_future(_pass(reader, out)), asyncio.ensure_future(_pass(near, writer))}
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
            finally:
                out.close()
        finally:
            await _end(process)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything from one to the other; returns at the end of either."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()


async def _end(process: asyncio.subprocess.Process) -> None:
    """The worker has lost its socket and ends by itself; one that does not is killed."""
    try:
        async with asyncio.timeout(END_S):
            await process.wait()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        if not isinstance(error, TimeoutError):
            raise
