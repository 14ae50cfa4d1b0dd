"""The SRT server: a listener's thread, and a session for each publisher on the event loop.

Started where libsrt is missing it raises `SrtUnavailable`; the rest of the server can run without it.
"""

from __future__ import annotations

import asyncio

import structlog

from ingest.ports import Gatekeeper
from ingest.settings import LimitSettings, SrtSettings
from ingest.srt import library, reject
from ingest.srt.events import Connected, Disconnected, Event, Received, Rejected, Statistics
from ingest.srt.handshake import answer
from ingest.srt.library import SrtError
from ingest.srt.listener import Listener
from ingest.srt.session import Session
from media.errors import HeadraceError

LOGGED_REJECTIONS = 4
"""Lines in the log for the callers turned away in one pass of the listener; the rest of a flood is one number."""

_log = structlog.get_logger(__name__)


class SrtServer:
    """`start`, `drain`, `stop`, each once and in this order."""

    def __init__(self, settings: SrtSettings, gatekeeper: Gatekeeper, limits: LimitSettings | None = None) -> None:
        self._settings = settings
        self._gatekeeper = gatekeeper
        self._limits = limits or LimitSettings()
        self._sessions: dict[int, Session] = {}
        self._listener: Listener | None = None
        self._group: asyncio.TaskGroup | None = None
        self._runner: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self.port = 0
        """The UDP port, known after `start`."""

    @property
    def connections(self) -> int:
        return len(self._sessions)

    @property
    def rejected_total(self) -> int:
        """Callers turned away during the handshake."""
        return self._listener.rejected_total if self._listener else 0

    @property
    def handover_dropped_bytes(self) -> int:
        """Bytes dropped because the event loop was late."""
        return self._listener.handover_dropped_bytes if self._listener else 0

    async def start(self) -> None:
        """Listen. Raises `SrtUnavailable` without libsrt, `HeadraceError` where the port cannot be had."""
        names = (self._settings.library,) if self._settings.library else library.NAMES
        loaded = library.load(names)
        self._listener = listener = Listener(
            loaded,
            self._settings,
            self._limits,
            admit=lambda raw, address: answer(self._gatekeeper, raw, address),
            sink=self._take,
        )
        ready = asyncio.Event()
        self._runner = asyncio.create_task(self._run(ready), name="srt-sessions")
        await ready.wait()
        try:
            self.port = await listener.start()
        except SrtError as error:
            await self.stop()
            raise HeadraceError(
                f"srt cannot listen on {self._settings.host or '*'}:{self._settings.port}: {error.text}. Is another "
                "server running? Set srt.port to another port.",
                slug="port_in_use",
            ) from error
        except BaseException:
            await self.stop()
            raise
        _log.info("listening", protocol="srt", port=self.port, libsrt=loaded.version)

    async def drain(self) -> None:
        """Take no new callers (they are told 1503); those who publish go on until `stop`.

        SRT has no word for "reconnect elsewhere": a closed connection is all that an encoder understands.
        """
        if self._listener is not None:
            self._listener.drain()

    async def stop(self) -> None:
        """Close every connection, end every publication, and the thread."""
        if self._listener is not None:
            await self._listener.stop()
        self._stopping.set()
        if self._runner is not None:
            await self._runner

    async def _run(self, ready: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            ready.set()
            await self._stopping.wait()

    def _take(self, events: list[Event]) -> None:
        rejected: list[Rejected] = []
        for event in events:
            match event:
                case Received(connection, data):
                    if (session := self._sessions.get(connection)) is not None:
                        session.receive(data)
                case Statistics(connection):
                    if (session := self._sessions.get(connection)) is not None:
                        session.measure(event)
                case Connected():
                    self._begin(event)
                case Disconnected(connection, ending):
                    if (session := self._sessions.get(connection)) is not None:
                        session.disconnected(ending)
                case Rejected():
                    rejected.append(event)
        _tell_rejected(rejected)

    def _begin(self, connected: Connected) -> None:
        listener, group = self._listener, self._group
        connection = connected.connection
        if listener is None or group is None or self._stopping.is_set():
            return
        session = Session(connected, self._gatekeeper, self._limits, lambda: listener.close(connection))
        self._sessions[connection] = session
        group.create_task(self._keep(connection, session), name=f"srt-{connection}")

    async def _keep(self, connection: int, session: Session) -> None:
        try:
            await session.run()
        except Exception:  # noqa: BLE001 - a bug of ours ends this publisher, not the others
            _log.exception("srt_session_failed", connection=connection)
            if self._listener is not None:
                self._listener.close(connection)
        finally:
            del self._sessions[connection]


def _tell_rejected(rejected: list[Rejected]) -> None:
    for event in rejected[:LOGGED_REJECTIONS]:
        reason = "wrong_or_missing_passphrase" if event.code == 0 else reject.name(event.code)
        _log.info("srt_caller_rejected", address=event.address, code=event.code, reason=reason)
    if len(rejected) > LOGGED_REJECTIONS:
        _log.info("srt_callers_rejected", more=len(rejected) - LOGGED_REJECTIONS)
