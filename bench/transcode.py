"""Our worker against the ffmpeg command line: the same clip, rungs, encoders and settings, one after the other.

    python bench/transcode.py --clip clip.mp4 [--height 1080] [--seconds 20] [--ladders h264 hevc av1 watched pinned]
                              [--rates | --latency] [--ffmpeg PATH] [--runs 1] [--every 0] [--out FILE]

Ours is a real worker process, driven over its socket as the server does it, with thumbnails on. Theirs decodes once,
splits, scales and encodes every rung in one process. CPU is that of the whole process; "loading" is Python and libav
coming up, once in a stream's life; "core" is what feeding the worker costs beside it. imageio-ffmpeg's ffmpeg, which is
taken without `--ffmpeg`, has encoders of other versions than PyAV's wheel: `support/ffmpeg_of_pyav.sh` makes one that
uses the wheel's own libraries. Quality is measured by ffmpeg's psnr, ssim and libvmaf against the source scaled to the
rung. "worst" is the segment of 2 s that lies furthest over its target. `watched` is the default ladder while one viewer
watches the source, `pinned` the same with `rungs_pinned = "lowest"`; ffmpeg encodes the whole ladder beside them.
`--rates` tells of rate control alone; `--latency` feeds at real time and tells how long after its arrival a picture
comes out of each rung. `--hard` makes a clip of its own, in which black and stills change with noise and hard cuts.
Prints a table, writes JSON and an SVG.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

if sys.path[0] == str(Path(__file__).resolve().parent):
    sys.path[0] += "/support"  # in this folder itself, transcode.py is not the package of its name

import av
import imageio_ffmpeg
from arguments import file
from feeding import SEGMENT, TICKS, Feed, packets_of
from processes import usage_s

from media.packet import Packet
from media.track import Codec, Track
from packager.cmaf.fragment import Sample, chunk
from packager.cmaf.init import init_segment
from transcode.encoder import _threads, options
from transcode.ladder import PRESETS, Ladder, Rung
from transcode.plan import Plan, VideoEncode
from transcode.planner import make_plan
from transcode.pool import Pool
from transcode.settings import TranscodeSettings

SETTINGS = TranscodeSettings(shed=False, warm_spare=False, nice=0, stall_timeout_s=60, queue_s=60, drain_timeout_s=60)


@dataclass
class Source:
    """The clip as packets, and as a file for ffmpeg."""

    path: Path
    track: Track
    packets: list[Packet]
    seconds: float


@dataclass
class Collect:
    """`transcode.ports.Sink` in memory."""

    packets: dict[str, list[Packet]] = field(default_factory=dict)
    news: list[str] = field(default_factory=list)

    def packet(self, rendition: str, packet: Packet) -> None:
        self.packets.setdefault(rendition, []).append(packet)

    def restarted(self, reason: str, log: str) -> None:
        self.news.append(f"restarted: {reason} {log}")

    def failed(self, reason: str, log: str) -> None:
        self.news.append(f"failed: {reason} {log}")

    def stats(self, values: Mapping[str, float | str]) -> None:
        if "notice" in values:
            self.news.append(str(values["notice"]))

    def thumbnail(self, jpeg: bytes) -> None:
        pass


def prepare(arguments: argparse.Namespace, folder: Path) -> Source:
    """Cut the clip to length and size, once, as what a publisher would send: H.264, IDRs every 2 s, B-frames."""
    path = folder / "source.mp4"
    if arguments.hard:
        arguments.clip = hard_clip(arguments.ffmpeg, arguments.clip, folder)
    scale = f"scale=-2:{arguments.height}:flags=lanczos" if arguments.height else "null"
    noise = ",noise=alls=6:allf=t" if arguments.noise else ""
    rate = ["-r", str(arguments.rate)] if arguments.rate else []
    subprocess.run(
        [arguments.ffmpeg, "-v", "error", "-ss", str(arguments.start), "-t", str(arguments.seconds), "-i",
         str(arguments.clip), "-an", "-vf", scale + noise, *rate, "-c:v", "libx264", "-preset", "veryfast",
         "-crf", "17", "-force_key_frames", "expr:gte(t,n_forced*2)", "-y", str(path)],
        check=True,
    )  # fmt: skip
    packets = packets_of(path)
    return Source(path, packets[0].track, packets, max(p.pts + p.duration for p in packets) / TICKS)


def hard_clip(ffmpeg: str, clip: Path, folder: Path) -> Path:
    """24 s at 1280x720 that a rate control finds hard: it saves up bits in the easy scenes, and then comes a cut."""
    path = folder / "hard.mp4"
    shape = "scale=1280:720,setsar=1,fps=30,format=yuv420p,settb=1/30"
    scenes = [
        ("lavfi", "color=black:s=1280x720:d=3", "null"),
        ("lavfi", "testsrc2=s=1280x720:d=3", "noise=alls=40:allf=t"),
        ("", str(clip), "trim=0:5,setpts=PTS-STARTPTS"),
        ("lavfi", "color=gray:s=1280x720:d=3", "noise=alls=60"),
        ("lavfi", "color=gray:s=1280x720:d=3", "noise=alls=60:allf=t"),
        ("lavfi", "color=white:s=1280x720:d=2.5", "null"),
        ("lavfi", "mandelbrot=s=1280x720,trim=0:4.5", "null"),
    ]
    inputs = [part for kind, name, _ in scenes for part in ([*(("-f", kind) if kind else ()), "-i", name])]
    chains = [f"[{i}:v]{shape},{change}[c{i}]" for i, (_, _, change) in enumerate(scenes)]
    joined = "".join(f"[c{i}]" for i in range(len(scenes))) + f"concat=n={len(scenes)}[v]"
    subprocess.run(
        [ffmpeg, "-v", "error", *inputs, "-filter_complex", ";".join([*chains, joined]), "-map", "[v]", "-c:v",
         "libx264", "-preset", "ultrafast", "-crf", "12", "-y", str(path)],
        check=True,
    )  # fmt: skip
    return path


def plan_of(what: str, source: Source) -> Plan:
    """The plan of a case, made by our own planner."""
    default = PRESETS["default"]
    ladders = {
        "h264": default,
        "watched": default,
        "pinned": default,
        # The rungs of the default ladder at the rates of the presets `hevc` and `modern`.
        "hevc": Ladder("hevc", tuple(_coded(r, Codec.HEVC, Fraction(2, 3)) for r in default.rungs)),
        "av1": Ladder("av1", tuple(_coded(r, Codec.AV1, Fraction(8, 15)) for r in default.rungs)),
    }
    plan = make_plan(source.track, None, ladders[what], passthrough=True, hardware=None, settings=SETTINGS)
    if what == "watched":
        return replace(plan, video=())
    if what == "pinned":
        return replace(plan, video=(min(plan.video, key=lambda e: e.width * e.height),))
    return plan


def _coded(rung: Rung, codec: Codec, share: Fraction) -> Rung:
    return replace(rung, codec=codec, bitrate=int(rung.bitrate * share))


async def ours(plan: Plan, source: Source) -> tuple[dict[str, float], Collect]:
    """One job, fed as fast as it takes."""
    sink, pool = Collect(), Pool(SETTINGS)
    before, mine, started = usage_s(resource.RUSAGE_CHILDREN), usage_s(resource.RUSAGE_SELF), time.perf_counter()
    await pool.start()
    job = await pool.open(plan, sink, name="bench")
    status, loading = Path(f"/proc/{job.stats.worker_pid}/status"), 0.0
    if job.stats.worker_pid:
        ticks = status.with_name("stat").read_text().rsplit(")", 1)[1].split()[11:13]
        loading = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    feed, peak = Feed(job), 0
    for packet in source.packets:
        feed.write(packet)
        while job.stats.queue_bytes > 0:  # noqa: ASYNC110  -- a job has no event for it
            await asyncio.sleep(0.02)
    closing = asyncio.get_running_loop().create_task(job.close(drain=True))
    while not closing.done():
        await asyncio.wait({closing}, timeout=0.02)
        peak = max(peak, _peak(status))
    await closing
    await pool.stop()
    wall = time.perf_counter() - started
    cpu, core = usage_s(resource.RUSAGE_CHILDREN) - before, usage_s(resource.RUSAGE_SELF) - mine
    return {"cpu_s": cpu, "loading_s": loading, "core_s": core, "wall_s": wall, "peak_bytes": peak}, sink


def _peak(status: Path) -> int:
    """The most memory that the process has held so far; 0 once it is gone."""
    try:
        lines = status.read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def theirs(ffmpeg: str, plan: Plan, source: Source, folder: Path) -> dict[str, float]:
    """One ffmpeg process with the same graph."""
    rungs = plan.video
    split = f"[0:v]split={len(rungs)}" + "".join(f"[s{i}]" for i in range(len(rungs)))
    scales = [f"[s{i}]scale={e.width}:{e.height}:flags=bicubic[v{i}]" for i, e in enumerate(rungs)]
    command = [ffmpeg, "-v", "error", "-y", "-i", str(source.path), "-filter_complex", ";".join([split, *scales])]
    for i, e in enumerate(rungs):
        command += ["-map", f"[v{i}]", *_flags(e), str(folder / f"theirs-{e.name}.mp4")]
    started = time.perf_counter()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, env={**os.environ, "SVT_LOG": "1"})
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"ffmpeg failed: {' '.join(command)}")
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "loading_s": 0.0,
        "core_s": 0.0,
        "wall_s": time.perf_counter() - started,
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def _flags(e: VideoEncode) -> list[str]:
    """Our encoder options, as ffmpeg's command line spells them."""
    threads = e.threads or _threads(e)
    flags = ["-c:v", e.encoders[-1], "-b:v", str(e.bitrate), "-bf", "0", "-g", "100000", "-threads", str(threads)]
    flags += ["-flags", "+cgop", "-pix_fmt", "yuv420p", "-force_key_frames", "expr:gte(t,n_forced*2)"]
    for key, value in options(e, e.encoders[-1], threads).items():
        flags += [f"-{key}", value]
    return flags


