"""The herd: N low-latency viewers arrive at once on a stream behind the edge, and stay.

    python bench/herd.py [--viewers 2000] [--seconds 10] [--workers 1] [--part-bytes 20000] [--out FOLDER]

Each viewer is one raw HTTP/1.1 connection that does what a low-latency player does: multivariant playlist,
media playlist, then blocked reloads and parts for as long as it lasts. The origin is a script with a part
every half second and blocking reload. Reported: requests per object at the origin (must be 1 per edge worker),
errors, time to the first part, how far apart the answers to one blocked playlist come, CPU and memory.

The viewers are one thread of C (`bench/herd_client.c`, built when the bench runs) where there is a compiler, else
Python processes, as many as `--clients`. They share the machine's cores with the edge, so that what they see is
the spread of both; `edge_wake_*` is what the edge itself measured, from the end of a fetch until the last of the
crowd on it was written to. On a small machine keep `--viewers` times `--part-bytes` in bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
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
    del sys.path[0]  # else bench/edge.py would be `edge`

from edge.settings import EdgeSettings
from edge.supervisor import EdgePool

PART_S = 0.5
PARTS = 4
"""Parts per segment."""
ARRIVE_S = 2.0
TICK = os.sysconf("SC_CLK_TCK")


class Origin:
    """A live edge that moves by the clock; counts what it is asked."""

    def __init__(self, part_bytes: int, began: float) -> None:
        self.asked: Counter[str] = Counter()
        self._began = began
        self._part = os.urandom(part_bytes)
        self._text = b"#EXTM3U\n" + b"#EXT-X-PART:DURATION=0.5,URI=part\n" * 40

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                target = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
                self.asked[target] += 1
                body, kind = await self._answer(target)
                head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncache-control: max-age=12\r\n"
                writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
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


class Log:
    """What the viewers of one process saw."""

    def __init__(self) -> None:
        self.first_part_s: list[float] = []
        self.arrivals: dict[int, list[float]] = {}
        self.errors: Counter[str] = Counter()
        self.requests = 0


async def viewer(port: int, began: float, start: float, end: float, log: Log, number: int) -> None:
    await asyncio.sleep(start - time.time())
    asked = time.time()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    except OSError as error:
        log.errors[type(error).__name__] += 1
        return
    agent = f"herd/{number % 20}"

    async def get(target: str) -> bytes:
        head = f"GET /live/x/{target} HTTP/1.1\r\nHost: edge\r\nUser-Agent: {agent}\r\nAccept: */*\r\n\r\n"
        writer.write(head.encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        log.requests += 1
        if not answer.startswith(b"HTTP/1.1 200"):
            log.errors[answer[9:12].decode()] += 1
        match = re.search(rb"content-length: (\d+)", answer)
        return await reader.readexactly(int(match[1])) if match else b""

    try:
        await get("index.m3u8")
        match = re.match(rb"#AT:(\d+)", await get("v/media.m3u8"))
        part = int(match[1]) if match else 0
        first = True
        while time.time() < end:
            await get(f"v/part{part}.m4s")
            if first:
                log.first_part_s.append(time.time() - asked)
                first = False
            part += 1
            await get(f"v/media.m3u8?_HLS_msn={part // PARTS}&_HLS_part={part % PARTS}")
            log.arrivals.setdefault(part, []).append(time.time())
    except (OSError, asyncio.IncompleteReadError) as error:
        log.errors[type(error).__name__] += 1
    finally:
        writer.close()


def crowd(port: int, began: float, count: int, seconds: float, pipe: Any) -> None:
    """One process of viewers."""

    async def run() -> None:
        log = Log()
        start = time.time() + 0.5
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                at = start + ARRIVE_S * number / count
                group.create_task(viewer(port, began, at, start + ARRIVE_S + seconds, log, number))
        pipe.send((log.first_part_s, log.arrivals, log.errors, log.requests))

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(run())


def build_client(folder: Path) -> Path | None:
    """The C client; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    program = folder / "herd_client"
    source = Path(__file__).resolve().parent / "herd_client.c"
    subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
    return program


