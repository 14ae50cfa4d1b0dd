"""Placement: what every device can do, what is booked on it, and which device does the next piece of work.

A value without clock or I/O: `place`, `release`, `failed` return another `Placement`; whoever composes holds the
latest. Work is booked as pixels per second of one skill (an encoder, a decoder, the scaler); a device's load is the
sum of the shares of its time, 1.0 when it is busy all the time.

| a piece of work goes to | if |
|---|---|
| the device where it runs already | it may still be there |
| the device that takes most of its job | there is room; among equals the one with the least load |
| the CPU | no device takes it |
| nowhere | the CPU has no room either, and it can be done without (`VideoEncode.sheddable`) |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from media.track import Track
from transcode.device import CPU, device_of, split
from transcode.hardware import SCALER, Hardware
from transcode.plan import Plan, VideoEncode

RATE_IF_UNKNOWN = Fraction(30)
JOB = "job"
JOB_CORES = 0.05
"""Of a CPU for each job, beside its pictures: packets, sound, thumbnails."""

IN_A_WORKER = 0.65
"""Of its measured speed, what the CPU does in a worker: there its caches are cold, and pictures are harder than ours.
Measured: 1080p30 with the default ladder took one core where the trials added up to 0.64."""

ALONE = 1.4
"""Of the limit, up to which one job alone may book the CPU. What was measured is rough (half, where other work held
the caches); nobody else is harmed, and a worker that is too slow in fact sheds, lowest value first."""

STRIKES = 3
WINDOW_S = 60.0
"""A device that fails so often within so long is left out."""
OUT_S = 30.0
OUT_MAX_S = 3600.0
"""For how long the first time; twice as long each further time, up to this."""
FORGIVEN_S = 3600.0
"""Without a failure for so long, the next time counts as the first."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a device can do when it does nothing else."""

    device: str
    label: str
    speeds: Mapping[str, float] = field(default_factory=dict)
    """Pixels per second by skill: libav's name of an encoder, `decode h264+cuda`, `scale`, ..."""
    sessions: int = 0
    """Encoders that may be open at once; 0 for no limit."""


@dataclass(frozen=True, slots=True)
class Use:
    """One booked piece of work."""

    device: str
    skill: str
    pixels_per_s: float
    rung: str = ""
    """The rendition that it is for; empty for what is done once, whatever the renditions."""

    @property
    def session(self) -> bool:
        """Whether it is an open encoder."""
        return bool(self.rung) and self.skill != SCALER


@dataclass(frozen=True, slots=True)
class Booking:
    """What one job does where."""

    uses: tuple[Use, ...] = ()
    idle: frozenset[str] = frozenset()
    """Renditions that are not encoded now."""
    avoid: frozenset[str] = frozenset()
    """Devices that failed for this job: not used again for it."""

    @property
    def active(self) -> tuple[Use, ...]:
        """What takes time now. With no picture to encode none is decoded."""
        rungs = {u.rung for u in self.uses if u.rung}
        if rungs and rungs <= self.idle:
            return ()
        return tuple(u for u in self.uses if u.rung not in self.idle) if self.idle else self.uses