def store(packets: list[Packet], path: Path) -> None:
    """Our packets as an MP4 that ffmpeg reads."""
    samples = [Sample(p.duration, p.pts - p.dts, p.keyframe, p.data) for p in packets]
    path.write_bytes(init_segment(packets[0].track) + chunk(1, packets[0].dts, samples))


def measure(ffmpeg: str, made: Path, source: Source, e: VideoEncode, every: int) -> dict[str, float]:
    """Bitrate, the worst segment, and the quality of one file."""
    sizes: dict[int, list[int]] = {}
    with av.open(str(made)) as container:
        for unit in container.demux(video=0):
            if unit.pts is not None and unit.time_base is not None:
                sizes.setdefault(int(unit.pts * unit.time_base * TICKS + 9) // SEGMENT, []).append(unit.size)
    last = int(source.seconds * TICKS) // SEGMENT
    whole = [sum(frames) * 8 / 2 for segment, frames in sizes.items() if segment < last]
    result = {"bitrate": sum(whole) / len(whole), "worst_share": max(whole) / e.bitrate, "segments": len(whole)}
    if not every:
        return result
    report = made.with_suffix(".json")
    # The same tags on both, or the filters convert a picture that says BT.709 to one that says nothing.
    alike = "setpts=PTS-STARTPTS,setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    graph = (
        f"[0:v]{alike}[d];[1:v]{alike},scale={e.width}:{e.height}:flags=bicubic[r];"
        f"[d][r]libvmaf=feature=name=psnr|name=float_ssim:n_threads=2:n_subsample={every}:log_fmt=json:log_path={report}"
    )
    subprocess.run(
        [ffmpeg, "-v", "error", "-i", str(made), "-i", str(source.path), "-lavfi", graph, "-f", "null", "-"], check=True
    )
    pooled = json.loads(report.read_text())["pooled_metrics"]
    names = {"psnr_y": "psnr", "float_ssim": "ssim", "vmaf": "vmaf"}
    return result | {ours: pooled[theirs]["mean"] for theirs, ours in names.items()}


