"""One publishing session: what an ingest shell holds while its encoder is connected. Implements `Publication`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from ingest.ports import EndReason, PublishRequest, StopReason
from media.packet import Gap, Packet

if TYPE_CHECKING:
    from control.broadcast import Broadcast

log = structlog.get_logger(__name__)


class Session:
    """Binds one connection to a broadcast. Writes after the end, or after a takeover, go nowhere."""

    def __init__(self, broadcast: Broadcast, request: PublishRequest, key_id: str) -> None:
        self.broadcast = broadcast
        self.protocol = request.protocol
        self.address = request.address
        self.agent = request.agent
        self.key_id = key_id
        self.started = time.time()
        self.ended = False
        self._stop: Callable[[StopReason, str], None] | None = None
        self._stopped: tuple[StopReason, str] | None = None
        self._want_keyframe: Callable[[], None] | None = None

    def describe(self) -> dict[str, Any]:
        """Who publishes; for operators."""
        return {"protocol": self.protocol, "address": self.address, "agent": self.agent, "key_id": self.key_id}

    @property
    def stream(self) -> str:
        return self.broadcast.stream

    @property
    def id(self) -> str:
        return self.broadcast.id

    @property
    def stopping(self) -> bool:
        """True once the server has asked the encoder to go."""
        return self._stopped is not None

    def origin(self) -> int:
        return self.broadcast.origin()

    def write(self, item: Packet | Gap) -> None:
        if not self.ended and self._stopped is None:
            self.broadcast.write(self, item)

    def report(self, **values: float | str) -> None:
        if not self.ended:
            self.broadcast.meter.report(values)

    def on_stop(self, callback: Callable[[StopReason, str], None]) -> None:
        self._stop = callback
        if self._stopped is not None:
            callback(*self._stopped)

    def on_keyframe_wanted(self, callback: Callable[[], None]) -> None:
        self._want_keyframe = callback

    def want_keyframe(self) -> None:
        """Ask the encoder for a keyframe where its protocol can."""
        if self._want_keyframe is not None and not self.ended:
            self._want_keyframe()

    def stop(self, reason: StopReason, text: str) -> None:
        """Have the shell end the connection. Nothing of this session is taken from here on."""
        if self.ended or self._stopped is not None:
            return
        self._stopped = (reason, text)
        log.info("publisher_stopped", stream=self.stream, broadcast=self.id, reason=reason.value, text=text)
        if self._stop is not None:
            self._stop(reason, text)

    def close(self, reason: EndReason, text: str = "") -> None:
        if self.ended:
            return
        self.ended = True
        self.broadcast.detach(self, self._stopped[0] if self._stopped else None, reason, text)
