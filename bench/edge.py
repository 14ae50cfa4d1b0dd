"""The edge against nginx and Varnish: cached objects, one worker each, in the same run.

    python bench/edge.py [--seconds 4] [--rounds 3] [--out FOLDER]

Each server is one worker in front of the same small origin, warmed with one request per object, and then asked
by wrk with 64 connections over plain HTTP/1.1. What counts is requests per CPU second of the server's own
processes (user and system time from /proc), which other load on the machine hardly changes; rounds alternate
between the servers, and the table gives the median with the spread. Needs wrk, nginx and varnishd.

With `--distinct` every connection sends request heads that differ from one to the next, so that our memo of
parsed heads does not help.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

if sys.path[0] == str(Path(__file__).resolve().parent):
    del sys.path[0]  # else this very file would be `edge`

from edge.settings import EdgeSettings
from edge.supervisor import EdgePool

OBJECTS = {"playlist": 1_500, "part": 60_000, "segment": 750_000}
CONNECTIONS = 64
TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Target:
    name: str
    port: int
    pids: list[int]


@dataclass
class Result:
    server: str
    object: str
    requests_per_s: float
    requests_per_cpu_s: float
    bytes_per_cpu_s: float
    cpu_share: float


async def origin() -> tuple[asyncio.Server, int]:
    """Answers `/live/x/NAME` with an object of that size, to be kept for an hour."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                target = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
                name = target.rpartition("/")[2].partition("?")[0]
                size = OBJECTS.get(name, 0)
                kind = "application/vnd.apple.mpegurl" if name == "playlist" else "video/mp4"
                status = "200 OK" if size else "404 Not Found"
                head = f'HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncache-control: max-age=3600\r\netag: "1"\r\n'
                writer.write(f"{head}content-length: {size}\r\n\r\n".encode() + os.urandom(size))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def children(pid: int) -> list[int]:
    """Process ids of `pid` and everything below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += children(int(child))
    return found


async def wait_open(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


@contextlib.asynccontextmanager
async def ours(upstream: int, folder: Path) -> AsyncIterator[Target]:
    pool = EdgePool(EdgeSettings(host="127.0.0.1", port=0, workers=1), f"http://127.0.0.1:{upstream}")
    await pool.start()
    try:
        yield Target("headrace", pool.port, pool.pids)
    finally:
        await pool.stop()


@contextlib.asynccontextmanager
async def nginx(upstream: int, folder: Path) -> AsyncIterator[Target]:
    port = free_port()
    (folder / "cache").mkdir(exist_ok=True)
    (folder / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log warn; user root;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 10000000;
  open_file_cache max=1000 inactive=300s; open_file_cache_valid 300s;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  proxy_cache_path {folder}/cache levels=1:2 keys_zone=c:10m max_size=1g use_temp_path=off;
  upstream o {{ server 127.0.0.1:{upstream}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://o; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_cache c; proxy_cache_lock on; proxy_cache_use_stale updating error timeout;
      add_header X-Cache $upstream_cache_status; add_header Access-Control-Allow-Origin *;
    }}
  }}
}}""")
    process = await asyncio.create_subprocess_exec(
        "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await wait_open(port)
        yield Target("nginx", port, children(process.pid))
    finally:
        process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def varnish(upstream: int, folder: Path) -> AsyncIterator[Target]:
    port = free_port()
    (folder / "one.vcl").write_text(f'vcl 4.1;\nbackend o {{ .host = "127.0.0.1"; .port = "{upstream}"; }}\n')
    process = await asyncio.create_subprocess_exec(
        *("varnishd", "-F", "-n", str(folder / "v"), "-a", f"127.0.0.1:{port}", "-f", str(folder / "one.vcl")),
        *("-s", "malloc,256m", "-p", "thread_pools=1", "-j", "none"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await wait_open(port)
        yield Target("varnish", port, children(process.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


def cpu_s(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


async def measure(target: Target, name: str, seconds: float, script: Path | None) -> Result:
    more = ("-s", str(script)) if script is not None else ()
    url = f"http://127.0.0.1:{target.port}/live/x/{name}"
    before = cpu_s(target.pids)
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", *more, url), stdout=asyncio.subprocess.PIPE
    )
    text = (await process.communicate())[0].decode()
    used = cpu_s(target.pids) - before
    match = re.search(r"(\d+) requests in ([\d.]+)s", text)
    assert match is not None, text
    assert "Non-2xx" not in text, text
    assert "Socket errors" not in text, text
    count, took = int(match[1]), float(match[2])
    return Result(target.name, name, count / took, count / used, count * OBJECTS[name] / used, used / took)


Maker = Callable[[int, Path], contextlib.AbstractAsyncContextManager[Target]]


async def run(seconds: float, rounds: int, distinct: bool, say: Callable[[str], None]) -> list[Result]:
    makers: list[Maker] = [ours]
    if shutil.which("nginx"):
        makers.append(nginx)
    if shutil.which("varnishd"):
        makers.append(varnish)
    results: list[Result] = []
    server, upstream = await origin()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        script: Path | None = None
        if distinct:
            script = folder / "distinct.lua"
            script.write_text(
                "local n = 0\nrequest = function()\n  n = n + 1\n"
                '  return wrk.format("GET", nil, {["User-Agent"] = "viewer " .. n})\nend\n'
            )
        async with contextlib.AsyncExitStack() as stack:
            targets = [await stack.enter_async_context(make(upstream, folder)) for make in makers]
            for target in targets:
                for item in OBJECTS:
                    await measure(target, item, 1, script)
            for _ in range(rounds):
                for item in OBJECTS:
                    for target in targets:
                        results.append(await measure(target, item, seconds, script))
                        say(f"  {target.name:9} {item:9} {results[-1].requests_per_cpu_s:10.0f} requests/CPU s")
    server.close()
    return results


def table(results: list[Result]) -> list[dict[str, object]]:
    """Medians, spreads and ratios, one row per object and server."""
    rows: list[dict[str, object]] = []
    for item in OBJECTS:
        values = {
            server: [r.requests_per_cpu_s for r in results if (r.server, r.object) == (server, item)]
            for server in dict.fromkeys(r.server for r in results)
        }
        base = statistics.median(values["headrace"])
        for server, found in values.items():
            median = statistics.median(found)
            rows.append(
                {
                    "object": item,
                    "bytes": OBJECTS[item],
                    "server": server,
                    "requests_per_cpu_s": round(median),
                    "low": round(min(found)),
                    "high": round(max(found)),
                    "megabytes_per_cpu_s": round(median * OBJECTS[item] / 1e6, 1),
                    "headrace_is_times": round(base / median, 2),
                }
            )
    return rows


def chart(rows: list[dict[str, object]]) -> str:
    """Bars of requests per CPU second relative to ours, as SVG."""
    colours = {"headrace": "#1f8fd6", "nginx": "#6aa84f", "varnish": "#c27ba0"}
    parts, y = [], 30
    for row in rows:
        share = 1 / float(str(row["headrace_is_times"]))
        width = 300 * share
        server = str(row["server"])
        label = f"{row['object']} · {server}: {row['requests_per_cpu_s']}/CPU s"
        parts.append(f'<rect x="10" y="{y}" width="{width:.0f}" height="16" fill="{colours[server]}"/>')
        parts.append(f'<text x="{width + 16:.0f}" y="{y + 13}">{label}</text>')
        y += 22 if server != "varnish" else 36
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{y}" font-family="sans-serif" font-size="12">'
    title = '<text x="10" y="18" font-weight="bold">Requests per CPU second, cached, one worker, HTTP/1.1</text>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', title, *parts, "</svg>\n"])


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--distinct", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: apt install wrk")
    results = await run(options.seconds, options.rounds, options.distinct, lambda text: print(text, flush=True))
    rows = table(results)
    print(f"\n{'object':10}{'server':10}{'req/CPU s':>11}{'low':>9}{'high':>9}{'MB/CPU s':>10}{'headrace is':>13}")
    for row in rows:
        print(
            f"{row['object']:10}{row['server']:10}{row['requests_per_cpu_s']:>11}{row['low']:>9}{row['high']:>9}"
            f"{row['megabytes_per_cpu_s']:>10}{row['headrace_is_times']:>11} x"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    name = "edge-distinct" if options.distinct else "edge"
    (options.out / f"{name}.json").write_text(json.dumps(rows, indent=2) + "\n")
    (options.out / f"{name}.svg").write_text(chart(rows))
    print(f"written: {options.out / name}.json, .svg")


if __name__ == "__main__":
    asyncio.run(main())
