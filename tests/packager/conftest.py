"""Real packets for the packager's tests: encoded with PyAV, each picture numbered in its own pixels; and an origin."""

from __future__ import annotations

import array
import asyncio
import contextlib
import math
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from types import SimpleNamespace

import av
import pytest
import uvicorn
from program import run

from media.codecs import audio_track, normalise_video, video_track
from media.codecs.nal import split_annexb
from media.cut import Cut
from media.packet import Packet
from media.rendition import Rendition
from media.track import Codec, Kind
from packager.origin import Origin
from packager.presentation import Presentation

WIDTH, HEIGHT, BITS = 192, 64, 12
WALL_US = 1_800_000_000_000_000
_ENCODERS = {Codec.H264: "libx264", Codec.HEVC: "libx265", Codec.AV1: "libsvtav1"}


@dataclass
class Feed:
    """A rendition and its packets in decode order."""

    rendition: Rendition
    packets: list[Packet] = field(default_factory=list)


def picture(number: int) -> av.VideoFrame:
    """A picture that shows `number` as twelve black or white columns."""
    step = WIDTH // BITS
    row = b"".join(bytes((235 if number >> bit & 1 else 16,)) * step for bit in range(BITS))
    frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
    for plane, line, height in zip(frame.planes, (row, None, None), (HEIGHT, HEIGHT // 2, HEIGHT // 2), strict=True):
        filling = line or bytes((128,)) * plane.line_size
        plane.update(filling.ljust(plane.line_size, b"\x10") * height)
    return frame


def read_number(gray: bytes) -> int:
    """The number that a decoded picture (one byte a pixel) shows, from its middle row."""
    step, middle = WIDTH // BITS, WIDTH * (HEIGHT // 2)
    return sum((gray[middle + b * step + step // 2] > 128) << b for b in range(BITS))


def video(
    *,
    name: str = "source",
    codec: Codec = Codec.H264,
    rate: Fraction | int = 30,
    seconds: float = 6,
    gop_s: float = 2,
    bframes: int = 0,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    start: int = 0,
) -> Feed:
    """Encode numbered pictures. `times`: their pts in 90 kHz where they are not evenly spaced."""
    rate = Fraction(rate)
    vfr = times is not None
    if times is None:
        times = [round(n * 90_000 / rate) for n in range(math.ceil(seconds * rate))]
    encoder = av.CodecContext.create(_ENCODERS[codec], "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base = Fraction(1, 90_000)
    encoder.framerate = rate
    encoder.gop_size = 100_000
    encoder.thread_count = 1
    encoder.max_b_frames = bframes
    encoder.options = {
        Codec.H264: {"preset": "ultrafast", "bf": str(bframes), "forced-idr": "1", "crf": "20", "scenecut": "0"},
        Codec.HEVC: {
            "preset": "ultrafast",
            "forced-idr": "1",
            "x265-params": f"bframes={bframes}:log-level=none:open-gop=0:pools=none",
        },
        Codec.AV1: {"preset": "12", "svtav1-params": "pred-struct=1:lp=1", "crf": "30"},
    }[codec] | (options or {})
    if codec is Codec.AV1:
        encoder.gop_size = round(gop_s * rate)
    coded = []
    keys = set()
    grid = 0.0
    for number, time in enumerate(times):
        frame = picture(number)
        frame.pts, frame.time_base = time, Fraction(1, 90_000)
        if time >= grid * 90_000 - 1e-6:
            frame.pict_type = av.video.frame.PictureType.I
            keys.add(time)
            grid += gop_s
        coded += encoder.encode(frame)
    coded += encoder.encode(None)
    config, track, packets = b"", None, []
    for index, found in enumerate(coded):
        raw = bytes(found)
        unit = normalise_video(codec, [raw] if codec is Codec.AV1 else split_annexb(raw), config)
        if unit.config is not None:
            config = unit.config
            track = video_track(0, codec, config, frame_rate=None if vfr else rate)
            if vfr:
                track = replace(track, frame_rate=None)
        assert track is not None
        following = coded[index + 1].dts if index + 1 < len(coded) else found.dts + (found.dts - coded[index - 1].dts)
        packets.append(
            Packet(track, start + found.pts, start + found.dts, following - found.dts, unit.keyframe, unit.data)
        )
    rendition = Rendition(
        name,
        Kind.VIDEO,
        codec,
        passthrough=name == "source",
        width=WIDTH,
        height=HEIGHT,
        frame_rate=None if vfr else rate,
    )
    return Feed(rendition, packets)


def audio(
    *,
    name: str = "audio",
    codec: Codec = Codec.AAC,
    rate: int = 48_000,
    channels: int = 2,
    seconds: float = 6,
    start: int = 0,
) -> Feed:
    """Encode a tone of 440 Hz."""
    encoder = av.CodecContext.create("aac" if codec is Codec.AAC else "libopus", "w")
    encoder.sample_rate, encoder.layout = rate, "stereo" if channels == 2 else "mono"
    encoder.format = "fltp" if codec is Codec.AAC else "flt"
    encoder.open()
    size = encoder.frame_size
    coded = []
    for index in range(math.ceil(seconds * rate / size)):
        tone = [math.sin((index * size + n) * 2 * math.pi * 440 / rate) / 4 for n in range(size)]
        frame = av.AudioFrame(format=encoder.format.name, layout=encoder.layout.name, samples=size)
        if codec is Codec.AAC:
            for plane in frame.planes:
                plane.update(array.array("f", tone).tobytes().ljust(plane.buffer_size, b"\0"))
        else:
            both = array.array("f", [value for value in tone for _ in range(channels)])
            frame.planes[0].update(both.tobytes().ljust(frame.planes[0].buffer_size, b"\0"))
        frame.sample_rate, frame.pts, frame.time_base = rate, index * size, Fraction(1, rate)
        coded += encoder.encode(frame)
    coded += encoder.encode(None)
    track = audio_track(100, codec, bytes(encoder.extradata or b""))
    packets = [
        Packet(track, start + i * size, start + i * size, size, True, bytes(found)) for i, found in enumerate(coded)
    ]
    return Feed(Rendition(name, Kind.AUDIO, codec, passthrough=True, default=True), packets)


def cuts_of(feed: Feed, segment_s: float = 2) -> list[Cut]:
    """A cut at each keyframe of a video feed, or on a grid for audio."""
    if feed.rendition.kind is Kind.VIDEO:
        times = [p.pts for p in feed.packets if p.keyframe]
    else:
        end = feed.packets[-1].pts / feed.packets[-1].track.timescale
        times = [round(n * segment_s * 90_000) for n in range(math.ceil(end / segment_s))]
    return [Cut(i, t, WALL_US + (t - times[0]) * 100 // 9) for i, t in enumerate(times)]


def script(
    feeds: Sequence[Feed], cuts: Sequence[Cut], lag: dict[str, float] | None = None
) -> list[tuple[float, str, object]]:
    """What happens, in order: (second, rendition or "", packet or cut). A rendition may lag by some seconds."""
    lag = lag or {}
    events: list[tuple[float, int, int, str, object]] = []
    for feed in feeds:
        name = feed.rendition.name
        for order, packet in enumerate(feed.packets):
            at = (packet.dts + packet.duration) / packet.track.timescale + lag.get(name, 0)
            events.append((at, 1, order, name, packet))
    reference = feeds[0]
    for cut in cuts:
        first = next(
            (p for p in reference.packets if p.pts * 90_000 >= cut.pts * p.track.timescale and p.keyframe), None
        )
        if first is not None:
            at = (first.dts + first.duration) / first.track.timescale
            events.append((at, 0, cut.index, "", cut))
    events.sort(key=lambda e: e[:3])
    return [(at, name, item) for at, _, _, name, item in events]


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wall_us(self) -> int:
        return WALL_US + int((self.now - 1000.0) * 1_000_000)


def play(
    presentation: Presentation,
    events: Sequence[tuple[float, str, object]],
    clock: Clock | None = None,
    *,
    end: bool = True,
) -> None:
    """Feed everything, moving the clock (and the presentation's timer) along."""
    for at, name, item in events:
        if clock is not None:
            clock.now = max(clock.now, 1000.0 + at)
            presentation.poll(clock.now)
        if isinstance(item, Cut):
            presentation.cut(item)
        else:
            presentation.write(name, item)
    if end:
        presentation.end()


@contextlib.asynccontextmanager
async def serve(presentations: dict[str, Presentation]) -> AsyncIterator[str]:
    """An origin on a free port; gives its base URL."""
    directory = SimpleNamespace(presentation=presentations.get)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)  # whoever connects before uvicorn accepts is not refused
    config = uvicorn.Config(
        Origin(directory),
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined,method-assign]
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


async def decode_numbers(ffmpeg: str, url: str, frames: int | None = None) -> tuple[list[int], str]:
    """Numbers of all pictures that a player shows, and its complaints."""
    _, out, messages = await run(
        ffmpeg,
        "-v",
        "warning",
        "-i",
        url,
        "-map",
        "0:v:0",
        *(("-frames:v", str(frames)) if frames else ()),
        "-fps_mode",
        "passthrough",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "gray",
        "-",
    )
    size = WIDTH * HEIGHT
    return [read_number(out[i : i + size]) for i in range(0, len(out), size)], messages


async def packet_times(ffprobe: str, url: str, stream: str) -> list[float]:
    """Presentation times of all packets in seconds, as a player sees them."""
    _, out, _ = await run(
        ffprobe, "-v", "error", "-select_streams", stream, "-show_entries", "packet=pts_time", "-of", "csv=p=0", url
    )
    return [float(line.strip(",")) for line in out.decode().split() if line.strip(",") not in ("", "N/A")]


@pytest.fixture(scope="session")
def studio() -> SimpleNamespace:
    """The helpers of this file: tests cannot import each other's modules."""
    return SimpleNamespace(
        video=video, audio=audio, cuts_of=cuts_of, script=script, play=play, serve=serve, run=run, Clock=Clock,
        Feed=Feed,
        decode_numbers=decode_numbers, packet_times=packet_times, WALL_US=WALL_US,
        long=[video(seconds=34, options={"crf": "40"}), audio(seconds=34)],
    )  # fmt: skip
