"""The herd: N low-latency viewers arrive at once on a stream behind the edge, and stay.

    python bench/herd.py [--viewers 2000] [--seconds 10] [--workers 1] [--part-bytes 20000] [--out FOLDER]

Each viewer is one raw HTTP/1.1 connection that does what a low-latency player does: multivariant playlist,
media playlist, then blocked reloads and parts for as long as it lasts. The origin is a script with a part
every half second and blocking reload. Reported: requests per object at the origin (must be 1 per edge worker),
errors, time to the first part, how far apart the answers to one blocked playlist come, CPU and memory.

Viewers run in processes of their own, as many as `--clients`; they share the machine's cores with the edge, so
that the spread is that of both. On a small machine keep `--viewers` times `--part-bytes` in bounds.
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
import statistics
import sys
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


async def run(options: argparse.Namespace) -> dict[str, Any]:
    began = time.time()
    origin = Origin(options.part_bytes, began)
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = EdgeSettings(host="127.0.0.1", port=0, workers=options.workers)
    pool = EdgePool(settings, f"http://127.0.0.1:{port}")
    await pool.start()
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
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    result = uvloop.run(run(options))
    for key, value in result.items():
        print(f"{key:34}{value}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "herd.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
