"""One publisher over WebRTC: the shell around aiortc for the life of one session.

Owns its peer connection, its tasks and its publication: `run()` ends when the session ends, and then all three are
closed. What arrives is handled on the event loop, packet by packet, by pure parts: `rtp`, `tracks`, `lipsync`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

import structlog
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from ingest.ports import EndReason, Publication, StopReason
from ingest.settings import LimitSettings, WhipSettings
from ingest.whip import sdp, sdpfrag
from ingest.whip.aiortc_hooks import IcePath, Sockets, own_ssrc, request_keyframe, send_rtcp, tap_transport
from ingest.whip.feedback import Feedback
from ingest.whip.receive import Receive
from ingest.whip.state import State, follow
from media.errors import Overloaded, ProtocolError
from media.track import Kind

log = structlog.get_logger(__name__)

TICK_S = 0.1
RESTART_TIMEOUT_S = 20.0
GOODBYE_US = 1_000_000
"""After DTLS was closed by the peer, its DELETE may still be on the way; then it is a goodbye, not a loss."""
MAX_RESTARTS = 50
"""ICE restarts in one session: a phone that changes networks all day needs fewer."""


class Session:
    """A WHIP session. `id` is the secret part of its URL; the URL alone does nothing without the key."""

    def __init__(
        self,
        offer: sdp.Offer,
        publication: Publication,
        settings: WhipSettings,
        limits: LimitSettings,
        now_us: Callable[[], int],
        address: str,
    ) -> None:
        self.id = secrets.token_urlsafe(24)
        self.etag = _new_etag()
        self.address = address
        self.state = State.NEW
        self.publication = publication
        self._offer = offer
        self._settings = settings
        self._now_us = now_us
        self._log = log.bind(stream=publication.stream, broadcast=publication.id)
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self._path: IcePath | None = None
        self._wake = asyncio.Event()
        self._end: tuple[EndReason, str] | None = None
        self._keyframe_wanted = False
        self._restart: asyncio.Task[None] | None = None
        self._restarts = 0
        self._restarting = asyncio.Lock()
        self._gone_us: int | None = None
        self._remote_ufrag = offer.ufrag
        self._feedback = Feedback()
        self.receive = Receive(offer, publication, limits, now_us)

    async def open(self) -> str:
        """Make the answer: gather our candidates, and be ready for the peer. Raises ProtocolError or Overloaded."""
        try:
            await self._pc.setRemoteDescription(RTCSessionDescription(sdp.offer_for_aiortc(self._offer), "offer"))
        except ValueError as error:
            raise ProtocolError(f"The offer cannot be used: {error}.", slug="unsupported_offer") from error
        public = (self._settings.public_address,) if self._settings.public_address else ()
        settings = self._settings
        sockets = Sockets(settings.addresses, public, settings.port_min, settings.port_max)
        self._path = IcePath(self._pc, sockets)
        for transceiver in self._pc.getTransceivers():
            transceiver.direction = "recvonly"
            self.receive.tap(Kind(transceiver.kind), transceiver.receiver)
        if self._offer.transport_cc is not None:
            tap_transport(self._pc, self._offer.transport_cc, self._feedback.seen, self._now_us)
        answer = await self._pc.createAnswer()
        role = f"a=setup:{self._offer.answer_setup}"
        text = answer.sdp.replace("a=setup:active", role).replace("a=setup:passive", role)
        await self._pc.setLocalDescription(RTCSessionDescription(text, "answer"))
        candidates = self._path.candidates()
        if not candidates:
            raise Overloaded("No UDP port is free for another session.", slug="no_udp_port")
        await self._path.add_remote(self._offer.candidates)
        self.state = follow(self.state, State.CONNECTING)
        self._pc.on("connectionstatechange", self._connection_changed)
        self.publication.on_stop(self._stopped)
        self.publication.on_keyframe_wanted(self._want_keyframe)
        return sdp.answer_for_peer(self._pc.localDescription.sdp, self._offer, candidates)

    async def run(self) -> None:
        """Live until the end, then close everything. Never raises but for a bug or its own cancellation."""
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                while self.state is State.CONNECTING and self._end is None and self._gone_us is None:
                    await self._sleep()
            while self._end is None:
                await self._tick()
                await self._sleep()
        except TimeoutError:
            self.end(EndReason.LOST, "ICE and DTLS did not complete: is UDP open between you and the server?")
        finally:
            await self._close()

    def end(self, reason: EndReason, text: str) -> None:
        """End the session soon. The first reason counts."""
        if self._end is None:
            self._end = (reason, text)
            self._wake.set()

    async def trickle(self, fragment: sdpfrag.Fragment) -> None:
        """More candidates of the peer."""
        if self._path is not None:
            await self._path.add_remote(fragment.candidates)

    def is_restart(self, fragment: sdpfrag.Fragment) -> bool:
        """True if the fragment's credentials are not those of the ICE session at hand."""
        return bool(fragment.ufrag) and fragment.ufrag != self._remote_ufrag

    async def restart(self, fragment: sdpfrag.Fragment) -> str:
        """Begin an ICE restart; answers the body for the peer. Media flows on the old path until the new one stands.

        Raises ProtocolError if it cannot be done; the session then goes on as before (RFC 9725 4.3.3).
        """
        async with self._restarting:  # two at once would leave the sockets of one open for ever
            return await self._begin_restart(fragment)

    async def _begin_restart(self, fragment: sdpfrag.Fragment) -> str:
        if self._path is None or self.state is not State.LIVE:
            raise ProtocolError("An ICE restart needs a session that is connected.", slug="no_restart")
        if not fragment.password or self._restarts >= MAX_RESTARTS:
            raise ProtocolError("This ICE restart is not possible.", slug="no_restart")
        self._restarts += 1
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.wait([self._restart])
        ufrag, password = await self._path.restart(fragment.ufrag, fragment.password)
        candidates = self._path.candidates()
        await self._path.add_remote(fragment.candidates)
        self._remote_ufrag = fragment.ufrag
        self.etag = _new_etag()
        self._restart = asyncio.create_task(self._finish_restart())
        lead = self._offer.media[0]
        return sdpfrag.render(ufrag, password, lead.mid, lead.kind.value, candidates)

    async def _finish_restart(self) -> None:
        assert self._path is not None
        moved = False
        try:
            async with asyncio.timeout(RESTART_TIMEOUT_S):
                moved = await self._path.finish_restart()
        except TimeoutError:
            moved = False
        self._log.info("whip_ice_restarted", moved=moved)
        self._keyframe_wanted = True

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(TICK_S):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _tick(self) -> None:
        now_us = self._now_us()
        if self._gone_us is not None:
            if now_us - self._gone_us > GOODBYE_US:
                self.end(EndReason.LOST, "The peer closed the connection without DELETE.")
            return
        wanted, self._keyframe_wanted = self._keyframe_wanted, False
        request = self.receive.keyframe_request(now_us, wanted=wanted)
        if request is not None:
            await request_keyframe(*request)
        for packet in self._feedback.build(own_ssrc(self._pc), self.receive.ssrc):
            await send_rtcp(self._pc, packet)
        self.receive.report(now_us)
        silent_s = self.receive.silent_us(now_us) / 1e6
        if silent_s > self._settings.session_timeout_s:
            self.end(EndReason.LOST, f"No media has come for {silent_s:.0f} s.")

    def _connection_changed(self) -> None:
        state = self._pc.connectionState
        if state == "connected" and self.state is State.CONNECTING:
            self.state = follow(self.state, State.LIVE)
            self.receive.connected(self._now_us())
            self._log.info("whip_connected")
            self._wake.set()
        elif state == "failed":
            self.end(EndReason.LOST, "The peer no longer answers, or DTLS failed.")
        elif state == "closed" and self._gone_us is None:
            self._gone_us = self._now_us()

    def _stopped(self, reason: StopReason, text: str) -> None:
        self._log.info("whip_stopped", reason=reason.value)
        self.end(EndReason.STOPPED, text or reason.value)

    def _want_keyframe(self) -> None:
        self._keyframe_wanted = True
        self._wake.set()

    async def _close(self) -> None:
        self.state = follow(self.state, State.CLOSED)
        reason, text = self._end or (EndReason.STOPPED, "The server is shutting down.")
        self._end = (reason, text)
        self.receive.close()
        self.publication.close(reason, text)
        self._log.info("whip_closed", reason=reason.value, text=text, **self.receive.counters())
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.wait([self._restart])
        if self._path is not None:
            await self._path.close()
        await self._pc.close()

    async def abandon(self, reason: EndReason, text: str) -> None:
        """Close a session that never ran."""
        self.end(reason, text)
        await self._close()


def _new_etag() -> str:
    return f'"{secrets.token_hex(8)}"'
