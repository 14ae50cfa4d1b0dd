"""The demonstration publisher: a moving test picture with a running clock and a tone, sent to our own RTMP port.

A process of its own (`python -m control.demo`), so that it is an encoder like any other and no libav runs in the
core. The address, with the stream key, comes in the environment (`HEADRACE_DEMO_URL`), not on the command line,
where other users of the machine could read it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import av.filter
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

URL_VARIABLE = "HEADRACE_DEMO_URL"
WIDTH, HEIGHT = 1280, 720
FRAME_RATE = 30
GOP = 2 * FRAME_RATE
"""Pictures between two keyframes, as the guide asks of every encoder."""
SAMPLE_RATE = 48_000
RETRY_S = 2.0
LATE_S = 0.5
"""How late a picture may be before it is left out, as live encoders do: what a busy machine has missed must not come
in a burst."""


def _tone() -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add("sine", f"frequency=440:beep_factor=4:sample_rate={SAMPLE_RATE}"), graph.add("abuffersink")
    ).configure()
    return graph


def _picture() -> av.filter.Graph:
    """The test picture, its small clock shown once more, large enough to be read on a phone."""
    graph = av.filter.Graph()
    source = graph.add("testsrc2", f"size={WIDTH}x{HEIGHT}:rate={FRAME_RATE}")
    split, over = graph.add("split"), graph.add("overlay", "x=(W-w)/2:y=h")
    clock, large = graph.add("crop", "100:18:2:2"), graph.add("scale", "iw*4:ih*4:flags=neighbor")
    source.link_to(split)
    split.link_to(over, 0, 0)
    split.link_to(clock, 1, 0)
    clock.link_to(large)
    large.link_to(over, 0, 1)
    graph.link_nodes(over, graph.add("format", "yuv420p"), graph.add("buffersink")).configure()
    return graph


def frames() -> Iterator[VideoFrame]:
    """The moving picture, for ever, without any wish about keyframes: libavfilter marks each of its frames as one."""
    picture = _picture()
    while True:
        frame = picture.pull()
        assert isinstance(frame, VideoFrame)
        frame.pict_type = PictureType.NONE
        yield frame


def on_time(pictures: Iterator[VideoFrame], now: Callable[[], float]) -> Iterator[tuple[int, VideoFrame]]:
    """The pictures with their numbers, those left out that would come more than `LATE_S` late. `now`: seconds.

    The first of every `GOP` is to be a keyframe. An encoder counts the pictures that it gets, not those left out: by
    itself it would set keyframes further and further apart, and a busy machine would have to encode the source, too.
    """
    started = now()
    newest = -1
    for n, picture in enumerate(pictures):
        if now() - started - n / FRAME_RATE <= LATE_S:
            if n // GOP > newest:
                newest = n // GOP
                picture.pict_type = PictureType.I
            yield n, picture


def publish(url: str) -> None:
    """Push until the connection ends; raises `av.FFmpegError` then."""
    tone = _tone()
    with av.open(url, "w", format="flv", options={"flvflags": "no_duration_filesize"}) as out:
        video = out.add_stream("libx264", rate=FRAME_RATE)
        assert isinstance(video, VideoStream)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.bit_rate = 2_500_000
        video.gop_size = GOP
        video.options = {"preset": "veryfast", "tune": "zerolatency", "sc_threshold": "0"}
        video.codec_context.time_base = Fraction(1, FRAME_RATE)
        audio = out.add_stream("aac", rate=SAMPLE_RATE)
        assert isinstance(audio, AudioStream)
        audio.bit_rate = 128_000
        fifo = av.AudioFifo()
        started = time.monotonic()
        samples = 0
        for n, frame in on_time(frames(), time.monotonic):
            frame.pts, frame.time_base = n, Fraction(1, FRAME_RATE)
            out.mux(video.encode(frame))
            while samples * FRAME_RATE < (n + 1) * SAMPLE_RATE:
                sound = tone.pull()
                assert isinstance(sound, AudioFrame)
                sound.pts = None
                fifo.write(sound)
                samples += sound.samples
            while (chunk := fifo.read(1024)) is not None:
                out.mux(audio.encode(chunk))
            time.sleep(max(0.0, started + (n + 1) / FRAME_RATE - time.monotonic()))


def main() -> int:
    """Publish as long as the server that started us lives; come back after a lost connection."""
    parent = os.getppid()
    url = os.environ.get(URL_VARIABLE)
    if not url:
        print(f"set {URL_VARIABLE} to an RTMP address with a stream key", file=sys.stderr)
        return 2
    while True:
        try:
            publish(url)
        except av.FFmpegError as error:
            if os.getppid() != parent:  # the server was killed; the next one has a demo of its own
                return 0
            print(f"demo publisher: {error.strerror}; again in {RETRY_S:.0f} s", file=sys.stderr)
        time.sleep(RETRY_S)


if __name__ == "__main__":
    sys.exit(main())