def compare(what: str, arguments: argparse.Namespace, source: Source, folder: Path) -> dict[str, Any]:
    """One case: both makers `runs` times in turn; the least CPU of each counts."""
    plan = plan_of(what, source)
    whole = plan_of("h264", source) if what in ("watched", "pinned") else plan
    makers: dict[str, list[dict[str, float]]] = {"headrace": [], "ffmpeg": []}
    sink = Collect()
    for _ in range(arguments.runs):
        usage, sink = asyncio.run(ours(plan, source))
        if sink.news:
            print("  news:", *sink.news)
        makers["headrace"].append(usage)
        makers["ffmpeg"].append(theirs(arguments.ffmpeg, whole, source, folder))
    rungs: list[dict[str, Any]] = []
    for e in plan.video:
        store(sink.packets[e.name], folder / f"ours-{e.name}.mp4")
        rungs.append(
            {"name": e.name, "width": e.width, "height": e.height, "target": e.bitrate, "encoder": e.encoders[-1]}
            | {
                maker: measure(arguments.ffmpeg, folder / f"{file}-{e.name}.mp4", source, e, arguments.every)
                for maker, file in (("headrace", "ours"), ("ffmpeg", "theirs"))
            }
        )
    usage_of = {name: min(runs, key=lambda u: u["cpu_s"]) for name, runs in makers.items()}
    return {"case": what, "seconds": source.seconds, **usage_of, "rungs": rungs}


