"""All broadcasts of this node: who is on air, what viewers find under a playback id, and the recent past.

Implements `packager.ports.Directory`. One presentation serves the broadcasts of a playback id one after the other, so
that a new publish takes over from an ended one without a 404, and media sequence numbers never go back.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

import structlog

from control.broadcast import Broadcast, State
from control.distributor import Planner
from control.keys import Grant
from control.planning import Planning
from ingest.ports import StopReason
from ingest.settings import LimitSettings
from media.errors import MediaError
from packager.archive import Archive, Restored
from packager.presentation import Presentation
from packager.settings import PackagerSettings
from transcode.pool import Pool
from transcode.stills import Stills

log = structlog.get_logger(__name__)

HISTORY = 100
"""Ended broadcasts that the API still tells about."""

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Broadcasts:
    """Lives on the core's event loop. `spawn` starts a task that the node owns."""

    def __init__(
        self,
        pool: Pool,
        packaging: PackagerSettings,
        spawn: Spawn,
        *,
        keep_ended_s: float,
        limits: LimitSettings | None = None,
        archive: Archive | None = None,
        planning: Planning | None = None,
        stills: Stills | None = None,
    ) -> None:
        """`archive`: where streams with a rewind window keep their segments; None: none has one. `planning`: is told
        when a broadcast is over, and of devices that fail. `stills`: see `Broadcast`."""
        self._stills = stills
        self._planning = planning
        self._pool = pool
        self._packaging = packaging
        self._spawn = spawn
        self._keep_ended_s = keep_ended_s
        self.archive = archive
        self._limits = limits or LimitSettings()
        self.limit_ends: dict[str, int] = {}
        """Broadcasts that a limit ended, by limit."""
        self._live: dict[str, Broadcast] = {}
        self._shown: dict[str, Presentation] = {}
        self._ended_at: dict[str, float] = {}
        self._finishing: dict[str, asyncio.Task[None]] = {}
        self.history: deque[Broadcast] = deque(maxlen=HISTORY)

    # -- for publishers ---------------------------------------------------------------------------------------

    def live(self, stream_id: str) -> Broadcast | None:
        """The broadcast of a stream that has not ended, or None."""
        return self._live.get(stream_id)

    def start(self, grant: Grant, planner: Planner) -> Broadcast:
        """A new broadcast of the granted stream, still without a publisher."""
        presentation = self._shown.get(grant.playback_id)
        if presentation is None:
            presentation = self._shown[grant.playback_id] = Presentation(
                grant.playback_id, self._packaging, archive=self.archive, dvr_window_s=grant.settings.dvr_window_s
            )
        broadcast = Broadcast(
            secrets.token_hex(6),
            grant.stream_name,
            presentation,
            self._pool,
            planner,
            segment_s=self._packaging.segment_s,
            reconnect_window_s=grant.settings.reconnect_window_s,
            on_end=lambda ended: self._ended(grant, ended),
            after=self._finishing.get(grant.playback_id),
            limits=self._limits,
            rungs=grant.settings.rungs or self._pool.settings.rungs,
            on_trouble=partial(self._trouble, grant.stream_id),
            stills=self._stills,
        )
        self._live[grant.stream_id] = broadcast
        self._ended_at.pop(grant.playback_id, None)
        return broadcast

    def recall(self, restored: Sequence[Restored]) -> None:
        """Show again what an earlier run of this node left on disk, as ended broadcasts that a new one continues."""
        for found in restored:
            window_s = float(found.meta.get("dvr_window_s", 0))
            presentation = Presentation(found.playback_id, self._packaging, archive=self.archive, dvr_window_s=window_s)
            try:
                presentation.recall(found)
            except MediaError as error:
                log.error("dvr_unreadable", playback_id=found.playback_id, reason=error.text)
                if self.archive is not None:
                    self.archive.reels.pop(found.playback_id, None)
                continue
            self._shown[found.playback_id] = presentation
            self._ended_at[found.playback_id] = time.monotonic()
            log.info("broadcast_recalled", playback_id=found.playback_id)

    def rewind(self, playback_id: str, dvr_window_s: float) -> None:
        """Another window for what is shown there; with 0 what is on disk goes, too, when its time is over."""
        shown = self._shown.get(playback_id)
        if shown is not None:
            shown.rewind(dvr_window_s)

    def _ended(self, grant: Grant, broadcast: Broadcast) -> None:
        if self._live.get(grant.stream_id) is broadcast:
            del self._live[grant.stream_id]
            if self._planning is not None:
                self._planning.release(grant.stream_id)
        if self._stills is not None:
            self._stills.forget(broadcast.stream)
        self.history.append(broadcast)
        if broadcast.limit:
            self.limit_ends[broadcast.limit] = self.limit_ends.get(broadcast.limit, 0) + 1
        self._ended_at[grant.playback_id] = time.monotonic()
        self._finishing[grant.playback_id] = self._spawn(broadcast.finish())

    def _trouble(self, stream_id: str, seat: str, reason: str) -> None:
        """An encoder or decoder failed (`seat`), or a whole worker did (no seat)."""
        if self._planning is None:
            return
        planning = self._planning
        affected = planning.failed(stream_id, seat, reason) if seat else planning.lost(stream_id, reason)
        for key in affected:
            broadcast, planner = self._live.get(key), planning.planner_of(key)
            if broadcast is not None and planner is not None:
                broadcast.use(planner)

    # -- for viewers ------------------------------------------------------------------------------------------

    def presentation(self, playback_id: str) -> Presentation | None:
        """What a viewer of `playback_id` is to see now; None if nothing was on air lately."""
        return self._shown.get(playback_id)

    # -- for operators ----------------------------------------------------------------------------------------

    def all(self) -> list[Broadcast]:
        """Those on air first, then the recent past, newest first."""
        return [*self._live.values(), *reversed(self.history)]

    def find(self, broadcast_id: str) -> Broadcast | None:
        """One broadcast by its id."""
        return next((b for b in self.all() if b.id == broadcast_id), None)

    def on_air(self) -> list[Broadcast]:
        """Those that have not ended."""
        return list(self._live.values())

    # -- once a second, and at the end ------------------------------------------------------------------------

    def tick(self) -> None:
        """Measure, and forget what ended long ago."""
        now, wall = time.monotonic(), time.time()
        for broadcast in self.on_air():  # a copy: a limit may end one of them right here
            broadcast.tick(now, wall)
        if self._planning is not None:
            self._planning.tick(self._live)
        for playback_id, at in list(self._ended_at.items()):
            shown = self._shown.get(playback_id)
            if now - at > max(self._keep_ended_s, shown.keep_s if shown is not None else 0):
                if shown is not None:
                    shown.discard()
                self._shown.pop(playback_id, None)
                self._finishing.pop(playback_id, None)
                del self._ended_at[playback_id]

    def watched(self, viewers: Mapping[str, Mapping[str, int]]) -> None:
        """How many watch which rendition, by playback id: told to those who may have to shed."""
        for broadcast in self._live.values():
            job, counts = broadcast.distributor.job, viewers.get(broadcast.presentation.playback_id, {})
            broadcast.viewers = dict(counts)
            if job is not None:
                job.watched(counts)

    def drain(self) -> None:
        """Tell every publisher to go and end every broadcast."""
        for broadcast in list(self._live.values()):
            if broadcast.state is not State.ENDED:
                broadcast.stop(StopReason.DRAIN, "the server is going down; try again in a moment")

    async def finished(self) -> None:
        """Return once every ended broadcast has handed over its last packets."""
        await asyncio.gather(*self._finishing.values(), return_exceptions=True)
