"""Sources for the transcoder's tests: small synthetic clips, coded here, as the packets that ingest would give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import pytest
from av.codec.context import Flags

from media.codecs.tracks import audio_track, video_track
from media.cut import Cut
from media.packet import Gap, Packet
from media.track import Codec, Track
from transcode.bitstream import config_of, sample_of
from transcode.messages import Mark
from transcode.pipeline import Pipeline
from transcode.plan import Plan

TICKS = 90_000
WIDTH, HEIGHT = 320, 180


@dataclass
class Collected:
    """`transcode.output.Output` and `transcode.ports.Sink` in memory."""

    packets: dict[str, list[Packet]] = field(default_factory=dict)
    encoders: dict[str, list[str]] = field(default_factory=dict)
    jpegs: list[bytes] = field(default_factory=list)
    notices: list[tuple[str, str]] = field(default_factory=list)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    on_packet: Callable[[str, Packet], None] | None = None
    on_restarted: Callable[[str], None] | None = None

    def made(self, rendition: str, packet: Packet, encoder: str) -> None:
        self.packet(rendition, packet)
        self.encoders.setdefault(rendition, [])
        if encoder not in self.encoders[rendition]:
            self.encoders[rendition].append(encoder)

    def picture(self, pts: int, jpeg: bytes) -> None:
        self.jpegs.append(jpeg)

    def notice(self, slug: str, text: str, failed: str = "") -> None:
        self.notices.append((slug, text))

    def packet(self, rendition: str, packet: Packet) -> None:
        self.packets.setdefault(rendition, []).append(packet)
        if self.on_packet is not None:
            self.on_packet(rendition, packet)

    def thumbnail(self, jpeg: bytes) -> None:
        self.jpegs.append(jpeg)

    def restarted(self, reason: str, log: str) -> None:
        self.events.append(("restarted", reason, log))
        if self.on_restarted is not None:
            self.on_restarted(reason)

    def failed(self, reason: str, log: str) -> None:
        self.events.append(("failed", reason, log))

    def stats(self, values: Any) -> None:
        self.values.update(values)

    def idrs(self, rendition: str) -> list[int]:
        return [p.pts for p in self.packets[rendition] if p.keyframe]

    def assert_continuous(self, rendition: str) -> None:
        """Each packet ends where the next begins."""
        packets = self.packets[rendition]
        assert [p.dts + p.duration for p in packets[:-1]] == [p.dts for p in packets[1:]]


@dataclass(frozen=True)
class Source:
    """A coded clip: packets in decoding order, and the times of its pictures in display order."""

    track: Track
    packets: list[Packet]

    @property
    def times(self) -> list[int]:
        return sorted(p.pts for p in self.packets)


def grid(first: int, last: int, step_ticks: int = 2 * TICKS) -> list[Cut]:
    """Cuts on a grid from the first picture, as `transcode.cuts` makes them."""
    return [Cut(index, pts, 0) for index, pts in enumerate(range(first, last + 1, step_ticks))]


def interleave(packets: Iterable[Packet], cuts: Sequence[Cut]) -> list[Packet | Cut | Gap]:
    """Each cut in front of the first packet, in arrival order, at or after it."""
    items: list[Packet | Cut | Gap] = []
    waiting = list(cuts)
    for packet in packets:
        while waiting and packet.pts * TICKS >= waiting[0].pts * packet.track.timescale:
            items.append(waiting.pop(0))
        items.append(packet)
    return items


def pictures(seconds: float, rate: Fraction, size: str, pixels: str = "yuv420p") -> list[av.VideoFrame]:
    """libav's moving test picture."""
    with av.open(f"testsrc2=s={size}:r={rate}:d={seconds},format={pixels}", format="lavfi") as container:
        return list(container.decode(video=0))


def code_video(
    frames: Sequence[av.VideoFrame],
    times: Sequence[int],
    *,
    gop: int = 60,
    b_frames: int = 2,
    rate: Fraction | None = None,
    encoder: str = "libx264",
    options: dict[str, str] | None = None,
    track_id: int = 0,
) -> Source:
    """Encode `frames`, shown at `times` (90 kHz)."""
    context = av.CodecContext.create(encoder, "w")
    first = frames[0]
    context.width, context.height, context.pix_fmt = first.width, first.height, first.format.name
    context.time_base = Fraction(1, TICKS)
    context.framerate = rate or Fraction(30)
    context.gop_size, context.max_b_frames = gop, b_frames
    context.bit_rate = 1_500_000
    context.flags |= Flags.global_header.value
    context.options = {"preset": "ultrafast"} if options is None else options
    coded: list[Any] = []
    for frame, pts in zip(frames, times, strict=True):
        frame.pts, frame.time_base, frame.pict_type = pts, Fraction(1, TICKS), 0
        coded += context.encode(frame)
    coded += context.encode(None)
    codec = Codec.AV1 if "av1" in encoder else Codec.HEVC if "265" in encoder else Codec.H264
    config = config_of(codec, bytes(context.extradata))
    track = video_track(track_id, codec, config, frame_rate=rate)
    track = Track(**{name: getattr(track, name) for name in track.__slots__} | {"frame_rate": rate})
    # Decode times for pictures that need not be in order: those of the display, moved back by the reordering.
    order = sorted(times)
    shift = max((order.index(p.pts) * -1 + i for i, p in enumerate(coded)), default=0)
    step = order[1] - order[0]
    decode = [order[0] - step * (shift - i) for i in range(shift)] + order
    packets = []
    for index, packet in enumerate(coded):
        dts = decode[index]
        duration = decode[index + 1] - dts if index + 1 < len(decode) else step
        packets.append(Packet(track, packet.pts, dts, duration, packet.is_keyframe, sample_of(codec, bytes(packet))))
    return Source(track, packets)


