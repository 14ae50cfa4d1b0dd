"""What packaging costs: CPU and bytes allocated per packet at 1, 10 and 100 streams, and how long a part takes.

    python bench/packager.py [--streams 1,10,100] [--seconds 10] [--windows 15,1800,10800] [--json FILE]

Each stream is a 6 Mb/s picture at 30 frames a second and a sound, passed through. CPU: everything that
`Presentation.cut` and `write` do, and one full playlist and one delta for each part, as a busy edge asks for them.
Bytes: what tracemalloc sees allocated at the peak of a packet, in a run of its own. Delay: a real loop and a real
timer, packets at their own pace; from the arrival of a part's last packet to the moment at which a blocked request for
the playlist with that part has its bytes. Windows: milliseconds of CPU to render each playlist anew when the window
holds so many segments of two seconds (10,800: six hours), of a picture and a sound. All of it in one process on one
core, as the core does it.
"""

# ruff: noqa: E402  # the path must be put right before the imports
from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])  # or this file would be taken for the package of its name

from media.clock import VIDEO_TIMESCALE
from media.codecs import audio_track
from media.cut import Cut
from media.packet import Packet
from media.rendition import Rendition
from media.track import Codec, Kind, Track
from packager import render
from packager.cuts import ORIGIN_S
from packager.presentation import Presentation
from packager.settings import PackagerSettings

RATE = 30
VIDEO_BITS = 6_000_000
FRAME = 90_000 // RATE
SPS = bytes.fromhex("6764001facd9405005bb011000000300100000030320f1831960")
PPS = bytes.fromhex("68ebecb22c")
CONFIG = (
    b"\x01" + SPS[1:4] + b"\xff\xe1" + len(SPS).to_bytes(2, "big") + SPS + b"\x01" + len(PPS).to_bytes(2, "big") + PPS
)
VIDEO = Track(0, Kind.VIDEO, Codec.H264, 90_000, CONFIG, 1280, 720, Fraction(RATE))
AUDIO = audio_track(100, Codec.AAC, bytes.fromhex("1190"))
RENDITIONS = (
    Rendition("source", Kind.VIDEO, Codec.H264, True, VIDEO_BITS, 1280, 720, Fraction(RATE)),
    Rendition("audio", Kind.AUDIO, Codec.AAC, True, 128_000, default=True),
)


