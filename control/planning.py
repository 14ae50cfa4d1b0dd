"""Which ladder a stream gets, its own or the server's, and which device makes it.

Those who are on air keep what they have. Who comes while there is little room gets fewer rungs, or none; and the rest
at a cut, as soon as there has been room for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from control.distributor import Distributor, Planner
from control.stream_settings import StreamSettings
from control.tracks import named
from media.errors import Refused
from media.track import Codec, Track
from transcode.device import CPU, device_of
from transcode.device import seat as seat_on
from transcode.hardware import Hardware
from transcode.ladder import Ladder, Rung, ladders
from transcode.placement import Placement
from transcode.plan import Plan
from transcode.planner import make_plan
from transcode.settings import TranscodeSettings

log = structlog.get_logger(__name__)

ROOMY_S = 10
"""So many seconds in a row there must be room before a reduced ladder grows."""
ROOMY_SHARE = 0.9
"""Of the limit, to which it may then fill a device: what has grown is not to be the next to overload it."""
_NOT_RUNNING = ("off", "due")
"""States of a watched rung (`control.demand`) in which nobody encodes it."""


def ladder_of(stream: StreamSettings, server: TranscodeSettings) -> Ladder:
    """The ladder of a stream. Its setting may name a ladder (`mobile`, or one of the server's own), or rungs of the
    server's ladder (`720p,480p`); rungs that it lacks are looked for in the others.

    Raises `Refused` (`unknown_ladder`) for a name that is neither.
    """
    known = ladders(server.ladders)
    names = stream.ladder
    if names is None:
        names = (server.ladder,)
    if len(names) == 1 and names[0] in known:
        return known[names[0]]
    base = known.get(server.ladder) or known["default"]
    rungs: dict[str, Rung] = {}
    for ladder in (base, *known.values()):
        for rung in ladder.rungs:
            if rung.codec in (Codec.H264, base.source_codec):
                rungs.setdefault(f"{rung.height}p", rung)
    unknown = [name for name in names if name not in rungs]
    if unknown:
        raise Refused(
            f"There is no ladder or rung called {', '.join(unknown)}: ladders are {', '.join(known)}; rungs are "
            f"{', '.join(rungs)}.",
            slug="unknown_ladder",
        )
    return replace(base, name=",".join(names) or "none", rungs=tuple(rungs[name] for name in names))


class Planning:
    """Makes planners, and holds the placement that they book in. Lives on the core's event loop.

    `hardware` is None until devices have been tried; CPU encoders serve until then, and nothing counts as full until
    the CPU has been measured.
    """

    def __init__(
        self,
        settings: TranscodeSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        guests: Callable[[], bool] = lambda: False,
    ) -> None:
        """`guests`: whether workers of other machines are here, whose load is not ours."""
        self._settings = settings
        self._clock = clock
        self._guests = guests
        self.hardware: Hardware | None = None
        self.placement = Placement(limit=settings.admission)
        self._jobs: dict[str, _Job] = {}

    def found(self, hardware: Hardware) -> None:
        """Probing has an answer. What is on air stays where it is until something else changes."""
        self.hardware = hardware
        self.placement = self.placement.with_hardware(hardware)

    def planner(self, stream: StreamSettings, key: str) -> Planner:
        """The planner of the broadcast of the stream `key`. Raises `Refused` where the stream's ladder does not
        exist."""
        ladder = ladder_of(stream, self._settings)
        watched = (stream.rungs or self._settings.rungs) == "watched"

        def plan(video: Sequence[Track], audio: Sequence[Track], passthrough: bool) -> Plan:
            sound = named(audio, stream.audio_tracks)
            made = make_plan(
                video[0] if video else None,
                sound[0] if sound else None,
                ladder,
                passthrough=passthrough,
                hardware=self.hardware,
                settings=self._settings,
                more_video=video[1:],
                more_audio=sound[1:],
            )
            source = next((t for t in video if t.id == made.source), None)
            return self._place(_Job(key, made, source, watched, plan))

        return plan

    def _place(self, job: _Job) -> Plan:
        placement = replace(self.placement, limit=0.0) if self._guests() else self.placement
        after, plan = placement.place(job.key, job.plan, job.source, self._clock(), whole=job.watched)
        self.placement = replace(after, limit=self.placement.limit)
        job.left_out = plan.left_out
        self._jobs[job.key] = job
        if not plan.left_out:
            return plan
        words = f"This machine has no room now for {', '.join(plan.left_out)}: left out until there is."
        return replace(plan, reasons=(*plan.reasons, words))

    # -- while it is on air -----------------------------------------------------------------------------------

    def release(self, key: str) -> None:
        """The broadcast is over."""
        self._jobs.pop(key, None)
        self.placement = self.placement.release(key)

    def planner_of(self, key: str) -> Planner | None:
        """The planner that the stream's broadcast was planned with last."""
        job = self._jobs.get(key)
        return job.planner if job is not None else None

    def failed(self, key: str, seat: str, reason: str) -> list[str]:
        """An encoder or decoder failed for the stream `key`. Returns the streams that are to be planned anew: it, and
        all on that device where it is left out from now on."""
        device = device_of(seat)
        if device == CPU:
            return []
        now = self._clock()
        self.placement = self.placement.failed(device, now, reason, key=key)
        others = self.placement.keys_on(device) if self.placement.is_out(device, now) else []
        if others:
            log.warning("device_left_out", device=device, reason=reason, streams=len(others))
        return list(dict.fromkeys((key, *others)))

    def lost(self, key: str, reason: str) -> list[str]:
        """A worker of the stream `key` died or stalled: the devices that it used may be why."""
        booking = self.placement.bookings.get(key)
        found: list[str] = []
        for device in sorted({u.device for u in booking.uses if u.device != CPU} if booking is not None else ()):
            found += self.failed(key, seat_on("", device), reason)
        return list(dict.fromkeys(found))

    def tick(self, on_air: Mapping[str, OnAir]) -> None:
        """Once a second: what nobody watches takes no time, and who has too little gets more where there is room."""
        for key in self._jobs.keys() - on_air.keys():
            self.release(key)
        for key, job in self._jobs.items():
            rungs = getattr(on_air[key].distributor.job, "rungs", {}) if job.watched else {}
            self.placement = self.placement.idle(key, (name for name, state in rungs.items() if state in _NOT_RUNNING))
        # A node that falls behind is not roomy, whatever was measured.
        behind = any(b.transcode_stats.get("shed_level") for b in on_air.values())
        for key, job in list(self._jobs.items()):
            if not job.left_out:
                continue
            job.roomy_s = job.roomy_s + 1 if not behind and self._has_room(job) else 0
            if job.roomy_s >= ROOMY_S:
                job.roomy_s = 0
                on_air[key].use(job.planner)
                return  # one at a time: the next may find the room taken

    def _has_room(self, job: _Job) -> bool:
        careful = 0.0 if self._guests() else self.placement.limit * ROOMY_SHARE
        placement = replace(self.placement, limit=careful)
        return len(placement.place(job.key, job.plan, job.source, self._clock())[1].left_out) < len(job.left_out)

    def as_json(self) -> dict[str, Any] | None:
        """For `/v1/hardware`; None while probing goes on."""
        if self.hardware is None:
            return None
        return {**self.hardware.as_json(), "placement": self.placement.as_json(self._clock())}


class OnAir(Protocol):
    """What planning needs of a broadcast."""

    distributor: Distributor
    transcode_stats: dict[str, float | str]

    def use(self, planner: Planner) -> None:
        """Another plan at the next cut."""
        ...


@dataclass
class _Job:
    """What was planned for one broadcast, before room was looked for."""

    key: str
    plan: Plan
    source: Track | None
    watched: bool
    planner: Planner
    left_out: tuple[str, ...] = ()
    roomy_s: int = 0