def code_audio(
    samples: Sequence[float], rate: int, *, encoder: str = "aac", channels: int = 1, start: int = 0, track_id: int = 100
) -> Source:
    """Encode mono `samples` (the same in every channel), the first of them at `start` in ticks of `rate`."""
    import array

    context = av.CodecContext.create(encoder, "w")
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    context.sample_rate, context.layout, context.time_base = rate, layout, Fraction(1, rate)
    context.format = "fltp" if encoder == "aac" else "flt"
    context.flags |= Flags.global_header.value
    context.open()
    size = context.frame_size
    packets: list[Any] = []
    for first in range(0, len(samples) - size + 1, size):
        frame = av.AudioFrame(format=context.format.name, layout=layout, samples=size)
        block = samples[first : first + size]
        if encoder == "aac":
            for plane in frame.planes:
                plane.update(array.array("f", block).tobytes())
        else:
            frame.planes[0].update(array.array("f", [s for s in block for _ in range(channels)]).tobytes())
        frame.sample_rate, frame.pts, frame.time_base = rate, start + first, Fraction(1, rate)
        packets += context.encode(frame)
    packets += context.encode(None)
    codec = Codec.AAC if encoder == "aac" else Codec.OPUS
    track = audio_track(track_id, codec, bytes(context.extradata))
    return Source(track, [Packet(track, p.pts, p.pts, size, True, bytes(p)) for p in packets if p.pts >= start])


def decode_audio(packets: Sequence[Packet]) -> tuple[int, list[float]]:
    """(time of the first sample in ticks of the track, samples of the first channel)."""
    track = packets[0].track
    context = av.CodecContext.create("aac", "r")
    context.extradata = track.config
    samples: list[float] = []
    for packet in packets:
        for frame in context.decode(av.Packet(packet.data)):
            samples += memoryview(frame.planes[0]).cast("f")[: frame.samples]
    return packets[0].pts, samples


def decode_video(packets: Sequence[Packet]) -> list[av.VideoFrame]:
    """Pictures with their pts, by a decoder of libav's that our own code has no part in."""
    track = packets[0].track
    name = {Codec.H264: "h264", Codec.HEVC: "hevc", Codec.AV1: "libdav1d"}[track.codec]
    context = av.CodecContext.create(name, "r")
    context.extradata = track.config
    frames: list[av.VideoFrame] = []
    for packet in packets:
        unit = av.Packet(packet.data)
        unit.pts, unit.dts, unit.time_base = packet.pts, packet.dts, Fraction(1, TICKS)
        frames += context.decode(unit)
    return frames + context.decode(None)


def psnr(a: av.VideoFrame, b: av.VideoFrame) -> float:
    """Of luma, in dB; both scaled to 64 x 36, which is enough to tell right from wrong pictures."""
    values = []
    for frame in (a, b):
        plane = frame.reformat(64, 36, "gray8", interpolation="AREA").planes[0]
        data = bytes(plane)
        values.append(b"".join(data[y * plane.line_size : y * plane.line_size + 64] for y in range(36)))
    error = sum((x - y) ** 2 for x, y in zip(*values, strict=True)) / len(values[0])
    return 99.0 if error == 0 else 10 * math.log10(255 * 255 / error)


def transcode(plan: Plan, items: Iterable[Packet | Cut | Gap]) -> Collected:
    """Run a pipeline in this process to its end."""
    collected = Collected()
    pipeline = Pipeline(plan, collected)
    for item in items:
        if isinstance(item, Cut):
            pipeline.cut(Mark(item.index, item.pts, item.discontinuity))
        else:
            pipeline.write(item)
    pipeline.close()
    collected.values |= pipeline.values()
    return collected


class Kit:
    """What tests use of this file."""

    TICKS = TICKS
    Collected = Collected
    grid = staticmethod(grid)
    interleave = staticmethod(interleave)
    pictures = staticmethod(pictures)
    code_video = staticmethod(code_video)
    code_audio = staticmethod(code_audio)
    decode_audio = staticmethod(decode_audio)
    decode_video = staticmethod(decode_video)
    psnr = staticmethod(psnr)
    transcode = staticmethod(transcode)


@pytest.fixture
def kit() -> type[Kit]:
    return Kit


@pytest.fixture(scope="session")
def clip() -> Source:
    """Six seconds of 320 x 180 at 25, with B-frames and an IDR every two seconds."""
    rate = Fraction(25)
    return code_video(
        pictures(6, rate, f"{WIDTH}x{HEIGHT}"), [90_000 + 3600 * n for n in range(150)], gop=50, rate=rate
    )
