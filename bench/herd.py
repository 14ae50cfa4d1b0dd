"""The herd: N low-latency viewers arrive within two seconds on a stream behind the edge, stay; half leave and return.

    python bench/herd.py [--viewers 9500] [--stay 10] [--trouble none,slow,failing,restarted,gone] [--workers 1]
                         [--part-bytes 2000] [--out FOLDER]

Each viewer is one raw HTTP/1.1 connection that does what a low-latency player does: multivariant playlist, media
playlist, then blocked reloads and parts. After two thirds of `--stay` every second viewer leaves and comes back at
once. The origin is a script with a part every half second and blocking reload; `--trouble` runs the herd again with an
origin that, from a third of the stay on, is for five seconds

| slow      | a second late with every answer                                                 |
| failing   | answering 503 to each third request                                             |
| restarted | closing all connections, once, and back after 0.2 s                             |
| gone      | not there, all connections closed                                               |

Reported: origin requests per object (must be 1 per edge worker without trouble), errors that viewers saw, time to the
first part and who never got one (who returns counts anew; up to ten seconds are waited for the last), how far apart the
answers to one blocked playlist come, CPU and memory, and the origin's busiest second after the trouble. `edge_wake_*`
is the edge's own measure: from the end of a fetch until the last of the crowd on it was written to. The viewers are one
thread of C (`bench/herd_client.c`, built when the bench runs), on the machine's cores like the edge: what they see is
the spread of both. One herd takes `--stay` and about five seconds, up to fifteen. Writes
`herd.json` and a chart, `herd.svg`. 10,000 viewers need 20,600 open files (`ulimit -Hn`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop

if sys.path[0] == str(Path(__file__).resolve().parent):
    sys.path[0] += "/support"  # in this folder itself, edge.py is not the package of its name

from processes import cpu_s

from edge.settings import EdgeSettings
from edge.supervisor import EdgePool

PART_S = 0.5
PARTS = 4
"""Parts per segment."""
ARRIVE_S = 2.0
TROUBLE_S = 5.0
TROUBLES = ("none", "slow", "failing", "restarted", "gone")


class Origin:
    """A live edge that moves by the clock; counts what it is asked."""

    def __init__(self, part_bytes: int, began: float) -> None:
        self.asked: Counter[str] = Counter()
        self.seconds: Counter[int] = Counter()
        """Requests by second since the start."""
        self.port = 0
        self._began, self._trouble, self._number = began, "none", 0
        self._part = os.urandom(part_bytes)
        self._text = b"#EXTM3U\n" + b"#EXT-X-PART:DURATION=0.5,URI=part\n" * 40
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def trouble(self, kind: str, after_s: float) -> None:
        """Be troubled for a while."""
        await asyncio.sleep(after_s)
        self._trouble = kind
        if kind in ("restarted", "gone"):
            self.close()
            await asyncio.sleep(0.2 if kind == "restarted" else TROUBLE_S)
            await self.open()
        else:
            await asyncio.sleep(TROUBLE_S)
        self._trouble = "none"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                target = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
                self.asked[target] += 1
                self.seconds[int(time.time() - self._began)] += 1
                self._number += 1
                if self._trouble == "failing" and self._number % 3 == 0:
                    writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
                    continue
                if self._trouble == "slow":
                    await asyncio.sleep(1.0)
                body, kind = await self._answer(target)
                if writer.is_closing():
                    break
                lifetime_s = 12 if "part" in target else 1
                head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncache-control: max-age={lifetime_s}\r\n"
                writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        self._writers.discard(writer)
        writer.close()

    async def _answer(self, target: str) -> tuple[bytes, str]:
        playlist = "application/vnd.apple.mpegurl"
        blocked = re.search(r"_HLS_msn=(\d+)&_HLS_part=(\d+)", target)
        part = re.search(r"/part(\d+)\.m4s", target)
        if blocked:
            await self._until(int(blocked[1]) * PARTS + int(blocked[2]))
            return self._text, playlist
        if part:
            await self._until(int(part[1]))
            return self._part, "video/mp4"
        number = int((time.time() - self._began) / PART_S)
        return b"#AT:%d\n" % number + self._text, playlist

    async def _until(self, part: int) -> None:
        await asyncio.sleep(max(0.0, self._began + (part + 1) * PART_S - time.time()))


def build_client(folder: Path) -> Path:
    """The C client."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("a C compiler is missing: apt install gcc libc6-dev")
    program = folder / "herd_client"
    subprocess.run([compiler, "-O2", "-o", str(program), str(Path(__file__).with_name("herd_client.c"))], check=True)
    return program


