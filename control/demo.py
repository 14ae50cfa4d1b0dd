"""The demonstration publisher: a moving test picture with a running clock and a tone, sent to our own RTMP port.

A process of its own (`python -m control.demo`), so that it is an encoder like any other and no libav runs in the
core. The address, with the stream key, comes in the environment (`HEADRACE_DEMO_URL`), not on the command line,
where other users of the machine could read it.
"""

from __future__ import annotations

import os
import sys
import time
from fractions import Fraction

import av
import av.filter
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

URL_VARIABLE = "HEADRACE_DEMO_URL"
FRAME_RATE = 30
SAMPLE_RATE = 48_000
RETRY_S = 2.0


def _source(name: str, arguments: str, sink: str) -> av.filter.Graph:
    graph = av.filter.Graph()
    source, end = graph.add(name, arguments), graph.add(sink)
    source.link_to(end)
    graph.configure()
    return graph


def publish(url: str) -> None:
    """Push until the connection ends; raises `av.FFmpegError` then."""
    picture = _source("testsrc2", f"size=1280x720:rate={FRAME_RATE}", "buffersink")
    tone = _source("sine", f"frequency=440:beep_factor=4:sample_rate={SAMPLE_RATE}", "abuffersink")
    with av.open(url, "w", format="flv", options={"flvflags": "no_duration_filesize"}) as out:
        video = out.add_stream("libx264", rate=FRAME_RATE)
        assert isinstance(video, VideoStream)
        video.width, video.height, video.pix_fmt = 1280, 720, "yuv420p"
        video.bit_rate = 2_500_000
        video.gop_size = 2 * FRAME_RATE
        video.options = {"preset": "veryfast", "tune": "zerolatency", "sc_threshold": "0"}
        video.codec_context.time_base = Fraction(1, FRAME_RATE)
        audio = out.add_stream("aac", rate=SAMPLE_RATE)
        assert isinstance(audio, AudioStream)
        audio.bit_rate = 128_000
        fifo = av.AudioFifo()
        started = time.monotonic()
        n = samples = 0
        while True:
            frame = picture.pull()
            assert isinstance(frame, VideoFrame)
            frame.pts, frame.time_base = n, Fraction(1, FRAME_RATE)
            out.mux(video.encode(frame.reformat(format="yuv420p")))
            n += 1
            while samples * FRAME_RATE < n * SAMPLE_RATE:
                sound = tone.pull()
                assert isinstance(sound, AudioFrame)
                sound.pts = None
                fifo.write(sound)
                samples += sound.samples
            while (chunk := fifo.read(1024)) is not None:
                out.mux(audio.encode(chunk))
            time.sleep(max(0.0, started + n / FRAME_RATE - time.monotonic()))


def main() -> int:
    """Publish for ever; come back after a lost connection."""
    url = os.environ.get(URL_VARIABLE)
    if not url:
        print(f"set {URL_VARIABLE} to an RTMP address with a stream key", file=sys.stderr)
        return 2
    while True:
        try:
            publish(url)
        except av.FFmpegError as error:
            print(f"demo publisher: {error.strerror}; again in {RETRY_S:.0f} s", file=sys.stderr)
        time.sleep(RETRY_S)


if __name__ == "__main__":
    sys.exit(main())
