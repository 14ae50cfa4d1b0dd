"""The asyncio side of one connection: feeds the session, sends what it says, asks the gatekeeper. No protocol here."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast

import structlog

from ingest.ports import EndReason, Gatekeeper, Publication, PublishRequest, StopReason
from ingest.rtmp.events import Ended, Event, Ignored, Media, Pong, PublishAsked, Unpublished
from ingest.rtmp.publisher import STOP_WORDS, Publisher
from ingest.rtmp.session import Session
from ingest.rtmp.state import State
from ingest.rtmp.tls import Tls
from ingest.settings import LimitSettings
from media.errors import HeadraceError, ProtocolError

_log = structlog.get_logger(__name__)
_RANDOM_BYTES = 1528
_MAX_UNSENT = 256 * 1024
"""We send a few bytes a second: a peer that does not even take those is cut."""
_KEEPALIVE_IDLE_S, _KEEPALIVE_EVERY_S, _KEEPALIVE_COUNT = 5, 3, 3


@dataclass(frozen=True, slots=True)
class Context:
    """What every connection of a listener shares."""

    protocol: str
    limits: LimitSettings
    gatekeeper: Gatekeeper
    tls: Callable[[], ssl.SSLContext] | None
    spawn: Callable[[Coroutine[Any, Any, None]], object]
    """Starts a task that the listener owns."""
    opened: Callable[[Connection], bool]
    """Tells the listener; False where it has no room."""
    closed: Callable[[Connection], None]
    reconnect_url: str = ""
    """Where publishers are asked to go at a drain; empty for where they are."""


class Connection(asyncio.Protocol):
    """One TCP connection, from accept to close."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._transport: asyncio.Transport | None = None
        self._session = Session(context.limits, os.urandom(_RANDOM_BYTES), time.monotonic())
        self._publisher: Publisher | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._ending = False
        self._gone = False
        self._paused = False
        self._tls: Tls | None = None
        self._log = _log
        self.address = ""
        self._port = 0

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername") or ("", 0)
        self.address, self._port = str(peer[0]).removeprefix("::ffff:"), int(peer[1])
        self._log = _log.bind(protocol=self._context.protocol, address=self.address, port=self._port)
        _watch(transport.get_extra_info("socket"), self._context.limits)
        if not self._context.opened(self):
            self._transport.abort()
        elif self._context.tls is not None:
            try:
                self._tls = Tls(self._context.tls())
            except (OSError, HeadraceError) as error:
                self._tls_failed(error)

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        if self._tls is not None:
            try:
                data = self._tls.receive(data)
            except ssl.SSLError as error:
                self._tls_failed(error)
                return
            self._write(self._tls.data_to_send())
        if data:
            now = time.monotonic()
            self._apply(self._session.receive(data, now), now)
        if self._tls is not None and self._tls.ended and self._transport is not None:
            self._transport.close()

    def eof_received(self) -> bool:
        return False  # close: half a connection is of no use to a publisher

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        if self._publisher is not None:
            self._publisher.close(EndReason.LOST, "The connection to the encoder broke.")
            self._publisher = None
            self._log.info("publisher_lost", error=type(exc).__name__ if exc else "")

    def _tls_failed(self, error: Exception) -> None:
        """No TLS with this peer: ends this connection alone, with the alert that says why."""
        reason = getattr(error, "reason", None) or type(error).__name__
        self._log.info("tls_failed", reason=str(reason).lower())
        self._finish(EndReason.PROTOCOL, "The encryption of the connection broke.")
        self._close()

    # The session's events

    def _apply(self, events: list[Event], now: float) -> None:
        for event in events:
            match event:
                case Media(sample):
                    if self._publisher is not None:
                        self._publisher.take(sample, now)
                case PublishAsked():
                    self._pause()
                    self._context.spawn(self._admit(event))
                case Unpublished():
                    self._finish(EndReason.FINISHED)
                case Pong(rtt_ms):
                    if self._publisher is not None:
                        self._publisher.publication.report(rtt_ms=rtt_ms)
                case Ignored(codec):
                    self._log.info("track_ignored", codec=codec)
                case Ended(error):
                    self._ended(error)
        self._send()

    def _ended(self, error: HeadraceError | None) -> None:
        if error is not None:
            self._log.info("connection_ended", reason=error.slug, fault=error.fault, text=error.text)
        reason = EndReason.STOPPED
        if isinstance(error, ProtocolError):
            reason = EndReason.LOST if error.slug == "idle_timeout" else EndReason.PROTOCOL
        self._finish(reason, error.text if error else "")
        self._close()

    async def _admit(self, asked: PublishAsked) -> None:
        request = PublishRequest(
            self._context.protocol, asked.key, self.address, self._port, asked.agent, asked.parameters, asked.app
        )
        try:
            publication = await self._context.gatekeeper.admit(request)
        except HeadraceError as error:
            self._session.refuse(error.text)  # the gatekeeper has logged it
            self._close()
            return
        except Exception:  # noqa: BLE001 (a fault of ours must end this connection, not the listener)
            self._log.exception("admission_failed")
            self._session.refuse("The server has a fault; please try again.")
            self._close()
            return
        if self._gone or self._ending:
            publication.close(EndReason.LOST, "The encoder left before it was admitted.")
            return
        self._begin(publication, asked)

    def _begin(self, publication: Publication, asked: PublishAsked) -> None:
        self._log = self._log.bind(stream=publication.stream, broadcast=publication.id)
        self._log.info("publishing", agent=asked.agent)  # the application may be a key by mistake
        self._publisher = Publisher(publication, self._context.limits)
        publication.on_stop(self.stop)
        now = time.monotonic()
        if not self._ending:
            self._apply(self._session.admit(now), now)
            self._resume()

    # The server's wishes

    def stop(self, reason: StopReason, text: str) -> None:
        """End the publication with words for the encoder, then the connection."""
        if self._ending:
            return
        if self._publisher is not None:
            self._log.info("publisher_stopped", reason=reason.value)
        level, code = STOP_WORDS[reason]
        self._session.stop(level, code, text)
        self._finish(EndReason.STOPPED, text)
        self._close()

    def drain(self) -> bool:
        """Ask to reconnect where the client can: True where it did. Others are ended."""
        if self._publisher is not None and self._session.can_reconnect:
            self._session.request_reconnect("The server is about to restart.", self._context.reconnect_url)
            self._send()
            return True
        self.stop(StopReason.DRAIN, "The server is shutting down.")
        return False

    def tick(self, now: float) -> None:
        """Once a second: time limits, pings, and the report."""
        if self._ending or self._transport is None:
            return
        if self._publisher is not None:
            self._publisher.report(self._session.received_bytes, self._session.broken_messages, self._session.refusal)
        self._apply(self._session.check(now), now)

    def abort(self) -> None:
        """Cut the connection at once."""
        self._finish(EndReason.STOPPED)
        if self._transport is not None:
            self._transport.abort()

    # Ending

    def _finish(self, reason: EndReason, text: str = "") -> None:
        if self._publisher is not None:
            publisher, self._publisher = self._publisher, None
            self._log.info("publication_ended", reason=reason.value)
            publisher.close(reason, text)

    def _close(self) -> None:
        """Say the last words, and give the peer a moment to read them.

        Closing at once while bytes of the peer are still unread would send a reset, which may overtake our words.
        """
        self._send()
        self._ending = True
        if self._transport is None or self._gone or self._transport.is_closing():
            return
        self._resume()
        if self._tls is not None:
            self._tls.close()
            self._write(self._tls.data_to_send())
        try:
            self._transport.write_eof()
        except OSError:  # the peer has gone in the meantime: there is nobody left to read our words
            self._transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._linger = loop.call_later(self._context.limits.linger_s, self._transport.abort)

    def _leave(self) -> None:
        if not self._gone:
            self._gone = True
            if self._linger is not None:
                self._linger.cancel()
            self._context.closed(self)

    def _send(self) -> None:
        data = self._session.data_to_send()
        if not data or self._ending:
            return
        if self._tls is not None:
            self._tls.send(data)
            data = self._tls.data_to_send()
        self._write(data)

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
            if self._transport.get_write_buffer_size() > _MAX_UNSENT:
                self._log.info("connection_ended", reason="peer_does_not_read")
                self._transport.abort()

    def _pause(self) -> None:
        if self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    @property
    def publishing(self) -> bool:
        return self._session.state is State.PUBLISHING


def _watch(sock: socket.socket | None, limits: LimitSettings) -> None:
    """Let the kernel find dead peers: a network that vanished sends no FIN."""
    if sock is None:
        return
    idle_s = min(_KEEPALIVE_IDLE_S, max(1, int(limits.idle_timeout_s / 2)))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", idle_s),
        ("TCP_KEEPINTVL", _KEEPALIVE_EVERY_S),
        ("TCP_KEEPCNT", _KEEPALIVE_COUNT),
        ("TCP_USER_TIMEOUT", int(limits.idle_timeout_s * 1000)),
        ("TCP_NODELAY", 1),
    ):
        option = getattr(socket, name, None)  # not every system has them all
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