@dataclass(frozen=True, slots=True)
class Health:
    """How a device behaved. Times in seconds, of any clock that does not go back."""

    failures: int = 0
    """All of them."""
    recent: tuple[float, ...] = ()
    times_out: int = 0
    out_until: float = 0.0
    last: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Placement:
    """Devices, what is booked on them, and how they behaved."""

    capacities: Mapping[str, Capacity] = field(default_factory=dict)
    limit: float = 0.9
    """Load up to which a device takes work; 0: without limit, all work is taken."""
    bookings: Mapping[str, Booking] = field(default_factory=dict)
    health: Mapping[str, Health] = field(default_factory=dict)

    # -- looking --------------------------------------------------------------------------------------------------

    def load(self, device: str, *, without: str = "") -> float:
        """Share of the device's time that is booked; `without` one job."""
        return sum(self.share(u) for u in self._active(device, without))

    def sessions(self, device: str, *, without: str = "") -> int:
        """Encoders that are booked on a device."""
        return sum(u.session for u in self._active(device, without))

    def _active(self, device: str, without: str) -> list[Use]:
        others = (b for key, b in self.bookings.items() if key != without)
        return [u for booking in others for u in booking.active if u.device == device]

    def is_out(self, device: str, now: float) -> bool:
        """Whether a device is left out because it failed too often."""
        health = self.health.get(device)
        return health is not None and now < health.out_until

    def share(self, use: Use) -> float:
        """Of its device's time."""
        capacity = self.capacities.get(use.device)
        speed = capacity.speeds.get(use.skill, 0.0) if capacity is not None else 0.0
        return use.pixels_per_s / speed if speed else 0.0  # not measured: it is not held against anybody

    # -- booking --------------------------------------------------------------------------------------------------

    def with_hardware(self, hardware: Hardware) -> Placement:
        """The same bookings on devices as they were measured now."""
        return replace(self, capacities=capacities(hardware))

    def release(self, key: str) -> Placement:
        """The job is over."""
        return replace(self, bookings={k: b for k, b in self.bookings.items() if k != key})

    def idle(self, key: str, rungs: Iterable[str]) -> Placement:
        """Of a job's renditions `rungs` are not encoded now: their time is free."""
        booking, idle = self.bookings.get(key), frozenset(rungs)
        if booking is None or booking.idle == idle:
            return self
        return replace(self, bookings={**self.bookings, key: replace(booking, idle=idle)})

    def place(self, key: str, plan: Plan, source: Track | None, now: float, *, whole: bool = False) -> _Placed:
        """Book `plan` for the job `key`, in place of what it had: (the placement after it, the plan with the device of
        choice first in each `encoders` and `decoders`, and without what there is no room for).

        `whole`: nothing is left out, as of a job whose rungs run only while they are watched.
        """
        return _Placer(self, key, plan, source, now, whole=whole).run()

    # -- health ---------------------------------------------------------------------------------------------------

    def failed(self, device: str, now: float, reason: str = "", *, key: str = "") -> Placement:
        """A device failed, for the job `key`. The CPU is never left out: there is nothing behind it."""
        if device == CPU:
            return self
        old = self.health.get(device, Health())
        times_out = 0 if now - max(old.last, old.out_until) > FORGIVEN_S else old.times_out
        recent = (*(t for t in old.recent if now - t < WINDOW_S), now)
        out_until = old.out_until
        if len(recent) >= STRIKES:
            out_until = now + min(OUT_S * 2**times_out, OUT_MAX_S)
            times_out, recent = times_out + 1, ()
        health = Health(old.failures + 1, recent, times_out, out_until, now, reason)
        bookings = dict(self.bookings)
        if key in bookings:
            bookings[key] = replace(bookings[key], avoid=bookings[key].avoid | {device})
        return replace(self, bookings=bookings, health={**self.health, device: health})

    def keys_on(self, device: str) -> list[str]:
        """Jobs that have something booked on a device."""
        return [key for key, b in self.bookings.items() if any(u.device == device for u in b.uses)]

    def as_json(self, now: float) -> list[dict[str, object]]:
        """For `/v1/hardware`: each device, its load and its health."""
        shown: list[dict[str, object]] = []
        for device, capacity in self.capacities.items():
            health = self.health.get(device, Health())
            shown.append(
                {
                    "id": device,
                    "label": capacity.label,
                    "load": round(self.load(device), 3),
                    "load_limit": self.limit,
                    "sessions": self.sessions(device),
                    "sessions_limit": capacity.sessions,
                    "jobs": len(self.keys_on(device)),
                    "failures": health.failures,
                    "left_out_s": round(max(0.0, health.out_until - now), 1),
                    "reason": health.reason,
                }
            )
        return shown


_Placed = tuple[Placement, Plan]


