"""The way in: N publishers of one clip over RTMP and SRT. CPU, memory and loss per publisher, beside other servers.

    python bench/ingest.py [--publishers 1 10] [--protocols rtmp srt] [--seconds 15] [--clip FILE] [--bitrate 6M]
                           [--others] [--out FOLDER]
    python bench/ingest.py --loss [--latency 200 500] [--seconds 30] [--bitrate 3M]      SRT over bad networks
                           [--weathers "2 %"] [--seed 1] [--stall 300]

Ours is a real `headrace serve` with transcoding off: what is received is packaged as CMAF for HLS and DASH. "core" is
the process in which ingest and packaging run; its idle CPU, measured before the first publisher, is taken off.
Publishers are ffmpeg processes that send the clip round and round with `-c copy`; they share the machine's cores. From
`MANY` over RTMP on, one process (`support/ingest_sender.py`) sends to all.
"pictures" is the part of the clip's pictures that the broadcast's health counted over the same seconds.

`--others` runs the same publishers against nginx with its RTMP module (received only, and again with its HLS on, which
is MPEG-TS segments) and against `srt-live-transmit` (a process for each publisher, received and thrown away), where
they are found on the PATH.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if sys.path[0] == str(Path(__file__).resolve().parent):
    sys.path[0] += "/support"  # in this folder itself, ingest.py is not the package of its name

import imageio_ffmpeg
from arguments import file
from processes import children, cpu_s, free_port

SETTLE_S = 5.0
"""Until every publisher is on air and the first segments are made."""
FRAME_RATE = 30
MANY = 20
"""Publishers over RTMP that an ffmpeg each would leave no machine for."""
NGINX_MODULES = ("/usr/lib/nginx/modules/ngx_rtmp_module.so", "/usr/lib64/nginx/modules/ngx_rtmp_module.so")


@dataclass
class Row:
    """One run."""

    server: str
    protocol: str
    publishers: int
    cpu_percent: float
    """Of one core, for each publisher."""
    memory_mb: float
    """Of all its processes, for each publisher, over what they took before the first."""
    pictures_percent: float | None = None
    dropped_packets: float | None = None
    """SRT: given up by libsrt, over all publishers and seconds."""


def memory_mb(pids: list[int]) -> float:
    """Proportional set size: shared pages counted once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def make_clip(ffmpeg: str, folder: Path, bitrate: str, seconds: float = 10) -> Path:
    """720p30 with noise, so that the bitrate is filled, and AAC."""
    path = folder / "clip.ts"
    video = f"testsrc2=size=1280x720:rate={FRAME_RATE},noise=alls=20:allf=t"
    rate = ("-b:v", bitrate, "-minrate", bitrate, "-maxrate", bitrate, "-bufsize", bitrate)
    subprocess.run(
        [
            *(ffmpeg, "-loglevel", "error", "-f", "lavfi", "-i", video, "-f", "lavfi", "-i", "sine=frequency=440"),
            *("-t", str(seconds), "-c:v", "libx264", "-preset", "ultrafast", "-g", str(2 * FRAME_RATE), *rate),
            *("-pix_fmt", "yuv420p", "-c:a", "aac", "-ar", "48000", "-b:a", "128k", path),
        ],
        check=True,
    )
    return path