async def native(program: Path, port: int, options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the C client: what it says of each blocked playlist, and of everything."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    arguments = (port, options.viewers, options.seconds, ARRIVE_S, PARTS)
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


def usage(pids: list[int]) -> tuple[float, int]:
    """CPU seconds and resident bytes of the edge's workers."""
    ticks = pages = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
        pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return ticks / TICK, pages * resource.getpagesize()


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


async def measure_native(program: Path, pool: EdgePool, origin: Origin, options: argparse.Namespace) -> dict[str, Any]:
    cpu, idle_bytes = usage(pool.pids)
    running = asyncio.create_task(native(program, pool.port, options))
    await asyncio.sleep(ARRIVE_S + options.seconds / 2)
    _, busy_bytes = usage(pool.pids)
    parts, summary = await running
    used = usage(pool.pids)[0] - cpu
    spreads = [1000 * (item["p99_s"] - item["first_s"]) for item in parts if item["count"] > 0.9 * options.viewers]
    blocked = {key: count for key, count in origin.asked.items() if "part" in key}
    return {
        "client": "C, one thread",
        "viewers": options.viewers,
        "workers": options.workers,
        "part_bytes": options.part_bytes,
        **summary,
        "objects_at_origin": len(blocked),
        "most_origin_requests_per_object": max(blocked.values(), default=0),
        "wake_up_spread_median_ms": round(statistics.median(spreads), 1) if spreads else None,
        "wake_up_spread_worst_ms": round(max(spreads), 1) if spreads else None,
        **await edge_wakes(pool),
        "edge_cpu_s": round(used, 2),
        "requests_per_edge_cpu_s": round(summary["requests"] / used) if used else None,
        "bytes_per_viewer": round((busy_bytes - idle_bytes) / options.viewers),
    }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    began = time.time()
    origin = Origin(options.part_bytes, began)
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = EdgeSettings(host="127.0.0.1", port=0, workers=options.workers)
    pool = EdgePool(settings, f"http://127.0.0.1:{port}")
    await pool.start()
    with tempfile.TemporaryDirectory(prefix="headrace-herd-") as name:
        program = None if options.python else await asyncio.to_thread(build_client, Path(name))
        if program is not None:
            try:
                return await measure_native(program, pool, origin, options)
            finally:
                await pool.stop()
                server.close()
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        cpu, idle_bytes = usage(pool.pids)
        for _ in range(options.clients):
            ours, theirs = context.Pipe(duplex=False)
            count = options.viewers // options.clients
            arguments = (pool.port, began, count, options.seconds, theirs)
            process = context.Process(target=crowd, args=arguments, daemon=True)
            process.start()
            pipes.append(ours)
            processes.append(process)
        await asyncio.sleep(ARRIVE_S + options.seconds / 2 + 1)
        _, busy_bytes = usage(pool.pids)
        logs = [await asyncio.to_thread(pipe.recv) for pipe in pipes]
        used = usage(pool.pids)[0] - cpu
        for process in processes:
            await asyncio.to_thread(process.join)
    finally:
        await pool.stop()
        server.close()
    first = [value for log in logs for value in log[0]]
    arrivals: dict[int, list[float]] = {}
    for log in logs:
        for part, times in log[1].items():
            arrivals.setdefault(part, []).extend(times)
    # Only playlists that nearly all viewers waited for say how far apart a crowd is woken.
    full = [times for times in arrivals.values() if len(times) > 0.9 * options.viewers]
    spreads = [1000 * (quantile(times, 0.99) - min(times)) for times in full]
    requests = sum(log[3] for log in logs)
    blocked = {key: count for key, count in origin.asked.items() if "part" in key}
    return {
        "viewers": options.viewers,
        "workers": options.workers,
        "part_bytes": options.part_bytes,
        "requests": requests,
        "errors": dict(sum((log[2] for log in logs), Counter())),
        "objects_at_origin": len(blocked),
        "most_origin_requests_per_object": max(blocked.values(), default=0),
        "first_part_median_s": round(statistics.median(first), 3) if first else None,
        "first_part_p99_s": round(quantile(first, 0.99), 3),
        "wake_up_spread_median_ms": round(statistics.median(spreads), 1) if spreads else None,
        "wake_up_spread_worst_ms": round(max(spreads), 1) if spreads else None,
        "edge_cpu_s": round(used, 2),
        "requests_per_edge_cpu_s": round(requests / used) if used else None,
        "bytes_per_viewer": round((busy_bytes - idle_bytes) / options.viewers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--part-bytes", type=int, default=20_000)
    parser.add_argument("--python", action="store_true", help="Python viewers even where there is a C compiler")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    result = uvloop.run(run(options))
    for key, value in result.items():
        print(f"{key:34}{value}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "herd.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