def capacities(hardware: Hardware) -> dict[str, Capacity]:
    """By device id, of what was found to work."""
    found: dict[str, Capacity] = {}
    for device in hardware.devices:
        ours = [t for t in hardware.trials if t.device == device.id and t.works]
        scale = hardware.cpus * IN_A_WORKER if device.id == CPU else 1.0
        speeds = {_skill(t.kind, t.name): t.pixels_per_s * scale for t in ours}
        if device.id == CPU:
            speeds[JOB] = hardware.cpus / JOB_CORES
        elif not ours:
            continue
        limits = [t.sessions for t in ours if t.sessions]
        # The trial stops counting at its own bound: what reached it has no limit that we know of.
        limit = min(limits, default=0)
        found[device.id] = Capacity(device.id, device.label, speeds, limit if limit < UNBOUNDED_SESSIONS else 0)
    return found


UNBOUNDED_SESSIONS = 8
"""What the trial counts to (`transcode.trial.MAX_SESSIONS`)."""


def _skill(kind: str, name: str) -> str:
    return f"decode {name}" if kind == "decode" else name


def pixels_per_s(encode: VideoEncode) -> float:
    """What an encode asks of its encoder."""
    rate = encode.frame_rate or min(RATE_IF_UNKNOWN, encode.max_rate)
    return float(encode.width * encode.height * rate)