async def client(program: Path, port: int, options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the C client: what it says of each blocked playlist, and of everything."""
    arguments = (port, options.viewers, options.stay, ARRIVE_S, PARTS, 2 * options.stay / 3)
    process = await asyncio.create_subprocess_exec(
        str(program), *map(str, arguments), stdout=asyncio.subprocess.PIPE, limit=2**20
    )
    out, _ = await process.communicate()
    *parts, summary = (json.loads(line) for line in out.splitlines())
    return parts, summary


async def edge_wakes(pool: EdgePool) -> dict[str, Any]:
    """The edge's own histogram of wake-ups: how many, the mean, and the bucket that holds the slowest."""
    text = (await pool.metrics()).decode()
    buckets = re.findall(r'headrace_edge_wake_seconds_bucket\{le="(.+?)"\} (\d+)', text)
    total = float(re.findall(r"headrace_edge_wake_seconds_sum (\S+)", text)[0])
    count = int(buckets[-1][1])
    worst = next(bound for bound, below in buckets if int(below) == count)
    return {
        "edge_wakes": count,
        "edge_wake_mean_ms": round(1000 * total / count, 1) if count else None,
        "edge_wake_worst_below_s": worst,
        "edge_wakes_within_100_ms": next(int(below) for bound, below in buckets if bound == "0.1"),
    }


def resident_bytes(pids: list[int]) -> int:
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * resource.getpagesize()


async def run(program: Path, trouble: str, options: argparse.Namespace) -> dict[str, Any]:
    """One herd."""
    began = time.time()
    origin = Origin(options.part_bytes, began)
    await origin.open()
    settings = EdgeSettings(host="127.0.0.1", port=0, workers=options.workers)
    pool = EdgePool(settings, f"http://127.0.0.1:{origin.port}")
    await pool.start()
    try:
        cpu, idle_bytes = cpu_s(pool.pids), resident_bytes(pool.pids)
        start = time.time() - began
        running = asyncio.create_task(client(program, pool.port, options))
        troubling = asyncio.create_task(origin.trouble(trouble, ARRIVE_S + options.stay / 3))
        await asyncio.sleep(ARRIVE_S + options.stay / 3)
        busy_bytes = resident_bytes(pool.pids)
        parts, summary = await running
        await troubling
        used = cpu_s(pool.pids) - cpu
        wakes = await edge_wakes(pool)
    finally:
        await pool.stop()
        origin.close()
    # Only playlists that nearly all waited for say how far apart a crowd is woken.
    full = [item for item in parts if item["count"] > 0.9 * options.viewers]
    spreads = [1000 * (item["p99_s"] - item["first_s"]) for item in full]
    objects = {key: count for key, count in origin.asked.items() if "part" in key}
    over = int(start + ARRIVE_S + options.stay / 3 + TROUBLE_S)
    return {
        "trouble": trouble,
        "viewers": options.viewers,
        "workers": options.workers,
        "part_bytes": options.part_bytes,
        **summary,
        "without_a_first_part": summary["came"] - summary["first_parts"] - summary["returned"],
        "objects_at_origin": len(objects),
        "most_origin_requests_per_object": max(objects.values(), default=0),
        "origin_requests_in_busiest_second_after": max(
            (n for at, n in origin.seconds.items() if at >= over), default=0
        ),
        "wake_up_spread_median_ms": round(statistics.median(spreads), 1) if spreads else None,
        "wake_up_spread_worst_ms": round(max(spreads), 1) if spreads else None,
        **wakes,
        "edge_cpu_s": round(used, 2),
        "requests_per_edge_cpu_s": round(summary["requests"] / used) if used else None,
        "bytes_per_viewer": round((busy_bytes - idle_bytes) / options.viewers),
        "load_average": round(os.getloadavg()[0], 1),
        "origin_requests_by_second": dict(sorted(origin.seconds.items())),
        "spreads": [
            [round(item["first_s"] - began, 2), round(1000 * (item["p99_s"] - item["first_s"]))] for item in full
        ],
    }


def chart(results: list[dict[str, Any]]) -> str:
    """For each herd the wake-up spread of every part that all waited for, and the origin's requests by second."""
    wide, high = 640, 120
    parts = ['<rect width="100%" height="100%" fill="white"/>']
    for row, result in enumerate(results):
        top = row * (high + 40) + 30
        end = max(result["origin_requests_by_second"], default=1) + 1
        most = max([100, *(spread for _, spread in result["spreads"])])
        busiest = max(result["origin_requests_by_second"].values(), default=1)
        parts.append(
            f'<text x="10" y="{top - 8}">{result["trouble"]}: {result["viewers"]} viewers, {result["refused"]} answers '
            f"refused. Blue: ms from the first to the 99th of 100 answers (top {most}); grey: origin requests a second "
            f"(top {busiest})</text>"
        )
        for at, count in result["origin_requests_by_second"].items():
            tall = high * count / busiest
            parts.append(
                f'<rect x="{10 + wide * at / end:.0f}" y="{top + high - tall:.0f}" width="{wide / end - 1:.1f}" '
                f'height="{tall:.0f}" fill="#ddd"/>'
            )
        for at, spread in result["spreads"]:
            y = top + high - high * spread / most
            parts.append(f'<circle cx="{10 + wide * at / end:.0f}" cy="{y:.0f}" r="3" fill="#1f8fd6"/>')
    size = f'width="900" height="{len(results) * (high + 40) + 20}"'
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">', *parts, "</svg>\n"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, default=9500)
    parser.add_argument("--stay", type=float, default=10, help="seconds after all have arrived")
    parser.add_argument("--trouble", default=",".join(TROUBLES))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--part-bytes", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results = []
    with tempfile.TemporaryDirectory(prefix="headrace-herd-") as name:
        program = build_client(Path(name))
        for trouble in options.trouble.split(","):
            results.append(uvloop.run(run(program, trouble, options)))
            print()
            for key, value in results[-1].items():
                if key not in ("spreads", "origin_requests_by_second"):
                    print(f"{key:42}{value}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "herd.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.out / "herd.svg").write_text(chart(results))
    print(f"\nwritten: {options.out}/herd.json, .svg")


if __name__ == "__main__":
    main()