def rates(what: str, source: Source) -> None:
    """Prints what of a case's rate control can be told without looking at pictures."""
    plan = plan_of(what, source)
    _, sink = asyncio.run(ours(plan, source))
    print(f"\n{what}: {source.seconds:.1f} s; the worst segment of 2 s; the fill of a buffer drained at the target")
    for e in plan.video:
        packets = sink.packets[e.name]
        sizes: dict[int, int] = {}
        debt = peak = 0.0
        for p in packets:
            sizes[p.pts // SEGMENT] = sizes.get(p.pts // SEGMENT, 0) + 8 * len(p.data)
            debt += 8 * len(p.data)
            peak = max(peak, debt)
            debt = max(0.0, debt - e.bitrate * p.duration / TICKS)
        whole = [bits / 2 / e.bitrate for n, bits in sorted(sizes.items()) if (n + 1) * 2 <= source.seconds + 0.1]
        longest = max(p.duration for p in packets) / TICKS
        print(
            f"  {e.name:>6} {e.encoders[-1]:10} target {e.bitrate // 1000:5} kb/s"
            f"  mean {100 * sum(whole) / len(whole):3.0f} %  worst {100 * max(whole) - 100:+.0f} %"
            f"  buffer {1000 * peak / e.bitrate:.0f} of {e.buffer_ms} ms"
            f"  pictures {len(packets)}, the longest shown {1000 * longest:.0f} ms"
        )


async def latency(what: str, source: Source) -> None:
    """Feeds at real time. Prints, for each rung, the time from a picture's arrival to that of its packet."""
    plan, arrived = plan_of(what, source), dict[int, float]()
    took: dict[str, list[float]] = {}

    class Timing(Collect):
        def packet(self, rendition: str, packet: Packet) -> None:
            took.setdefault(rendition, []).append(time.monotonic() - arrived[packet.pts])

    sink, pool = Timing(), Pool(SETTINGS)
    await pool.start()
    job = await pool.open(plan, sink, name="bench")
    feed, start = Feed(job), time.monotonic()
    for packet in source.packets:
        await asyncio.sleep(start + (packet.dts + packet.duration) / TICKS - time.monotonic())
        arrived[packet.pts] = time.monotonic()
        feed.write(packet)
    await job.close(drain=True)
    await pool.stop()
    print(f"\n{what}: {source.track.width}x{source.track.height}, {source.seconds:.0f} s at real time", *sink.news)
    for e in plan.video:
        figures = sorted(took[e.name])
        parts = (figures[len(figures) * share // 100] * 1000 for share in (50, 95, 99))
        print(f"  {e.name:>6} {e.encoders[-1]:10} median {{:.0f}} ms, 95 % {{:.0f}}, 99 % {{:.0f}}".format(*parts))


def tell(case: dict[str, Any]) -> None:
    print(f"\n{case['case']}: {case['seconds']:.1f} s of video")
    for maker in ("headrace", "ffmpeg"):
        u = case[maker]
        print(
            f"  {maker:9} CPU {(u['cpu_s'] - u['loading_s']) / case['seconds']:.3f} s/s"
            + (
                f" + loading {u['loading_s']:.2f} s + core {u['core_s'] / case['seconds']:.3f} s/s"
                if u["core_s"]
                else ""
            )
            + f"  wall {u['wall_s']:.1f} s  peak {u['peak_bytes'] / 2**20:.0f} MiB"
        )
    print(
        f"  headrace / ffmpeg CPU: {case['headrace']['cpu_s'] / case['ffmpeg']['cpu_s']:.2f}, once loaded "
        f"{(case['headrace']['cpu_s'] - case['headrace']['loading_s']) / case['ffmpeg']['cpu_s']:.2f}"
    )
    for rung in case["rungs"]:
        for maker in ("headrace", "ffmpeg"):
            m = rung[maker]
            quality = "  ".join(f"{k} {m[k]:.3f}" for k in ("psnr", "ssim", "vmaf") if k in m)
            print(
                f"  {rung['name']:>6} {rung['encoder']:10} {maker:9} {m['bitrate'] / 1000:6.0f} of "
                f"{rung['target'] / 1000:.0f} kb/s  worst {100 * (m['worst_share'] - 1):+.0f} %  {quality}"
            )


def chart(cases: list[dict[str, Any]], path: Path) -> None:
    """CPU seconds per second of video, two bars for each case."""
    top = max(c[m]["cpu_s"] / c["seconds"] for c in cases for m in ("headrace", "ffmpeg"))
    width, height, base = 120 + 130 * len(cases), 300, 250
    marks = ""
    for i, case in enumerate(cases):
        for j, (maker, colour) in enumerate((("headrace", "#1769aa"), ("ffmpeg", "#999999"))):
            value = case[maker]["cpu_s"] / case["seconds"]
            x, tall = 60 + 130 * i + 45 * j, 190 * value / top
            marks += f'<rect x="{x}" y="{base - tall:.0f}" width="40" height="{tall:.0f}" fill="{colour}"/>'
            marks += f'<text x="{x}" y="{base - tall - 4:.0f}" font-size="11">{value:.2f}</text>'
        marks += f'<text x="{60 + 130 * i}" y="{base + 18}" font-size="12">{case["case"]}</text>'
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="white"/><text x="20" y="22" font-size="14">CPU seconds per second of '
        f"video: Headrace (blue), ffmpeg (grey)</text>{marks}</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=file, required=True)
    parser.add_argument("--start", type=float, default=0)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--height", type=int, default=0, help="scale the clip to this height first")
    parser.add_argument("--rate", type=int, default=0, help="bring the clip to this frame rate first")
    parser.add_argument("--hard", action="store_true", help="put the clip between scenes that rate control finds hard")
    parser.add_argument("--noise", action="store_true", help="add noise, which makes every frame hard")
    parser.add_argument("--rates", action="store_true", help="ours alone: the bitrate of each segment, and the buffer")
    parser.add_argument("--latency", action="store_true", help="ours alone, at real time: how late packets come out")
    parser.add_argument("--ladders", nargs="+", default=["h264", "hevc", "av1", "watched", "pinned"])
    parser.add_argument("--ffmpeg", default=imageio_ffmpeg.get_ffmpeg_exe())
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--every", type=int, default=2, help="measure the quality of every so-manieth frame; 0 of none")
    parser.add_argument("--out", type=Path, default=Path("bench/results/transcode"))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        source = prepare(arguments, Path(name))
        for what in arguments.ladders:
            if arguments.latency:
                asyncio.run(latency(what, source))
                continue
            if arguments.rates:
                rates(what, source)
                continue
            case = compare(what, arguments, source, Path(name))
            tell(case)
            cases.append(case)
    if not cases:
        return
    version = subprocess.run([arguments.ffmpeg, "-version"], capture_output=True, text=True, check=True).stdout
    facts = {
        "ffmpeg": version.splitlines()[0],
        "pyav": av.__version__,
        "size": [source.track.width, source.track.height],
    }
    arguments.out.with_suffix(".json").write_text(json.dumps({**facts, "cases": cases}, indent=1) + "\n")
    chart(cases, arguments.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