class _Placer:
    """One `place`."""

    def __init__(
        self, before: Placement, key: str, plan: Plan, source: Track | None, now: float, *, whole: bool
    ) -> None:
        self._before = before
        self._key = key
        self._plan = plan
        self._source = source
        self._now = now
        self._whole = whole
        self._old = before.bookings.get(key, Booking())
        self._uses: list[Use] = []
        self._load = {d: before.load(d, without=key) for d in before.capacities}
        others = (b for other, b in before.bookings.items() if other != key)
        self._alone = not any(u.device == CPU and u.skill != JOB for b in others for u in b.active)
        """Nobody else's pictures are on the CPU."""
        self._sessions = {d: before.sessions(d, without=key) for d in before.capacities}

    def run(self) -> _Placed:
        plan = self._plan
        if not plan.encodes:
            return self._booked(plan, [], ())
        self._add(Use(CPU, JOB, 1.0))
        order = self._devices()
        chosen: dict[str, str] = {}
        # The source first, then what is worth most: that is what there must be room for.
        encodes = sorted(plan.video, key=lambda e: (e.sheddable, -e.value, -e.width * e.height))
        decoders = self._decoders(order)
        if encodes:
            self._add(self._decode(decoders[0] if decoders else CPU))
        for encode in encodes:
            seat = self._choose(encode, order)
            if seat is not None:
                chosen[encode.name] = seat
                for use in _uses(encode, seat):
                    self._add(use)
        kept = [self._arranged(e, chosen[e.name], order) for e in plan.video if e.name in chosen]
        return self._booked(plan, kept, tuple(decoders))

    def _booked(self, plan: Plan, kept: list[VideoEncode], decoders: tuple[str, ...]) -> _Placed:
        names = {e.name for e in kept}
        out = tuple(e.name for e in plan.video if e.name not in names)
        renditions = tuple(r for r in plan.renditions if r.name not in out)
        placed = replace(plan, video=tuple(kept), renditions=renditions, decoders=decoders, left_out=out)
        if not kept:
            placed = replace(placed, thumbnail_track=None, decoders=())
        uses = [u for u in self._uses if kept or u.skill == JOB] if placed.encodes else []
        booking = replace(self._old, uses=tuple(uses))
        bookings = {**self._before.bookings, self._key: booking}
        return replace(self._before, bookings=bookings), placed

    # -- which device ---------------------------------------------------------------------------------------------

    def _usable(self, device: str) -> bool:
        return device == CPU or (device not in self._old.avoid and not self._before.is_out(device, self._now))

    def _devices(self) -> list[str]:
        """Devices in the order in which this job tries them."""
        names = {device_of(seat) for e in self._plan.video for seat in e.encoders}
        here = {u.device for u in self._old.uses if u.session}

        def rank(device: str) -> tuple[bool, bool, int, float, str]:
            return device == CPU, device not in here, -self._fitting(device), self._load.get(device, 0.0), device

        return sorted((d for d in names if self._usable(d)), key=rank)

    def _fitting(self, device: str) -> int:
        """How many of the job's encodes the device could take together."""
        uses: list[Use] = []
        count = 0
        for encode in self._plan.video:
            seat = next((s for s in encode.encoders if device_of(s) == device), None)
            if seat is not None and self._room([*uses, Use(device, split(seat)[0], pixels_per_s(encode), encode.name)]):
                uses.append(Use(device, split(seat)[0], pixels_per_s(encode), encode.name))
                count += 1
        return count

    def _choose(self, encode: VideoEncode, order: Sequence[str]) -> str | None:
        """The seat of an encode; None where it is left out."""
        ranked = _ranked(encode, order)
        before = next((u for u in self._old.uses if u.session and u.rung == encode.name), None)
        for seat in ranked:
            if before is not None and split(seat) == (before.skill, before.device) and self._room(_uses(encode, seat)):
                return seat
        for seat in ranked:
            if self._room(_uses(encode, seat)):
                return seat
        if encode.sheddable and not self._whole:
            return None
        return min(ranked, key=lambda s: self._load.get(device_of(s), 0.0), default=encode.encoders[-1])

    def _arranged(self, encode: VideoEncode, seat: str, order: Sequence[str]) -> VideoEncode:
        """The chosen seat first, behind it those that take over: other devices that may be used, then the CPU."""
        return replace(encode, encoders=tuple(dict.fromkeys((seat, *_ranked(encode, order)))))

    def _decoders(self, order: Sequence[str]) -> list[str]:
        """Decoding is helped by the device that encodes, where it can; else the CPU does it."""
        device = order[0] if order else CPU
        if device == CPU:
            return []
        return [s for s in self._plan.decoders if device_of(s) == device]

    def _decode(self, seat: str) -> Use:
        source = self._source
        name, device = split(seat)
        if seat == CPU:
            name = source.codec.value if source is not None else ""
        size = (source.width or 1280) * (source.height or 720) if source is not None else 0
        rate = (source.frame_rate if source is not None else None) or RATE_IF_UNKNOWN
        return Use(device, _skill("decode", name), float(size * min(rate, Fraction(120))))

    # -- room -----------------------------------------------------------------------------------------------------

    def _add(self, use: Use) -> None:
        self._uses.append(use)
        self._load[use.device] = self._load.get(use.device, 0.0) + self._before.share(use)
        self._sessions[use.device] = self._sessions.get(use.device, 0) + use.session

    def _room(self, uses: Sequence[Use]) -> bool:
        for device in {u.device for u in uses}:
            ours = [u for u in uses if u.device == device]
            capacity = self._before.capacities.get(device, Capacity(device, device))
            sessions = sum(u.session for u in ours)
            if sessions and capacity.sessions and self._sessions.get(device, 0) + sessions > capacity.sessions:
                return False
            limit = self._before.limit * (ALONE if device == CPU and self._alone else 1)
            share = sum(self._before.share(u) for u in ours)
            if limit and share and self._load.get(device, 0.0) + share > limit:
                return False
        return True


def _uses(encode: VideoEncode, seat: str) -> tuple[Use, Use]:
    """Encoding on the seat, and scaling, which the CPU does."""
    name, device = split(seat)
    pixels = pixels_per_s(encode)
    return Use(device, name, pixels, encode.name), Use(CPU, SCALER, pixels, encode.name)


def _ranked(encode: VideoEncode, order: Sequence[str]) -> list[str]:
    """The encode's usable seats: those that an operator prefers stay in front, others go by the job's order."""
    usable = [s for s in encode.encoders if device_of(s) in order]
    preferred = [s for s in usable if split(s)[0] in encode.preferred]
    preferred.sort(key=lambda s: (encode.preferred.index(split(s)[0]), order.index(device_of(s))))
    others = sorted((s for s in usable if s not in preferred), key=lambda s: order.index(device_of(s)))
    return [*preferred, *others]