def packets(seconds: float) -> list[tuple[float, str, Packet | Cut]]:
    """(second, rendition, packet) in order of arrival; a keyframe and a cut every two seconds."""
    usual = VIDEO_BITS // 8 // RATE
    found: list[tuple[float, str, Packet | Cut]] = []
    for n in range(int(seconds * RATE)):
        key = n % (2 * RATE) == 0
        pts = n * FRAME
        if key:
            found.append((n / RATE, "", Cut(n // (2 * RATE), pts, 1_800_000_000_000_000 + pts * 100 // 9)))
        data = bytes(usual * 4 if key else usual * 56 // 59)
        found.append((n / RATE, "source", Packet(VIDEO, pts, pts, FRAME, key, data)))
    for n in range(int(seconds * AUDIO.sample_rate / 1024)):
        found.append((n * 1024 / AUDIO.sample_rate, "audio", Packet(AUDIO, n * 1024, n * 1024, 1024, True, bytes(340))))
    found.sort(key=lambda item: (item[0], item[1]))
    return found


def feed(shown: Presentation, name: str, item: Packet | Cut) -> None:
    if isinstance(item, Cut):
        shown.cut(item)
    else:
        shown.write(name, item)


def new(streams: int) -> list[Presentation]:
    made = [Presentation(f"s{n}", PackagerSettings()) for n in range(streams)]
    for shown in made:
        shown.declare(RENDITIONS)
    return made


def cpu(streams: int, script: list[tuple[float, str, Packet | Cut]]) -> tuple[float, int]:
    """Seconds of CPU, and packets."""
    made = new(streams)
    versions = dict.fromkeys(range(streams), (-1, -1))
    began = time.process_time()
    for _, name, item in script:
        for number, shown in enumerate(made):
            feed(shown, name, item)
            window = shown.windows.get("source")
            if window is not None and window.last_part != versions[number]:
                versions[number] = window.last_part
                render.media_playlist(shown, window, delta=False)
                render.media_playlist(shown, window, delta=True)
    return time.process_time() - began, streams * sum(isinstance(item, Packet) for *_, item in script)


def allocated(script: list[tuple[float, str, Packet | Cut]]) -> tuple[float, float]:
    """Bytes allocated per packet at its peak: mean, and of the worst packet."""
    (shown,) = new(1)
    sizes = []
    tracemalloc.start()
    for _, name, item in script:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        feed(shown, name, item)
        sizes.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    return sum(sizes) / len(sizes), max(sizes)


async def delays(streams: int, script: list[tuple[float, str, Packet | Cut]]) -> list[float]:
    """Seconds from a part's last packet to its playlist's bytes, of every part of every stream's video."""
    made = new(streams)
    arrived: list[dict[int, float]] = [{} for _ in range(streams)]
    """For each stream, by where a packet ends on the packaged timeline, when it came."""
    found: list[float] = []
    clock = time.perf_counter

    async def viewer(number: int, shown: Presentation) -> None:
        known = (-1, -1)
        while True:
            await shown.wait("source", 30)
            window = shown.windows.get("source")
            if window is not None and window.last_part != known:
                known = window.last_part
                render.media_playlist(shown, window, delta=True)
                last = window.shown[-1]
                found.append(clock() - arrived[number].pop(last.start + last.duration))

    tasks = [asyncio.create_task(viewer(number, shown)) for number, shown in enumerate(made)]
    began = clock()

    def due() -> Iterator[tuple[float, int, str, Packet | Cut]]:
        """Streams do not arrive in step: each a little later than the one before."""
        shift = 1 / RATE / streams
        late = [(at + number * shift, number, name, item) for at, name, item in script for number in range(streams)]
        late.sort(key=lambda row: row[:2])
        yield from late

    for at, number, name, item in due():
        wait = began + at - clock()
        if wait > 0.0005:
            await asyncio.sleep(wait)
        if isinstance(item, Packet) and name == "source":
            arrived[number][item.pts + item.duration + ORIGIN_S * VIDEO_TIMESCALE] = clock()
        feed(made[number], name, item)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return sorted(found)


def measure(streams: int, seconds: float) -> dict[str, Any]:
    script = packets(seconds)
    used, count = cpu(streams, script)
    mean, worst = allocated(script)
    late = asyncio.run(delays(streams, script))
    return {
        "streams": streams,
        "cpu_us_per_packet": round(used / count * 1e6, 1),
        "cpu_percent_per_stream": round(used / streams / seconds * 100, 2),
        "allocated_bytes_per_packet": round(mean),
        "allocated_bytes_worst": round(worst),
        "parts": len(late),
        "delay_ms_median": round(late[len(late) // 2] * 1000, 2),
        "delay_ms_p99": round(late[int(len(late) * 0.99)] * 1000, 2),
    }


def grown(segments: int) -> Presentation:
    """A stream whose window holds so many segments, the older ones without bytes, as if they were on disk."""
    (shown,) = new(1)
    for _, name, item in packets(8):
        feed(shown, name, item)
    for name, shelf in shown.shelves.items():
        whole, last = list(shelf.listed), shelf.listed[-1]
        for n in range(len(whole), segments):
            frames = 94 if n % 4 else 93
            length = 2 * last.timescale if name == "source" else frames * 1024
            b = replace(
                last.boundary, msn=n, pts=last.boundary.pts + 2 * VIDEO_TIMESCALE, wall_us=last.wall_us + 2_000_000
            )
            last = replace(last, boundary=b, start=last.start + last.duration, duration=length, parts=(), stored=True)
            shelf._append(last)
        moved = len(shelf.listed) - len(whole)
        if shelf.current is not None:
            b = replace(shelf.current.boundary, msn=shelf.current.msn + moved)
            shelf.current = replace(shelf.current, boundary=b, start=last.start + last.duration)
    shown.touch()
    return shown


def rendering(segments: int) -> dict[str, Any]:
    """Milliseconds of CPU for each kind of playlist, made once for a new version."""
    shown = grown(segments)
    kinds: dict[str, Callable[[], object]] = {
        "playlist": lambda: render.media_playlist(shown, shown.windows["source"], delta=False),
        "delta": lambda: render.media_playlist(shown, shown.windows["source"], delta=True),
        "iframes": lambda: render.iframe_playlist(shown, shown.windows["source"]),
        "multivariant": lambda: render.multivariant(shown),
        "mpd": lambda: render.mpd(shown),
    }
    row: dict[str, Any] = {"segments": segments}
    for kind, make in kinds.items():
        make()
        began = time.process_time()
        for _ in range(10):
            shown.touch()
            make()
        row[f"{kind}_ms"] = round((time.process_time() - began) * 100, 2)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="1,10,100")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--windows", default="15,1800,10800")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    windows = [rendering(int(n)) for n in given.windows.split(",") if n]
    print("".join(f"{name:>16}" for name in windows[0]) if windows else "")
    for row in windows:
        print("".join(f"{value:>16}" for value in row.values()))
    rows = [measure(int(n), given.seconds) for n in given.streams.split(",") if n]
    print(f"{'streams':>8}{'us/packet':>11}{'% core/stream':>15}{'bytes/packet':>14}{'median ms':>11}{'p99 ms':>9}")
    for row in rows:
        print(
            f"{row['streams']:>8}{row['cpu_us_per_packet']:>11}{row['cpu_percent_per_stream']:>15}"
            f"{row['allocated_bytes_per_packet']:>14}{row['delay_ms_median']:>11}{row['delay_ms_p99']:>9}"
        )
    if given.json:
        given.json.write_text(
            json.dumps({"python": platform.python_version(), "rows": rows, "windows": windows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
