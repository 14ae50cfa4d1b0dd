"""A test picture that carries the wall clock in its pixels, published over RTMP. Used by `bench/latency.py`.

The top 16 rows hold 32 blocks, white for 1 and black for 0: milliseconds since the Unix epoch modulo 2^32, most
significant bit first, taken when the frame goes into the encoder.

    python bench/clock_source.py URL [WIDTHxHEIGHT] [RATE]
"""

from __future__ import annotations

import sys
import time
from fractions import Fraction

import av
import av.filter

ROWS = 16
BITS = 32


def stamp(frame: av.VideoFrame, milliseconds: int) -> None:
    """Write the clock into the luma plane."""
    plane = frame.planes[0]
    block = frame.width // BITS
    row = b"".join((b"\xeb" if milliseconds >> (BITS - 1 - i) & 1 else b"\x10") * block for i in range(BITS))
    row = row.ljust(plane.line_size, b"\x10")
    plane.update(row * ROWS + bytes(plane)[plane.line_size * ROWS :])
    for chroma in frame.planes[1:]:
        grey = b"\x80" * (chroma.line_size * ROWS // 2)
        chroma.update(grey + bytes(chroma)[len(grey) :])


def main(url: str, size: str = "1280x720", rate: int = 30) -> None:
    graph = av.filter.Graph()
    source, scale = graph.add("testsrc2", f"size={size}:rate={rate}"), graph.add("format", "yuv420p")
    sink = graph.add("buffersink")
    source.link_to(scale)
    scale.link_to(sink)
    graph.configure()
    width, height = map(int, size.split("x"))
    with av.open(url, "w", format="flv") as out:
        video = out.add_stream("libx264", rate=rate)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.bit_rate, video.gop_size = 3_000_000, 2 * rate
        video.options = {"preset": "ultrafast", "tune": "zerolatency", "sc_threshold": "0"}
        audio = out.add_stream("aac", rate=48_000)
        quiet = av.AudioFrame(format="fltp", layout="stereo", samples=1024)
        quiet.sample_rate = 48_000
        for plane in quiet.planes:
            plane.update(bytes(plane.buffer_size))
        started, n, samples = time.monotonic(), 0, 0
        while True:
            frame = graph.pull()
            stamp(frame, int(time.time() * 1000) % (1 << BITS))
            frame.pts, frame.time_base = n, Fraction(1, rate)
            out.mux(video.encode(frame))
            n += 1
            while samples * rate < n * 48_000:
                quiet.pts = samples
                quiet.time_base = Fraction(1, 48_000)
                out.mux(audio.encode(quiet))
                samples += 1024
            time.sleep(max(0.0, started + n / rate - time.monotonic()))


if __name__ == "__main__":
    main(sys.argv[1], *sys.argv[2:3], *(int(a) for a in sys.argv[3:4]))
