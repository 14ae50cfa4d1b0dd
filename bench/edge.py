"""The edge against nginx and Varnish: cached objects, one worker each, in the same run.

    python bench/edge.py [--seconds 4] [--rounds 3] [--modes same,viewers,distinct,tls,h2] [--out FOLDER]

Each server is one worker in front of the same small origin, warmed, and then asked by wrk (64 connections) or
h2load (8 connections of 8 streams). What counts is requests per CPU second of the server's own processes (user
and system time from /proc), which other load on the machine hardly changes; rounds alternate between the
servers, and the table gives the median with the spread. Needs wrk, h2load, nginx and varnishd.

| mode     | requests                                                                                      |
|----------|-----------------------------------------------------------------------------------------------|
| same     | HTTP/1.1, every request the same bytes: a herd of one kind of player                          |
| viewers  | HTTP/1.1, 199 viewers with a header block of their own each, who ask for 50 objects in turn   |
| distinct | HTTP/1.1, no two requests the same: the worst case, in which no memo helps                    |
| tls      | as `same`, over TLS 1.3 (Varnish has no TLS)                                                  |
| h2       | HTTP/2 over TLS 1.3                                                                           |
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if sys.path[0] == str(Path(__file__).resolve().parent):
    sys.path[0] += "/support"  # in this folder itself, edge.py is not the package of its name

from processes import cpu_s
from servers import Options, Target, certificate, makers

OPTIONS = Options(edge={}, nginx="proxy_cache_use_stale updating error timeout;")
OBJECTS = {"playlist": 1_500, "part": 60_000, "segment": 750_000}
MODES = {
    "same": ("playlist", "part", "segment"),
    "viewers": ("playlist", "part"),
    "distinct": ("playlist", "part"),
    "tls": ("playlist", "part", "segment"),
    "h2": ("playlist", "part", "segment"),
}
SCRIPTS = {
    # A browser's header block is about this long.
    "viewers": """
local ready, n = {}, 0
init = function()
  for i = 0, 9949 do
    local viewer, object = i % 199, (i * 7) % 50
    ready[i] = wrk.format("GET", "/live/x/" .. object .. wrk.path:sub(8), {
      ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) viewer/" .. viewer,
      ["Accept"] = "*/*", ["Accept-Language"] = "en-GB,en;q=0.9", ["Referer"] = "http://127.0.0.1/watch/x",
      ["Sec-Fetch-Dest"] = "empty", ["Sec-Fetch-Mode"] = "cors", ["Sec-Fetch-Site"] = "same-origin",
    })
  end
end
request = function() n = (n + 1) % 9950; return ready[n] end
""",
    "distinct": """
local n = 0
request = function()
  n = n + 1
  return wrk.format("GET", nil, {["User-Agent"] = "viewer " .. n})
end
""",
}
CONNECTIONS = 64


@dataclass
class Result:
    mode: str
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


async def measure(target: Target, mode: str, name: str, seconds: int, folder: Path) -> Result:
    base = f"https://127.0.0.1:{target.tls_port}" if mode in ("tls", "h2") else f"http://127.0.0.1:{target.port}"
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s"]
    if mode == "h2":
        command = ["h2load", "-t1", "-c8", "-m8", "-D", f"{seconds}"]
    elif mode in SCRIPTS:
        script = folder / f"{mode}.lua"
        script.write_text(SCRIPTS[mode])
        command += ["-s", str(script)]
    before = cpu_s(target.pids)
    process = await asyncio.create_subprocess_exec(
        *command, f"{base}/live/x/{name}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    text = (await process.communicate())[0].decode()
    used = cpu_s(target.pids) - before
    if mode == "h2":
        match = re.search(r"finished in (?P<took>[\d.]+)s(?s:.*?)(?P<count>\d+) succeeded, 0 failed", text)
    else:
        match = re.search(r"(?P<count>\d+) requests in (?P<took>[\d.]+)s", text)
    assert match is not None, text
    assert "Non-2xx" not in text, text
    assert "Socket errors" not in text, text
    count, took = int(match["count"]), float(match["took"])
    return Result(mode, target.name, name, count / took, count / used, count * OBJECTS[name] / used, used / took)


async def run(modes: list[str], seconds: int, rounds: int, say: Callable[[str], None]) -> list[Result]:
    results: list[Result] = []
    server, upstream = await origin()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        certificate(folder)
        async with contextlib.AsyncExitStack() as stack:
            targets = [await stack.enter_async_context(make(upstream, folder, OPTIONS)) for make in makers()]
            cases = [
                (mode, item, target)
                for mode in modes
                for item in MODES[mode]
                for target in targets
                if target.tls_port or mode not in ("tls", "h2")
            ]
            for mode, item, target in cases:
                await measure(target, mode, item, 1, folder)
            for _ in range(rounds):
                for mode, item, target in cases:
                    results.append(await measure(target, mode, item, seconds, folder))
                    found = results[-1].requests_per_cpu_s
                    say(f"  {mode:9} {item:9} {target.name:9} {found:10.0f} requests/CPU s")
    server.close()
    return results


def table(results: list[Result]) -> list[dict[str, object]]:
    """Medians, spreads and ratios, one row per mode, object and server."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for result in results:
        values.setdefault((result.mode, result.object, result.server), []).append(result.requests_per_cpu_s)
    rows: list[dict[str, object]] = []
    for (mode, item, server), found in values.items():
        median = statistics.median(found)
        base = statistics.median(values[mode, item, "headrace"])
        rows.append(
            {
                "mode": mode,
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
    last: tuple[object, object] = (rows[0]["mode"], rows[0]["object"])
    for row in rows:
        y += 14 if last != (row["mode"], row["object"]) else 0
        last = (row["mode"], row["object"])
        share = 1 / float(str(row["headrace_is_times"]))
        width = 300 * share
        server = str(row["server"])
        label = f"{row['mode']} · {row['object']} · {server}: {row['requests_per_cpu_s']}/CPU s"
        parts.append(f'<rect x="10" y="{y}" width="{width:.0f}" height="16" fill="{colours[server]}"/>')
        parts.append(f'<text x="{width + 16:.0f}" y="{y + 13}">{label}</text>')
        y += 22
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{y}" font-family="sans-serif" font-size="12">'
    title = '<text x="10" y="18" font-weight="bold">Requests per CPU second, from the cache, one worker each</text>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', title, *parts, "</svg>\n"])


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    modes = [mode for mode in options.modes.split(",") if mode in MODES]
    for program, package in (("wrk", "wrk"), ("h2load", "nghttp2-client"), ("openssl", "openssl")):
        if not shutil.which(program):
            sys.exit(f"{program} is missing: apt install {package}")
    results = await run(modes, options.seconds, options.rounds, lambda text: print(text, flush=True))
    rows = table(results)
    print(f"\n{'mode':10}{'object':10}{'server':10}{'req/CPU s':>11}", end="")
    print(f"{'low':>9}{'high':>9}{'MB/CPU s':>10}{'headrace is':>13}")
    for row in rows:
        print(
            f"{row['mode']:10}{row['object']:10}{row['server']:10}{row['requests_per_cpu_s']:>11}{row['low']:>9}{row['high']:>9}"
            f"{row['megabytes_per_cpu_s']:>10}{row['headrace_is_times']:>11} x"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    name = "edge" if len(modes) == len(MODES) else "edge-" + "-".join(modes)
    (options.out / f"{name}.json").write_text(json.dumps(rows, indent=2) + "\n")
    (options.out / f"{name}.svg").write_text(chart(rows))
    print(f"written: {options.out / name}.json, .svg")


if __name__ == "__main__":
    asyncio.run(main())
