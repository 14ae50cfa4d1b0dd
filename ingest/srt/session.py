"""One SRT publisher on the event loop: admitted by the gatekeeper, its MPEG-TS made into packets, ended with a reason.

Connected -> admit -> (pending bytes, then) demux -> Disconnected
               |              |
               +-- refused    +-- stopped by the server, unusable, silent -> close -> Disconnected
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from ingest.ports import EndReason, Gatekeeper, Publication, PublishRequest, StopReason
from ingest.settings import LimitSettings
from ingest.srt import streamid
from ingest.srt.events import Connected, Ending, Statistics
from ingest.srt.media import Media
from media.errors import HeadraceError, ProtocolError, Refused

PENDING_MAX_BYTES = 4 * 1024 * 1024
"""Held while the gatekeeper decides; beyond it what comes is dropped and counted."""

_ENDS = {
    Ending.GOODBYE: EndReason.FINISHED,
    Ending.SILENCE: EndReason.LOST,
    Ending.CLOSED: EndReason.STOPPED,
}

_log = structlog.get_logger(__name__)


class Session:
    """`close()` asks the listener to end the connection; `disconnected` then tells that it has."""

    def __init__(
        self, connected: Connected, gatekeeper: Gatekeeper, limits: LimitSettings, close: Callable[[], None]
    ) -> None:
        self._connected = connected
        self._gatekeeper = gatekeeper
        self._limits = limits
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._ended: asyncio.Future[Ending] = self._loop.create_future()
        self._publication: Publication | None = None
        self._media: Media | None = None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._fault: tuple[EndReason, str] | None = None
        """Why we close, where it is not the caller who did."""
        self.dropped_bytes = 0

    # What the listener tells -----------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        if self._fault is not None:
            return
        if self._media is not None:
            self._feed(self._media, data)
        elif self._pending_bytes + len(data) <= PENDING_MAX_BYTES:
            self._pending.append(data)
            self._pending_bytes += len(data)
        else:
            self.dropped_bytes += len(data)

    def measure(self, values: Statistics) -> None:
        if self._publication is not None and self._media is not None:
            self._publication.report(
                **self._media.report(),
                rtt_ms=round(values.rtt_ms, 2),
                loss_ratio=round(values.drop_ratio, 5),
                link_loss_ratio=round(values.repair_ratio, 5),
                retransmits=values.retransmitted,
                dropped_packets=values.dropped,
                recovered_packets=values.recovered,
                undecrypted_packets=values.undecrypted,
                bandwidth_bits=values.bandwidth_bits,
                buffer_ms=values.buffer_ms,
                latency_ms=self._connected.latency_ms,
                handover_dropped_bytes=values.handover_dropped_bytes + self.dropped_bytes,
            )

    def disconnected(self, ending: Ending) -> None:
        if not self._ended.done():
            self._ended.set_result(ending)

    # The task --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the connection is gone. Raises nothing for what a caller, or the gatekeeper's policy, can do."""
        connected = self._connected
        log = _log.bind(address=connected.address, connection=connected.connection)
        try:
            publication = await self._admit()
        except HeadraceError:  # the gatekeeper has logged it, and libsrt has no words for the caller
            await self._hang_up()
            return
        log = log.bind(stream=publication.stream, broadcast=publication.id)
        log.info(
            "srt_publisher_admitted",
            agent=_agent(connected),
            latency_ms=connected.latency_ms,
            encrypted=connected.encrypted,
        )
        reason, text = EndReason.STOPPED, ""
        try:
            self._open(publication)
            reason, text = await self._watch()
        finally:
            publication.close(reason, text)
            log.info("srt_publisher_ended", reason=reason.value, text=text, dropped_bytes=self.dropped_bytes)

    async def _admit(self) -> Publication:
        connected = self._connected
        stated = streamid.parse(connected.streamid)
        if not stated.mode_stated and connected.streamid.startswith(b"#!"):
            _log.info("srt_mode_assumed", address=connected.address, text="the stream id lacks m=publish")
        request = PublishRequest(
            protocol="srt",
            key=stated.key,
            address=connected.address,
            port=connected.port,
            agent=_agent(connected),
            parameters=stated.parameters,
        )
        try:
            async with asyncio.timeout(self._limits.handshake_timeout_s):
                return await self._gatekeeper.admit(request)
        except TimeoutError:
            raise Refused("The server took too long to decide.", slug="admission_timeout") from None

    def _open(self, publication: Publication) -> None:
        self._publication = publication
        self._media = media = Media(publication, self._limits)
        publication.on_stop(self._stop)
        for data in self._pending:
            if self._fault is None:
                self._feed(media, data)
        self._pending.clear()
        self._pending_bytes = 0

    async def _watch(self) -> tuple[EndReason, str]:
        while not self._ended.done():
            left_s = self._heard_at + self._limits.idle_timeout_s - self._loop.time()
            if left_s <= 0 and self._fault is None:
                self._end(EndReason.LOST, f"connected, but no data came for {self._limits.idle_timeout_s:g} s")
            await asyncio.wait({self._ended}, timeout=max(left_s, 1.0))
        ending = self._ended.result()
        if self._media is not None and self._fault is None:
            self._media.flush(self._loop.time())
        return self._fault or (_ENDS[ending], "")

    async def _hang_up(self) -> None:
        self._fault = (EndReason.STOPPED, "")
        self._pending.clear()
        self._close()
        await self._ended

    # -----------------------------------------------------------------------------------------------------------

    def _feed(self, media: Media, data: bytes) -> None:
        try:
            media.feed(data, self._loop.time())
        except ProtocolError as error:
            self._end(EndReason.PROTOCOL, error.text)
        except HeadraceError as error:
            self._end(EndReason.STOPPED, error.text)
        except Exception:  # noqa: BLE001 - a bug of ours ends this publisher, not the batch that it came in
            _log.exception("srt_media_failed", connection=self._connected.connection)
            self._end(EndReason.STOPPED, "the server failed on this stream")

    def _stop(self, reason: StopReason, text: str) -> None:
        self._end(EndReason.STOPPED, text or reason.value)

    def _end(self, reason: EndReason, text: str) -> None:
        if self._fault is None:
            self._fault = (reason, text)
            self._close()


def _agent(connected: Connected) -> str:
    return f"libsrt {connected.version}" if connected.version else "SRT"
