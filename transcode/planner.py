"""Plans: source + ladder + hardware -> what is passed through, and what is encoded by which encoders.

Pure: the same inputs always give the same plan, and every choice has its reason in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from media.rendition import Rendition
from media.track import Codec, Kind, Track
from transcode.bitstream import describe, is_aac_lc
from transcode.device import split
from transcode.ladder import Ladder, Rung, divisor, fit
from transcode.plan import AUDIO, CPU_ENCODERS, SOURCE, AudioEncode, Plan, VideoEncode
from transcode.profile import pick_level
from transcode.settings import TranscodeSettings

if TYPE_CHECKING:
    from transcode.hardware import Hardware

TOP_BITRATE_720P30 = {Codec.H264: 3_500_000, Codec.HEVC: 2_300_000, Codec.AV1: 1_800_000}
"""Bits per second of an encoded `source` of 1280x720 at 30; others by the size to the power 0.75."""

AV1_BUFFER_MS = 1000
"""Of AV1 at least: with less SVT-AV1 has to leave pictures out of ordinary scenes. What counts for players, that no
segment is far over its target, is seen to by `transcode.budget`."""

TOP_RATE = Fraction(60)
"""Frames per second of an encoded `source`; a faster one is halved."""

NOT_PASSED = "The source's keyframes do not fit the segments, or passing through is turned off: it is encoded."

FIRST_AUDIO_ID = 100
"""Of tracks (`media.track`): the default audio."""


def why_not_passthrough(video: Track, ladder: Ladder) -> str:
    """Why `video` cannot be offered as it is (a sentence), or empty where its configuration allows it.

    Looks at the codec and its configuration only: 8-bit 4:2:0 progressive of a codec that the ladder passes. That
    the GOP fits the grid of cuts is known only after seeing packets; the caller says so by `passthrough=`.
    """
    # `passed through` needs what every player of the ladder decodes; 10-bit and 4:2:2 H.264 do not play in browsers.
    if video.codec not in ladder.passthrough:
        return f"{video.codec.value} video is not played everywhere, so it is encoded to {ladder.source_codec.value}."
    return why_unplayable(video)


def why_unplayable(video: Track) -> str:
    """Why browsers cannot be expected to play `video` as it is, by its codec configuration; empty where they can."""
    shape = describe(video)
    if shape is None:
        return "The codec configuration cannot be read, so the video is encoded."
    if shape.chroma != "4:2:0" or shape.bit_depth != 8:
        return f"{shape.bit_depth}-bit {shape.chroma} video does not play in browsers, so it is encoded to 8-bit 4:2:0."
    if shape.interlaced:
        return "Interlaced video does not play well in browsers, so it is deinterlaced and encoded."
    return ""


def make_plan(
    video: Track | None,
    audio: Track | None,
    ladder: Ladder,
    *,
    passthrough: bool,
    hardware: Hardware | None,
    settings: TranscodeSettings,
    more_video: Sequence[Track] = (),
    more_audio: Sequence[Track] = (),
) -> Plan:
    """What to make of a source.

    `passthrough`: the caller knows nothing against offering the video as it is (its GOP fits the cuts). False has
    the top rendition encoded. A video that cannot be offered as it is (see `why_not_passthrough`) is encoded in
    any case; with `settings.enabled` False, what cannot be offered as it is, is left out.

    `more_video`: the publisher's own smaller versions of `video`, whose IDRs lie where those of `video` do. Those
    that the ladder passes stand beside it without encoding, and no rung is encoded at their heights.
    `more_audio`: further audio tracks; `audio` is the default one.
    """
    sounds = _Sounds(settings)
    for track in (*([audio] if audio is not None else []), *more_audio):
        sounds.add(track)
    if video is None:
        return Plan(
            tuple(sounds.renditions), audio=tuple(sounds.encodes), passed=tuple(sounds.passed),
            reasons=tuple(sounds.reasons),
        )  # fmt: skip
    reasons: list[str] = []
    encodes: list[VideoEncode] = []
    video, own, why = _own_ladder([video, *more_video], ladder, passthrough and settings.passthrough)
    passed = [] if why else [(video.id, SOURCE), *((track.id, name) for name, track in own)]
    renditions = [] if why else [_passed(SOURCE, video), *(_passed(n, t, default=False) for n, t in own)]
    if settings.enabled:
        if why:
            encodes.append(_source_encode(video, ladder, hardware, settings))
        below = encodes[0] if why else None
        encodes += _rungs(video, ladder, hardware, settings, below=below, beside=[track for _, track in own])
        renditions += [_encoded(e) for e in encodes]
    if own:
        names = ", ".join(name for name, _ in own)
        reasons.append(f"The publisher's own ladder is passed on ({names}); no such rung is encoded.")
    if why:
        reasons.append(why)
    return Plan(
        (*renditions, *sounds.renditions),
        tuple(encodes),
        tuple(sounds.encodes),
        (*passed, *sounds.passed),
        thumbnail_track=video.id if settings.thumbnails and encodes else None,
        thumbnail_height=settings.thumbnail_height,
        shed_after_s=settings.shed_after_s if settings.shed else 0.0,
        reasons=(*reasons, *sounds.reasons),
        decoders=hardware.decoders(video.codec) if hardware is not None and settings.hardware else (),
    )


def _own_ladder(videos: list[Track], ladder: Ladder, passthrough: bool) -> tuple[Track, list[tuple[str, Track]], str]:
    """(the top video, what stands beside it by name, why the top is encoded or empty)."""
    by_size = sorted(videos, key=lambda t: (-t.width * t.height, t.id))
    why = why_not_passthrough(by_size[0], ladder)
    if not passthrough:
        return by_size[0], [], why or NOT_PASSED
    fit_for_it = [track for track in by_size if not why_not_passthrough(track, ladder)]
    if not fit_for_it:
        return by_size[0], [], why
    top, *others = fit_for_it
    named: dict[str, Track] = {}
    for track in others:
        name = f"{min(track.width, track.height)}p"
        if name in named or track.codec is not top.codec:
            name += f"-{track.codec.value}"
        if name not in named:
            named[name] = track
    return top, list(named.items()), ""


class _Sounds:
    """The audio of a plan: each track is one rendition, named after its id so that it keeps its name for life."""

    def __init__(self, settings: TranscodeSettings) -> None:
        self._settings = settings
        self.renditions: list[Rendition] = []
        self.encodes: list[AudioEncode] = []
        self.passed: list[tuple[int, str]] = []
        self.reasons: list[str] = []

    def add(self, track: Track) -> None:
        """Pass it through where every player takes it, else have it encoded."""
        number = track.id - FIRST_AUDIO_ID + 1
        name = AUDIO if number <= 1 else f"{AUDIO}-{number}"
        default = not self.renditions
        if is_aac_lc(track):
            self.passed.append((track.id, name))
            self.renditions.append(_passed(name, track, default=default))
        elif self._settings.enabled:
            bitrate = self._settings.audio_bitrate
            self.encodes.append(AudioEncode(name, track.id, bitrate))
            why = f"{track.codec.value} audio other than AAC-LC is encoded to AAC-LC, which all players take."
            if why not in self.reasons:
                self.reasons.append(why)
            self.renditions.append(
                Rendition(
                    name,
                    Kind.AUDIO,
                    Codec.AAC,
                    passthrough=False,
                    bitrate=bitrate,
                    language=track.language,
                    label=track.name,
                    default=default,
                )
            )


def _passed(name: str, track: Track, *, default: bool = True) -> Rendition:
    return Rendition(
        name,
        track.kind,
        track.codec,
        passthrough=True,
        bitrate=track.bitrate,
        width=track.width,
        height=track.height,
        frame_rate=track.frame_rate,
        language=track.language,
        label=track.name,
        default=default,
    )


def _encoded(e: VideoEncode) -> Rendition:
    return Rendition(
        e.name,
        Kind.VIDEO,
        e.codec,
        passthrough=False,
        bitrate=e.bitrate,
        width=e.width,
        height=e.height,
        frame_rate=e.frame_rate,
        default=e.name == SOURCE,
    )


def _source_encode(video: Track, ladder: Ladder, hardware: Hardware | None, settings: TranscodeSettings) -> VideoEncode:
    """The top rendition where it is encoded: the source's size up to `max_source_height`, its frame rate up to 60."""
    width, height = video.width or 1280, video.height or 720  # unknown until the first picture: a usual size
    short = min(width, height)
    if short > settings.max_source_height:
        width, height = (side * settings.max_source_height // short for side in (width, height))
    width, height = width // 2 * 2, height // 2 * 2
    divide = divisor(video.frame_rate, TOP_RATE)
    rate = video.frame_rate / divide if video.frame_rate else None
    bitrate = int(TOP_BITRATE_720P30[ladder.source_codec] * (width * height / (1280 * 720)) ** 0.75)
    if rate is not None and rate > 33:
        bitrate = bitrate * 3 // 2
    if video.bitrate:
        bitrate = min(bitrate, max(video.bitrate, 300_000))
    rung = Rung(
        height,
        bitrate,
        ladder.source_codec,
        max_rate=TOP_RATE,
        value=1 << 20,
        width=width,
        name=SOURCE,
        sample_aspect=video.sample_aspect,
        frame_rate=rate,
        divide=divide,
    )
    return _encode(rung, video, hardware, settings, sheddable=False)


def _rungs(
    video: Track,
    ladder: Ladder,
    hardware: Hardware | None,
    settings: TranscodeSettings,
    *,
    below: VideoEncode | None,
    beside: Sequence[Track],
) -> list[VideoEncode]:
    """The rungs under the source; under its encoded form where that is smaller; none that the publisher sends."""
    highest = min(below.width, below.height) if below else 1 << 30
    rungs = [r for r in fit(ladder, video) if r.height and min(r.width, r.height) < highest]
    there = [min(track.width, track.height) for track in beside]
    rungs = [r for r in rungs if not any(abs(min(r.width, r.height) - h) * 10 <= h for h in there)]
    return [_encode(rung, video, hardware, settings, sheddable=True) for rung in rungs]


def _encode(
    rung: Rung, video: Track, hardware: Hardware | None, settings: TranscodeSettings, *, sheddable: bool
) -> VideoEncode:
    bitrate = rung.bitrate
    if sheddable and video.bitrate and rung.codec is video.codec:
        bitrate = min(bitrate, max(video.bitrate * 3 // 4, 150_000))
    cpu = CPU_ENCODERS[rung.codec]
    tried = hardware.encoders(rung.codec) if hardware is not None and settings.hardware else ()
    working = tuple(dict.fromkeys((*tried, cpu)))
    preferred = [seat for name in settings.encoders for seat in working if split(seat)[0] == name]
    return VideoEncode(
        rung.name,
        video.id,
        rung.codec,
        encoders=tuple(dict.fromkeys((*preferred, *working))),
        preferred=settings.encoders,
        width=rung.width,
        height=rung.height,
        bitrate=bitrate,
        buffer_ms=max(settings.buffer_ms, AV1_BUFFER_MS) if rung.codec is Codec.AV1 else settings.buffer_ms,
        profile="main" if rung.codec is not Codec.H264 or min(rung.width, rung.height) < 540 else "high",
        level=pick_level(rung.codec, rung.width, rung.height, rung.frame_rate or rung.max_rate, bitrate),
        sample_aspect=rung.sample_aspect,
        frame_rate=rung.frame_rate,
        divide=rung.divide,
        max_rate=rung.max_rate,
        preset=_preset(rung.codec, settings),
        lookahead_frames=settings.lookahead_frames,
        threads=settings.threads,
        value=rung.value,
        sheddable=sheddable,
    )


def _preset(codec: Codec, settings: TranscodeSettings) -> str:
    match codec:
        case Codec.HEVC:
            return settings.x265_preset
        case Codec.AV1:
            return str(settings.svtav1_preset)
        case _:
            return settings.x264_preset
