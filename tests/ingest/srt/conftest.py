"""Real callers (ffmpeg, srt-live-transmit) and a gatekeeper that remembers, for the SRT tests."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import pytest
from recorder import Recorder

from ingest.ports import PublishRequest, SrtAdmission
from ingest.settings import LimitSettings, SrtSettings
from ingest.srt.library import Library, Option, SrtUnavailable, load, pack_address
from ingest.srt.reject import Reject
from ingest.srt.server import SrtServer
from media.errors import Refused

RELAY = Path(__file__).parents[2] / "support" / "lossy_relay.py"


class Gatekeeper:
    """Knows `keys` (key -> passphrase). What it admits is in `publications`, by key."""

    def __init__(self) -> None:
        self.keys = {"open": "", "locked": "correct horse"} | {f"key{n}": "" for n in range(10)}
        self.publications: dict[str, list[Recorder]] = defaultdict(list)
        self.asked: list[tuple[str, str]] = []
        self.refuse = False
        self.broken = False
        self._news = asyncio.Event()

    async def admit(self, request: PublishRequest) -> Recorder:
        if self.refuse:
            raise Refused("not now")
        recorder = Recorder(request, request.key)
        self.publications[request.key].append(recorder)
        self._news.set()
        return recorder

    def srt_handshake(self, key: str, address: str) -> SrtAdmission:
        self.asked.append((key, address))
        if self.broken:
            raise RuntimeError("a bug")
        passphrase = self.keys.get(key)
        return SrtAdmission(reject=Reject.UNAUTHORIZED) if passphrase is None else SrtAdmission(passphrase=passphrase)

    async def publication(self, key: str, number: int = 0) -> Recorder:
        async with asyncio.timeout(60):
            while len(self.publications[key]) <= number:
                self._news.clear()
                await self._news.wait()
        return self.publications[key][number]


@dataclass
class Caller:
    """A program that publishes."""

    process: asyncio.subprocess.Process

    async def end(self, timeout_s: float = 30) -> tuple[int, str]:
        """(exit status, all it said)."""
        async with asyncio.timeout(timeout_s):
            out, _ = await self.process.communicate()
        return self.process.returncode or 0, out.decode(errors="replace")


Run = Callable[..., Awaitable[Caller]]


@pytest.fixture(scope="session")
def libsrt() -> Library:
    try:
        return load()
    except SrtUnavailable as error:
        pytest.skip(error.text)


@pytest.fixture
def gatekeeper() -> Iterator[Gatekeeper]:
    return Gatekeeper()


@pytest.fixture
async def server(libsrt: Library, gatekeeper: Gatekeeper) -> AsyncIterator[SrtServer]:
    """With a latency at which a machine that is busy elsewhere for most of a second loses nothing."""
    server = SrtServer(SrtSettings(host="127.0.0.1", port=0, latency_ms=1000), gatekeeper, LimitSettings())
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    """Start a program; whatever still runs at the end of the test is killed."""
    started: list[asyncio.subprocess.Process] = []

    async def start(*arguments: str, stdin: int = asyncio.subprocess.DEVNULL) -> Caller:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        started.append(process)
        return Caller(process)

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a shell's children too
        await process.communicate()


@pytest.fixture(params=["debian", "imageio"])
def any_ffmpeg(request: pytest.FixtureRequest) -> str:
    """Each ffmpeg with SRT that is here: the distribution's, and the newest."""
    found = shutil.which("ffmpeg") if request.param == "debian" else imageio_ffmpeg.get_ffmpeg_exe()
    if not found:
        pytest.skip("no ffmpeg on the PATH")
    return found


@pytest.fixture
async def recorder() -> Recorder:
    return Recorder(PublishRequest("srt", "open", "", 0), "s")


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    return imageio_ffmpeg.get_ffmpeg_exe()


class Peer:
    """A caller in this process, over libsrt itself: it knows the reason of a refusal as a number."""

    def __init__(self, lib: ctypes.CDLL) -> None:
        self._lib = lib
        self._opened: list[int] = []

    async def dial(self, port: int, streamid: str, passphrase: str = "", packet_filter: str = "") -> tuple[int, int]:
        """(0, socket), or (the reason: a `SRT_REJECT_REASON` or an access-control code, -1)."""
        return await asyncio.to_thread(self._dial, port, streamid, passphrase, packet_filter)

    def _dial(self, port: int, streamid: str, passphrase: str, packet_filter: str) -> tuple[int, int]:
        lib = self._lib
        sock = lib.srt_create_socket()
        self._opened.append(sock)
        options = {Option.STREAMID: streamid, Option.PASSPHRASE: passphrase, Option.PACKETFILTER: packet_filter}
        for option, text in options.items():
            if text:
                assert lib.srt_setsockflag(sock, option, text.encode(), len(text.encode())) == 0
        address = pack_address("127.0.0.1", port)
        if lib.srt_connect(sock, address, len(address)) == 0:
            return 0, sock
        return int(lib.srt_getrejectreason(sock)) or -1, -1

    async def send(self, sock: int, messages: list[bytes], pace_s: float = 0.0) -> int:
        """Send until all is sent or the other side has closed: how many messages went."""
        return await asyncio.to_thread(self.send_now, sock, messages, pace_s)

    def send_now(self, sock: int, messages: list[bytes], pace_s: float = 0.0) -> int:
        for number, message in enumerate(messages):
            if self._lib.srt_sendmsg(sock, message, len(message), -1, 1) < 0:
                return number
            time.sleep(pace_s)
        return len(messages)

    def filter(self, sock: int) -> str:
        """The packet filter that the two sides agreed on."""
        room, size = ctypes.create_string_buffer(512), ctypes.c_int(512)
        assert self._lib.srt_getsockflag(sock, Option.PACKETFILTER, room, ctypes.byref(size)) == 0
        return room.raw[: size.value].decode()

    async def close(self, *socks: int) -> None:
        for sock in socks or self._opened:
            await asyncio.to_thread(self._lib.srt_close, sock)


@pytest.fixture
async def peer(libsrt: Library) -> AsyncIterator[Peer]:
    lib = ctypes.CDLL(libsrt.name)
    lib.srt_startup()
    lib.srt_setloglevel(2)
    peer = Peer(lib)
    yield peer
    await peer.close()
    await asyncio.to_thread(lib.srt_cleanup)


@pytest.fixture
def relay(run: Run) -> Callable[..., Awaitable[Relay]]:
    async def start(port: int, **weather: float) -> Relay:
        options = [f"--{name.replace('_', '-')}={value}" for name, value in weather.items()]
        caller = await run(
            sys.executable, str(RELAY), f"--to=127.0.0.1:{port}", *options, stdin=asyncio.subprocess.PIPE
        )
        relay = Relay(caller.process)
        relay.port = (await relay.hear())["port"]
        return relay

    return start


class Relay:
    """`tests/support/lossy_relay.py` as a process."""

    port = 0

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def hear(self) -> dict[str, object]:
        assert self._process.stdout is not None
        return json.loads(await self._process.stdout.readline())

    async def ask(self, command: str) -> dict[str, object]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        return await self.hear()
