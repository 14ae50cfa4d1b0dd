"""`bench/ingest.py --loss`: SRT over bad networks, beside the same encoder into a plain libsrt receiver.

Both get the same clip from an ffmpeg of their own at the same time, through relays (`tests/support/lossy_relay.py`)
with the same weather and seed, and with the same latency. A picture counts as lost where its bytes, as the clip has
them, did not come out whole: of ours at the end of the ingest, of `srt-live-transmit` from the file that it writes.
What is behind the last picture that came is left out, for ffmpeg does not wait for its last packets.

`stall_ms` stops each relay once for so long, in the middle, as a machine does whose cores are taken: it tells losses
of the road from those of a bench that starves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from ingest.ports import EndReason, PublishRequest, SrtAdmission
from ingest.settings import LimitSettings, SrtSettings
from ingest.srt.media import Media
from ingest.srt.server import SrtServer
from media.packet import Gap, Packet
from media.track import Kind

RELAY = Path(__file__).parents[2] / "tests" / "support" / "lossy_relay.py"
ROAD = {"delay_ms": 50.0, "jitter_ms": 10.0, "reorder": 0.02, "reorder_ms": 15.0}
STALL_AT_S = 12
WEATHERS = {
    "no loss": {},
    "2 %": {"loss": 0.02},
    "10 %": {"loss": 0.10},
    "5 % in bursts of 8": {"loss": 0.05, "burst": 8.0},
}


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    weathers: list[str]
    latencies_ms: list[int]
    seed: int = 1
    stall_ms: int = 0


@dataclass
class LossRow:
    """One receiver in one weather."""

    receiver: str
    weather: str
    latency_ms: int
    road_loss_percent: float
    """Of the packets towards the receiver, as the relay counted them."""
    pictures: int
    lost: int
    lost_per_minute: float


class Taken:
    """A gatekeeper and publication that keeps the bytes of whole pictures."""

    stream, id = "bench", "bench"

    def __init__(self) -> None:
        self.pictures: list[bytes] = []

    async def admit(self, request: PublishRequest) -> Taken:
        return self

    def srt_handshake(self, key: str, address: str) -> SrtAdmission:
        return SrtAdmission()

    def origin(self) -> int:
        return 0

    def write(self, item: Packet | Gap) -> None:
        if isinstance(item, Packet) and item.track.kind is Kind.VIDEO:
            self.pictures.append(item.data)

    def report(self, **values: float | str) -> None: ...

    def on_stop(self, callback: object) -> None: ...

    def on_keyframe_wanted(self, callback: object) -> None: ...

    def close(self, reason: EndReason, text: str = "") -> None: ...


def demuxed(data: bytes) -> list[bytes]:
    """The pictures in a transport stream."""
    taken = Taken()
    media = Media(taken, LimitSettings())
    media.feed(data, 0.0)
    media.flush(0.0)
    return taken.pictures


def lost(came: list[bytes], sent: list[bytes]) -> tuple[int, int]:
    """(pictures up to the last one that came, how many of those did not)."""
    place = {data: at for at, data in enumerate(sent)}
    found = {place[data] for data in came if data in place}
    count = max(found, default=-1) + 1
    return count, count - len(found)


@contextlib.asynccontextmanager
async def relay(port: int, weather: dict[str, float], plan: Plan) -> AsyncIterator[asyncio.subprocess.Process]:
    """The bad network in front of a port; `said` tells where."""
    values = ROAD | weather | {"seed": plan.seed}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(RELAY), f"--to=127.0.0.1:{port}", *options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def said(process: asyncio.subprocess.Process, command: str = "") -> dict[str, dict[str, int]]:
    assert process.stdin is not None
    assert process.stdout is not None
    if command:
        process.stdin.write(f"{command}\n".encode())
    found: dict[str, dict[str, int]] = json.loads(await process.stdout.readline())
    return found


async def send(ffmpeg: str, clip: Path, road: asyncio.subprocess.Process, latency_ms: int, plan: Plan) -> float:
    """Publish the clip once in real time; the percentage of packets that the road lost."""
    port = (await said(road))["port"]
    url = f"srt://127.0.0.1:{port}?streamid=x&latency={latency_ms * 1000}"
    # Without it ffmpeg begins with half a second at once, which no encoder does.
    steady = ("-re", "-readrate_initial_burst", "0.01")
    process = await asyncio.create_subprocess_exec(
        *(ffmpeg, "-loglevel", "error", *steady, "-i", str(clip), "-map", "0", "-c", "copy", "-f", "mpegts", url),
        stdin=subprocess.DEVNULL,
    )
    if plan.stall_ms:
        await asyncio.sleep(STALL_AT_S)
        road.send_signal(signal.SIGSTOP)
        await asyncio.sleep(plan.stall_ms / 1000)
        road.send_signal(signal.SIGCONT)
    await process.wait()
    await asyncio.sleep(1.0 + latency_ms / 1000)
    up = (await said(road, "stats"))["up"]
    return 100 * up["lost"] / max(1, up["seen"])


async def ours(ffmpeg: str, clip: Path, sent: list[bytes], name: str, latency_ms: int, plan: Plan) -> LossRow:
    taken = Taken()
    server = SrtServer(SrtSettings(host="127.0.0.1", port=0, latency_ms=latency_ms), taken)
    await server.start()
    try:
        async with relay(server.port, WEATHERS[name], plan) as road:
            percent = await send(ffmpeg, clip, road, latency_ms, plan)
    finally:
        await server.stop()
    return row("headrace", name, latency_ms, percent, lost(taken.pictures, sent), clip_s=len(sent) / 30)


async def plain(
    ffmpeg: str, clip: Path, sent: list[bytes], name: str, latency_ms: int, plan: Plan, port: int
) -> LossRow | None:
    binary = shutil.which("srt-live-transmit")
    if binary is None:
        return None
    with tempfile.TemporaryFile() as out:
        url = f"srt://127.0.0.1:{port}?mode=listener&latency={latency_ms}"
        process = await asyncio.create_subprocess_exec(
            binary, "-q", url, "file://con", stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL
        )
        try:
            async with relay(port, WEATHERS[name], plan) as road:
                percent = await send(ffmpeg, clip, road, latency_ms, plan)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
        out.seek(0)
        came = demuxed(out.read())
    return row("srt-live-transmit", name, latency_ms, percent, lost(came, sent), clip_s=len(sent) / 30)


def row(receiver: str, name: str, latency_ms: int, percent: float, found: tuple[int, int], clip_s: float) -> LossRow:
    count, missing = found
    return LossRow(receiver, name, latency_ms, round(percent, 2), count, missing, round(60 * missing / clip_s, 1))


async def run(ffmpeg: str, clip: Path, plan: Plan, ports: list[int]) -> list[dict[str, object]]:
    """Print the table as it grows; the rows."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    sent = demuxed(await asyncio.to_thread(clip.read_bytes))
    rows: list[LossRow] = []
    print(f"{'receiver':20}{'weather':22}{'latency':>8}{'road lost':>11}{'pictures':>10}{'lost':>6}{'a minute':>10}")
    for name in plan.weathers:
        for latency_ms in plan.latencies_ms:
            common = (ffmpeg, clip, sent, name, latency_ms, plan)
            both = await asyncio.gather(ours(*common), plain(*common, ports.pop()))
            for one in both:
                if one is not None:
                    rows.append(one)
                    print(
                        f"{one.receiver:20}{one.weather:22}{one.latency_ms:>5} ms{one.road_loss_percent:>9.2f} %"
                        f"{one.pictures:>10}{one.lost:>6}{one.lost_per_minute:>10.1f}",
                        flush=True,
                    )
    return [asdict(one) for one in rows]
