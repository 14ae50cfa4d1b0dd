"""The gate for publishers: key, limits and the policy for a second publisher. Implements `ingest.ports.Gatekeeper`."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import structlog

from control.broadcast import Broadcast
from control.broadcasts import Broadcasts
from control.credentials import REDACTED
from control.distributor import Planner
from control.keys import KEY_AS_APP, Grant, Keys
from control.session import Session
from control.snapshot import Change, ChangeKind
from control.stream_settings import StreamSettings
from ingest.ports import PublishRequest, SrtAdmission, StopReason
from ingest.settings import LimitSettings
from media.addresses import network_of
from media.errors import HeadraceError, Overloaded, Refused

log = structlog.get_logger(__name__)

_KEY_ENDED = {
    "key_revoked": "this stream key was revoked and is no longer valid: ask whoever runs the stream for another",
    "key_expired": "this stream key has expired and is no longer valid: ask whoever runs the stream for another",
    "key_rotated": "this stream key was replaced and is no longer valid: set the encoder to the new one",
}


class Second(Enum):
    """What happens to somebody with a good key while the stream has a publisher: the answers of `second_publisher`."""

    TAKE_OVER = "takeover"
    REFUSE = "reject"


def second_publisher(settings: StreamSettings) -> Second:
    """The one place that decides it. `docs/decisions/0007` says what a warm backup would add here."""
    return Second(settings.on_second_publisher)


class Gate:
    """Lives on the core's event loop; only `srt_handshake` may be called from another thread."""

    def __init__(
        self,
        keys: Keys,
        broadcasts: Broadcasts,
        limits: LimitSettings,
        planner: Callable[[StreamSettings, str], Planner],
    ) -> None:
        self._keys = keys
        self._broadcasts = broadcasts
        self._limits = limits
        self._planner = planner
        self.draining = False
        self.refusals: dict[str, int] = {}

    async def admit(self, request: PublishRequest) -> Session:
        """Admit a publisher. Raises `Refused` (policy) or `Overloaded` with a text for the person behind it."""
        try:
            return await self._admit(request)
        except HeadraceError as error:
            self.refusals[error.slug] = self.refusals.get(error.slug, 0) + 1
            log.warning(
                "publisher_refused", protocol=request.protocol, address=request.address, slug=error.slug,
                agent=request.agent,
            )  # fmt: skip
            raise

    async def _admit(self, request: PublishRequest) -> Session:
        if self.draining:
            raise Overloaded("The server is going down: try again in a moment.", slug="server_shutdown")
        if not request.key and REDACTED.fullmatch(request.application):
            raise Refused(KEY_AS_APP, slug="key_as_application")
        resumable = {b.last_key_id for b in self._broadcasts.on_air() if b.session is None}
        grant = await self._keys.verify(
            request.key, protocol=request.protocol, address=request.address, resumable=resumable
        )
        self._check_limits(request.address, grant)
        broadcast = self._broadcasts.live(grant.stream_id)
        if broadcast is None:
            broadcast = self._broadcasts.start(grant, self._planner(grant.settings, grant.stream_id))
        elif broadcast.session is not None and second_publisher(grant.settings) is Second.REFUSE:
            raise Refused(
                f"The stream {grant.stream_name!r} is on air already: stop the other encoder first, or wait.",
                slug="stream_in_use",
            )
        session = Session(broadcast, request, grant.key_id)
        broadcast.attach(session)
        return session

    def _check_limits(self, address: str, grant: Grant) -> None:
        others = [
            b.session for b in self._broadcasts.on_air() if b.session is not None and b.stream != grant.stream_name
        ]
        if len(others) >= self._limits.max_publishers:
            raise Overloaded("The server has as many publishers as it takes: try again later.", slug="node_full")
        network = network_of(address)
        if sum(network_of(s.address) == network for s in others) >= self._limits.max_publishers_per_address:
            raise Refused("Too many streams are published from this address.", slug="address_limit")

    def srt_handshake(self, key: str, address: str) -> SrtAdmission:
        """For libsrt's listen callback: in memory, from any thread."""
        reject, passphrase = self._keys.srt_lookup(key, address)
        return SrtAdmission(reject, passphrase)

    def on_change(self, change: Change) -> None:
        """Streams or keys changed: whoever publishes with an ended key, or to a removed stream, must go; and so must
        what is kept of it."""
        if change.playback_id:
            settings = self._keys.settings_of(change.stream_id)
            self._broadcasts.rewind(change.playback_id, settings.dvr_window_s if settings is not None else 0)
        broadcast = self._broadcasts.live(change.stream_id)
        if broadcast is None:
            return
        if change.kind is ChangeKind.STREAM_CHANGED:
            self._changed(broadcast, change)
        elif change.kind is ChangeKind.STREAM_REMOVED:
            broadcast.stop(StopReason.REMOVED, "this stream was removed")
        elif change.kind is ChangeKind.KEY_ENDED:
            self._end_key(broadcast, change)

    def _changed(self, broadcast: Broadcast, change: Change) -> None:
        """Settings that a running broadcast follows: ladder and audio tracks at the next cut, the rest at once."""
        settings = self._keys.settings_of(change.stream_id)
        if settings is None:
            return
        broadcast.reconnect_window_s = settings.reconnect_window_s
        try:
            broadcast.use(self._planner(settings, change.stream_id))
        except Refused as error:
            broadcast.notice(error.text)

    @staticmethod
    def _end_key(broadcast: Broadcast, change: Change) -> None:
        session = broadcast.session
        if session is not None and session.key_id == change.key_id:
            session.stop(StopReason.REVOKED, _KEY_ENDED.get(change.reason, _KEY_ENDED["key_revoked"]))