@contextlib.asynccontextmanager
async def running(*arguments: str, output: Path | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that is ended with the block."""
    with output.open("wb") if output else contextlib.nullcontext(subprocess.DEVNULL) as out:
        process = await asyncio.create_subprocess_exec(
            *arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), 15)
                except TimeoutError:
                    process.kill()
                    await process.wait()


@contextlib.asynccontextmanager
async def publishing(ffmpeg: str, clip: Path, urls: list[str]) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """One ffmpeg for each URL."""
    async with contextlib.AsyncExitStack() as stack:
        processes = []
        if len(urls) >= MANY and urls[0].startswith("rtmp"):
            flv = clip.with_suffix(".flv")
            copy = ("-y", "-loglevel", "error", "-i", str(clip), "-c", "copy", str(flv))
            async with running(ffmpeg, *copy) as made:
                await made.wait()
            sender = (sys.executable, str(Path(__file__).with_name("support") / "ingest_sender.py"), str(flv), *urls)
            processes.append(await stack.enter_async_context(running(*sender, output=clip.with_suffix(".log"))))
            urls = []
        for url in urls:
            form = "mpegts" if url.startswith("srt") else "flv"
            loop = ("-loglevel", "error", "-re", "-stream_loop", "-1", "-i", str(clip))
            process = await stack.enter_async_context(running(ffmpeg, *loop, "-c", "copy", "-f", form, url))
            processes.append(process)
        yield processes
        if gone := sum(process.returncode is not None for process in processes):
            raise RuntimeError(f"{gone} of {len(processes)} publishers ended during the run")


async def measure(
    pids: Callable[[], list[int]], ffmpeg: str, clip: Path, urls: list[str], seconds: float, idle_s: float = 3.0
) -> tuple[float, float]:
    """(CPU in percent of a core, MB), each for one publisher and over the idle server."""
    at, began = cpu_s(pids()), time.monotonic()
    await asyncio.sleep(idle_s)
    idle = (cpu_s(pids()) - at) / (time.monotonic() - began)
    before = memory_mb(pids())
    async with publishing(ffmpeg, clip, urls):
        await asyncio.sleep(SETTLE_S)
        at, began = cpu_s(pids()), time.monotonic()
        await asyncio.sleep(seconds)
        busy = (cpu_s(pids()) - at) / (time.monotonic() - began)
        after = memory_mb(pids())
    return 100 * (busy - idle) / len(urls), (after - before) / len(urls)


class Headrace:
    """`headrace serve` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = shutil.which("headrace") or str(Path(sys.executable).with_name("headrace"))
        self.ports = {name: free_port() for name in ("rtmp", "rtmps", "edge", "origin", "api")}
        self.ports["srt"] = free_port(socket.SOCK_DGRAM)

    def arguments(self) -> list[str]:
        flags = [f"--set={name}.port={port}" for name, port in self.ports.items()]
        limits = ["--set=limits.max_publishers_per_address=1000", "--set=limits.max_connections_per_address=1000"]
        quiet = ["--set=transcode.enabled=false", "--set=transcode.warm_spare=false", "--set=log.level=warning"]
        return [self.command, "serve", "--data", str(self.folder), *flags, *limits, *quiet]

    async def ready(self) -> None:
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(self._open, "/readyz")
                    return
                await asyncio.sleep(0.1)

    def _open(self, path: str, token: str = "", body: dict[str, Any] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = json.dumps(body).encode() if body is not None else None
        if data is not None:
            headers["Content-Type"] = "application/json"
        url = f"http://127.0.0.1:{self.ports['api']}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    async def call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        token = (self.folder / "admin-token").read_text().strip()
        return await asyncio.to_thread(self._open, path, token, body)

    async def url(self, protocol: str, name: str) -> str:
        made = await self.call("/v1/streams", {"name": name})
        key = made["key"]
        if protocol == "rtmp":
            return f"rtmp://127.0.0.1:{self.ports['rtmp']}/live/{key}"
        return f"srt://127.0.0.1:{self.ports['srt']}?streamid={key}"

    async def pictures(self, seconds: float) -> tuple[float, float]:
        """(percent of the clip's pictures that came, SRT packets given up) over the last `seconds`, of all on air."""
        rates: list[float] = []
        dropped = 0.0
        for found in await self.call("/v1/broadcasts"):
            if found.get("ended") is None:
                history = (await self.call(f"/v1/broadcasts/{found['id']}"))["history"][-int(seconds) :]
                rates += [sample["frame_rate"] for sample in history]
                dropped += sum(float(sample["protocol"].get("dropped_packets", 0)) for sample in history)
        return 100 * sum(rates) / (len(rates) * FRAME_RATE) if rates else 0.0, dropped


async def ours(protocol: str, count: int, ffmpeg: str, clip: Path, seconds: float) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        server = Headrace(Path(folder) / "data")
        async with running(*server.arguments(), output=Path(folder) / "log") as process:
            await server.ready()
            urls = [await server.url(protocol, f"bench-{number}") for number in range(count)]
            seen: list[tuple[float, float]] = []

            def pids() -> list[int]:
                return [process.pid]

            async def look() -> None:
                await asyncio.sleep(3.0 + SETTLE_S + seconds - 0.5)
                seen.append(await server.pictures(seconds - 2))

            looking = asyncio.create_task(look())
            try:
                cpu, memory = await measure(pids, ffmpeg, clip, urls, seconds)
                await looking
            except BaseException:
                print((Path(folder) / "log").read_text(errors="replace")[:40000], file=sys.stderr)
                raise
            return Row("headrace", protocol, count, cpu, memory, *seen[0])


def configure_nginx(folder: Path, module: str, port: int, hls: bool) -> Path:
    packaging = f"hls on; hls_path {folder}/hls; hls_fragment 2s;" if hls else ""
    (folder / "hls").mkdir()
    path = folder / "nginx.conf"
    path.write_text(
        f"load_module {module}; daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/log;"
        f"{'user root;' if os.geteuid() == 0 else ''} events {{ worker_connections 1024; }}"
        f"rtmp {{ server {{ listen 127.0.0.1:{port}; application live {{ live on; {packaging} }} }} }}"
    )
    return path


async def nginx(hls: bool, count: int, ffmpeg: str, clip: Path, seconds: float) -> Row | None:
    binary = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    module = next((name for name in NGINX_MODULES if os.access(name, os.R_OK)), None)
    if binary is None or module is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        configuration = configure_nginx(Path(folder), module, port, hls)
        async with running(binary, "-e", f"{folder}/log", "-p", folder, "-c", str(configuration)) as process:
            await asyncio.sleep(1)
            pids = children(process.pid)
            urls = [f"rtmp://127.0.0.1:{port}/live/s{number}" for number in range(count)]
            cpu, memory = await measure(lambda: pids, ffmpeg, clip, urls, seconds)
            return Row("nginx-rtmp with HLS" if hls else "nginx-rtmp", "rtmp", count, cpu, memory)


async def live_transmit(count: int, ffmpeg: str, clip: Path, seconds: float) -> Row | None:
    binary = shutil.which("srt-live-transmit")
    if binary is None:
        return None
    async with contextlib.AsyncExitStack() as stack:
        pids, urls = [], []
        for _ in range(count):
            port = free_port(socket.SOCK_DGRAM)
            source = f"srt://127.0.0.1:{port}?mode=listener&latency=200"
            process = await stack.enter_async_context(running(binary, "-q", source, "file://con"))
            pids.append(process.pid)
            urls.append(f"srt://127.0.0.1:{port}")
        await asyncio.sleep(1)
        cpu, memory = await measure(lambda: pids, ffmpeg, clip, urls, seconds)
        return Row("srt-live-transmit", "srt", count, cpu, memory)


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--publishers", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--protocols", nargs="+", choices=["rtmp", "srt"], default=["rtmp", "srt"])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--clip", type=file, help=f"a file with video of {FRAME_RATE} pictures per second")
    parser.add_argument("--bitrate", default="6M")
    parser.add_argument("--ffmpeg", default=imageio_ffmpeg.get_ffmpeg_exe())
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--loss", action="store_true", help="pictures lost over SRT on bad networks")
    parser.add_argument("--latency", type=int, nargs="+", default=[200, 500], metavar="MS", help="of SRT, with --loss")
    parser.add_argument("--weathers", nargs="+", help="which of the table's, with --loss; all of them by default")
    parser.add_argument("--seed", type=int, default=1, help="of the road's losses, with --loss")
    parser.add_argument("--stall", type=int, default=0, metavar="MS", help="stop the road for so long, with --loss")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.loss:
        await loss(arguments)
        return
    rows: list[Row] = []

    def show(row: Row | None) -> None:
        if row is None:
            return
        rows.append(row)
        more = "" if row.pictures_percent is None else f"{row.pictures_percent:10.2f}{row.dropped_packets:9.0f}"
        print(
            f"{row.server:22}{row.protocol:6}{row.publishers:4}{row.cpu_percent:10.2f}{row.memory_mb:9.1f}{more}",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as folder:
        clip = arguments.clip or make_clip(arguments.ffmpeg, Path(folder), arguments.bitrate)
        print(f"{'server':22}{'over':6}{'n':>4}{'% core':>10}{'MB':>9}{'pictures%':>10}{'dropped':>9}   each publisher")
        for count in arguments.publishers:
            common = (count, arguments.ffmpeg, clip, arguments.seconds)
            for protocol in arguments.protocols:
                show(await ours(protocol, *common))
                if arguments.others and protocol == "rtmp":
                    show(await nginx(False, *common))
                    show(await nginx(True, *common))
                if arguments.others and protocol == "srt":
                    show(await live_transmit(*common))
    write(arguments.out, "ingest.json", [asdict(row) for row in rows])


def write(folder: Path | None, name: str, rows: list[dict[str, Any]]) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(rows, indent=1) + "\n")


async def loss(arguments: argparse.Namespace) -> None:
    """`--loss`."""
    import ingest_loss

    with tempfile.TemporaryDirectory() as folder:
        clip = arguments.clip or make_clip(arguments.ffmpeg, Path(folder), arguments.bitrate, arguments.seconds)
        weathers = arguments.weathers or list(ingest_loss.WEATHERS)
        plan = ingest_loss.Plan(weathers, arguments.latency, arguments.seed, arguments.stall)
        ports = [free_port(socket.SOCK_DGRAM) for _ in range(len(weathers) * len(arguments.latency))]
        write(arguments.out, "ingest_loss.json", await ingest_loss.run(arguments.ffmpeg, clip, plan, ports))


if __name__ == "__main__":
    asyncio.run(main())
