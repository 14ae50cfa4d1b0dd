"""A transcoder for an hour: a clip over and over, in real time, with timestamps that go on, through a real worker.

    python bench/soak.py --clip clip.mp4 [--seconds 3600] [--height 1080] [--rate 30] [--ladder default]
                         [--always-full] [--report 60] [--out bench/results/soak]

Tells, for each rung, the time from a packet's arrival to that of the same picture out of the worker: median and 99th
percentile over the whole run, and their drift (the median of the last tenth less that of the first); pictures that did
not come, what was shed, restarts, overruns; memory of the worker and of this process; CPU. Settings are the server's
own, so a machine that is too slow sheds, and rungs have no figures while they are left out; with `--always-full`
nothing is shed. A packet arrives when its last byte would, at the end of its frame. One frame is waited for on purpose
(a packet leaves when its duration is known); what B-frames of the source hold back is told beside it. Prints a line
every `--report` seconds, and at the end a table; writes JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

if sys.path[0] == str(Path(__file__).resolve().parent):
    sys.path[0] += "/support"  # in this folder itself, transcode.py is not the package of its name

import imageio_ffmpeg
import structlog
from arguments import file
from feeding import TICKS, Feed, packets_of
from processes import usage_s

from media.packet import Packet
from transcode.ladder import PRESETS
from transcode.planner import make_plan
from transcode.pool import Pool
from transcode.settings import TranscodeSettings

LOOP_S = 10
DRAIN_S = 5.0


@dataclass
class Figures:
    """`transcode.ports.Sink` that measures."""

    arrived: dict[int, float] = field(default_factory=dict)
    """Monotonic seconds by pts, of the latest packets."""
    took: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """(seconds into the run, latency in ms) by rung."""
    rss: list[tuple[float, float]] = field(default_factory=list)
    news: list[tuple[float, str]] = field(default_factory=list)
    values: dict[str, float | str] = field(default_factory=dict)
    start: float = 0.0

    def packet(self, rendition: str, packet: Packet) -> None:
        now = time.monotonic()
        since = self.arrived.get(packet.pts)
        if since is not None:
            self.took.setdefault(rendition, []).append((now - self.start, (now - since) * 1000))

    def _tell(self, text: str) -> None:
        at = time.monotonic() - self.start
        self.news.append((round(at, 1), text))
        print(f"  {at:7.1f} s  {text}", flush=True)

    def restarted(self, reason: str, log: str) -> None:
        self._tell(f"restarted: {reason} {log}")

    def failed(self, reason: str, log: str) -> None:
        self._tell(f"failed: {reason} {log}")

    def stats(self, values: Mapping[str, float | str]) -> None:
        self.values.update(values)
        if "notice" in values:
            self._tell(str(values["notice"]))
        if "rss_bytes" in values:
            self.rss.append((time.monotonic() - self.start, float(values["rss_bytes"])))

    def thumbnail(self, jpeg: bytes) -> None:
        pass


def prepare(arguments: argparse.Namespace, folder: Path) -> list[Packet]:
    """`LOOP_S` seconds of the clip as an encoder would send it: constant rate, IDRs every 2 s, B-frames."""
    path = folder / "source.mp4"
    frames = LOOP_S * arguments.rate
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-stream_loop", "-1", "-i", str(arguments.clip), "-an",
         "-vf", f"fps={arguments.rate},scale=-2:{arguments.height}:flags=lanczos", "-frames:v", str(frames),
         "-c:v", "libx264", "-preset", "superfast", "-b:v", "6M", "-maxrate", "6M", "-bufsize", "6M",
         "-g", str(2 * arguments.rate), "-bf", "2", "-sc_threshold", "0", "-y", str(path)],
        check=True,
    )  # fmt: skip
    packets = packets_of(path)
    assert len(packets) == frames
    return packets


async def soak(arguments: argparse.Namespace, packets: list[Packet]) -> dict[str, Any]:
    settings = TranscodeSettings(shed=not arguments.always_full)
    plan = make_plan(
        packets[0].track, None, PRESETS[arguments.ladder], passthrough=True, hardware=None, settings=settings
    )
    figures, pool = Figures(), Pool(settings)
    await pool.start()
    job = await pool.open(plan, figures, name="soak")
    feed, sent, worst_queue_s, reported = Feed(job), 0, 0.0, 0.0
    usage = usage_s(resource.RUSAGE_CHILDREN), usage_s(resource.RUSAGE_SELF)
    figures.start = start = time.monotonic()
    late_ms = 0.0
    while True:
        packet = packets[sent % len(packets)]
        shift = sent // len(packets) * LOOP_S * TICKS
        packet = replace(packet, pts=packet.pts + shift, dts=packet.dts + shift)
        due = start + (packet.dts + packet.duration) / TICKS
        if packet.dts >= arguments.seconds * TICKS:
            break
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        late_ms = max(late_ms, (time.monotonic() - due) * 1000)
        # A bench that is woken late did not make its worker late.
        figures.arrived[packet.pts] = time.monotonic()
        figures.arrived.pop(packet.pts - 60 * TICKS, None)
        feed.write(packet)
        sent += 1
        worst_queue_s = max(worst_queue_s, job.stats.queue_s)
        if (at := time.monotonic() - start) - reported >= arguments.report:
            reported = at
            _line(figures, at, arguments.report)
    taken = time.monotonic() - start
    # What `--seconds` of media still hold when the last packet is in has to come out within moments.
    await asyncio.wait_for(job.close(drain=True), DRAIN_S + settings.drain_timeout_s)
    stats = job.stats
    await pool.stop()
    rungs = {e.name: _summary(figures.took.get(e.name, []), taken) for e in plan.video}
    for e in plan.video:
        rungs[e.name] |= {"expected": sent // e.divide, "encoder": e.encoders[-1], "preset": e.preset}
    settled = [rss for at, rss in figures.rss if at > taken / 10]
    return {
        "seconds": round(taken, 1),
        "pictures": sent,
        "b_frames_hold_back_ms": round(max(p.pts - p.dts for p in packets) / 90, 1),
        "frame_ms": round(1000 / arguments.rate, 1),
        "rungs": rungs,
        "worker_rss_mib": {
            "first": _mib(settled[0]) if settled else 0,
            "last": _mib(settled[-1]) if settled else 0,
            "peak": _mib(max((rss for _, rss in figures.rss), default=0)),
        },
        "feeder_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "cpu_s_per_s": {
            "workers": round((usage_s(resource.RUSAGE_CHILDREN) - usage[0]) / taken, 3),
            "core": round((usage_s(resource.RUSAGE_SELF) - usage[1]) / taken, 3),
        },
        "worst_queue_s": round(worst_queue_s, 3),
        "bench_late_ms": round(late_ms, 1),
        "restarts": stats.restarts,
        "overruns": stats.overruns,
        "dropped_packets": stats.dropped_packets,
        "speed_ratio_last": figures.values.get("speed_ratio"),
        "shed_level_last": figures.values.get("shed_level"),
        "load_average": os.getloadavg(),
        "news": figures.news,
    }


def _mib(size: float) -> float:
    return round(size / 2**20, 1)


def _share(values: list[float], share: float) -> float:
    return round(sorted(values)[min(len(values) - 1, int(len(values) * share))], 1) if values else 0.0


def _summary(took: list[tuple[float, float]], taken: float) -> dict[str, Any]:
    every = [ms for _, ms in took]
    first = [ms for at, ms in took if at < taken / 10]
    last = [ms for at, ms in took if at > taken * 9 / 10]
    return {
        "pictures": len(every),
        "p50_ms": _share(every, 0.5),
        "p95_ms": _share(every, 0.95),
        "p99_ms": _share(every, 0.99),
        "max_ms": round(max(every, default=0.0), 1),
        "drift_ms": round(_share(last, 0.5) - _share(first, 0.5), 1),
    }


def _line(figures: Figures, at: float, span: float) -> None:
    recent = {
        name: _share([ms for t, ms in took[-int(60 * span) - 1 :] if t > at - span], 0.5)
        for name, took in figures.took.items()
    }
    rss = figures.rss[-1][1] if figures.rss else 0
    shown = "  ".join(f"{name} {ms:.0f} ms" for name, ms in recent.items())
    shed = figures.values.get("shed_level", 0)
    print(f"  {at:7.1f} s  {shown}  worker {_mib(rss):.0f} MiB  shed level {shed}", flush=True)


def tell(result: dict[str, Any]) -> None:
    print(f"\n{result['seconds']} s, {result['pictures']} pictures at real time")
    for name, r in result["rungs"].items():
        print(
            f"  {name:>6} {r['encoder']:10} {r['preset']:10} median {r['p50_ms']:.0f} ms, 95 % {r['p95_ms']:.0f}, "
            f"99 % {r['p99_ms']:.0f}, worst {r['max_ms']:.0f}; drift {r['drift_ms']:+.1f} ms; "
            f"{r['pictures']} of {r['expected']} pictures"
        )
    rss, cpu = result["worker_rss_mib"], result["cpu_s_per_s"]
    print(
        f"  of these, {result['frame_ms']:.0f} ms are the frame that tells how long the one before lasts, and up to "
        f"{result['b_frames_hold_back_ms']:.0f} ms the source's B-frames\n"
        f"  memory of the worker {rss['first']} MiB after a tenth, {rss['last']} at the end, peak {rss['peak']}; of "
        f"the feeding process {result['feeder_peak_mib']}\n"
        f"  CPU {cpu['workers']} s/s, feeding {cpu['core']} s/s; longest queue {result['worst_queue_s']} s; "
        f"{result['restarts']} restarts, {result['overruns']} overruns, {result['dropped_packets']} packets dropped; "
        f"shed level {result['shed_level_last']} at the end; "
        f"the bench itself was late by {result['bench_late_ms']:.0f} ms at most; load {result['load_average'][0]:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=file, required=True)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--rate", type=int, default=30)
    parser.add_argument("--ladder", default="default", choices=sorted(PRESETS))
    parser.add_argument("--always-full", action="store_true", help="shed nothing, however slow the machine")
    parser.add_argument("--report", type=float, default=60, help="seconds between two lines")
    parser.add_argument("--out", type=Path, default=Path("bench/results/soak"))
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as folder:
        packets = prepare(arguments, Path(folder))
    result = asyncio.run(soak(arguments, packets))
    tell(result)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
