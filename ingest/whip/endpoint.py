"""The WHIP endpoint: admits publishers, owns their sessions and ends them. HTTP itself is in `router`."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

import structlog

from ingest.ports import EndReason, Gatekeeper, PublishRequest
from ingest.settings import LimitSettings, WhipSettings
from ingest.whip import aiortc_hooks, sdp
from ingest.whip.rate import Rate
from ingest.whip.session import Session
from media.addresses import network_of
from media.errors import HeadraceError, Overloaded, Refused

log = structlog.get_logger(__name__)

STOP_TIMEOUT_S = 5.0


def monotonic_us() -> int:
    """Microseconds of a clock that never goes back."""
    return time.monotonic_ns() // 1000


class WhipEndpoint:
    """Publishing over WebRTC. `start()` before use; `stop()` ends every session and waits for it."""

    def __init__(
        self,
        settings: WhipSettings,
        gatekeeper: Gatekeeper,
        limits: LimitSettings | None = None,
        *,
        now_us: Callable[[], int] = monotonic_us,
    ) -> None:
        self.settings = settings
        self.limits = limits or LimitSettings()
        self._gatekeeper = gatekeeper
        self._now_us = now_us
        self._sessions: dict[str, Session] = {}
        self._keys: dict[str, bytes] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._opening: list[str] = []
        """Addresses of those whose session is being made."""
        self._accepting = False
        self.rate = Rate(settings.requests_per_minute, settings.requests_per_minute)
        self.refused = 0
        self.overloaded = 0

    @property
    def sessions(self) -> Mapping[str, Session]:
        """Sessions by id: a view that follows. The ids are secrets."""
        return MappingProxyType(self._sessions)

    @property
    def accepting(self) -> bool:
        """False before `start()` and from `drain()` on."""
        return self._accepting

    async def start(self) -> None:
        """Be ready for publishers. Raises RuntimeError where aiortc is a version that the hooks cannot work with."""
        missing = aiortc_hooks.verify()
        if missing:
            raise RuntimeError(f"aiortc {aiortc_hooks.versions()} lacks what WHIP relies upon: {'; '.join(missing)}")
        if aiortc_hooks.versions() != aiortc_hooks.TESTED:
            log.warning("whip_untested_library", installed=aiortc_hooks.versions(), tested=aiortc_hooks.TESTED)
        self._accepting = True

    async def drain(self) -> None:
        """Take no more publishers; those who are here stay. WHIP has no way to ask them to go elsewhere."""
        self._accepting = False

    async def stop(self) -> None:
        """End every session and wait until it is closed."""
        self._accepting = False
        for session in list(self._sessions.values()):
            session.end(EndReason.STOPPED, "The server is shutting down.")
        tasks = list(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_TIMEOUT_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def now_us(self) -> int:
        """The endpoint's clock."""
        return self._now_us()

    async def publish(self, offer: sdp.Offer, request: PublishRequest) -> tuple[Session, str]:
        """Admit a publisher: the session and the answer. Raises Refused, Overloaded, ProtocolError."""
        self._need_room(request.address)
        self._opening.append(request.address)
        try:
            return await self._open(offer, request)
        finally:
            self._opening.remove(request.address)

    async def _open(self, offer: sdp.Offer, request: PublishRequest) -> tuple[Session, str]:
        try:
            publication = await self._gatekeeper.admit(request)
        except Refused:
            self.refused += 1
            raise
        except Overloaded:
            self.overloaded += 1
            raise
        session = Session(offer, publication, self.settings, self.limits, self._now_us, request.address)
        try:
            answer = await session.open()
        except HeadraceError as error:
            await session.abandon(EndReason.PROTOCOL, error.text)
            raise
        except BaseException:
            await session.abandon(EndReason.STOPPED, "The session could not be opened.")
            raise
        self._sessions[session.id] = session
        self._keys[session.id] = _digest(request.key)
        self._tasks[session.id] = asyncio.create_task(self._run(session), name="whip session")
        log.info("whip_session", stream=publication.stream, broadcast=publication.id, address=request.address)
        return session, answer

    def find(self, session_id: str, key: str) -> Session | None:
        """The session of this URL; None if there is none. Raises Refused if the key is not the one it began with."""
        session = self._sessions.get(session_id)
        if session is None:
            return None
        if not hmac.compare_digest(self._keys[session_id], _digest(key)):
            raise Refused("This is not the key that the session was opened with.", slug="unknown_key")
        return session

    async def remove(self, session: Session) -> None:
        """The client said goodbye (DELETE): end the session, and wait until its publication is closed."""
        session.end(EndReason.FINISHED, "")
        task = self._tasks.get(session.id)
        if task is not None:
            await asyncio.wait([task], timeout=STOP_TIMEOUT_S)

    async def _run(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            self._sessions.pop(session.id, None)
            self._keys.pop(session.id, None)
            self._tasks.pop(session.id, None)

    def _need_room(self, address: str) -> None:
        if not self._accepting:
            raise Overloaded("The server is shutting down: try another one, or this one later.", slug="draining")
        used = len(self._sessions) + len(self._opening)
        if used >= self.settings.max_sessions:
            self.overloaded += 1
            raise Overloaded("No room for another WebRTC session: try again later.", slug="too_many_sessions")
        network = network_of(address)
        others = (*(session.address for session in self._sessions.values()), *self._opening)
        here = sum(network_of(other) == network for other in others)
        # How many may publish the gatekeeper says, who knows whether this one takes over from another.
        if here >= self.limits.max_connections_per_address:
            self.refused += 1
            raise Refused("Too many sessions are open from this address.", slug="address_limit")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
