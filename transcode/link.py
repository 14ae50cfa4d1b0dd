"""A worker as the core sees it: messages over a connection, wherever the worker runs. Knows the wire, not the job.

`process.Process` is a worker on this machine, `remote.Guest` one that came over the network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import structlog

from media.errors import ProtocolError
from transcode import messages as m
from transcode.wire import Decoder, frame

log = structlog.get_logger(__name__)

HIGH_WATER_BYTES = 256 * 1024
"""What the transport may hold; more waits in the job's queue, where it can still be dropped."""


class Link(asyncio.Protocol):
    """One worker and its connection."""

    def __init__(self) -> None:
        self.on_message: Callable[[m.Message, bytes], None] = lambda message, payload: None
        self.on_writable: Callable[[], None] = lambda: None
        self.on_exit: Callable[[str], None] = lambda reason: None
        """Called once, with the reason in words, when the worker is gone and all it said was read."""
        self.pid = 0
        """Process id on the worker's own machine."""
        self.place = ""
        """Name of the worker's machine; empty for this one."""
        self.writable = True
        self.exited = False
        self.exit_reason = ""
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self._why = ""

    @property
    def log(self) -> str:
        """The last lines that the worker wrote to stderr, where they are known."""
        return ""

    def send(self, message: m.Message, payload: bytes = b"") -> None:
        """Hand to the transport; look at `writable` first. Ignored when the worker is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(frame(message, payload))

    def kill_soon(self, why: str) -> None:
        """End the worker; `on_exit` follows, with `why` as the reason."""
        raise NotImplementedError

    async def kill(self, why: str = "closed") -> None:
        """End the worker, and wait until it is gone."""
        self.kill_soon(why)
        await self.wait()

    async def wait(self) -> None:
        """Until the worker is gone."""
        raise NotImplementedError

    def received(self, message: m.Message, payload: bytes) -> None:
        """One message of the worker. Raises `ProtocolError` where it has no business to come now."""
        self.on_message(message, payload)

    # -- asyncio.Protocol -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        try:
            for message, payload in self._decoder.feed(data):
                self.received(message, payload)
        except ProtocolError as error:
            log.error("worker_protocol_error", pid=self.pid, place=self.place, error=error.text)
            self.kill_soon("protocol_error")

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.on_writable()
