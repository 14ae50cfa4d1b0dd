"""The whole server as a user runs it: a process of its own, free ports, a temporary data folder, real clients."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from ports import free_port

T = TypeVar("T")

SECTIONS = ("rtmp", "rtmps", "srt", "edge", "origin", "api")
FFMPEG = shutil.which("ffmpeg") or "ffmpeg"


PATIENCE = 3
"""What takes a moment on a machine of its own takes several on one that is busy with more; waiting for longer costs
nothing where it comes."""


def wait_for(what: Callable[[], T | None], seconds: float, why: str) -> T:
    """Poll `what` until it answers something true; fail with `why` after `seconds`, or `PATIENCE` times as many."""
    end = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < end:
        if got := what():
            return got
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds * PATIENCE} s: {why}")


@dataclass
class Server:
    """A running `headrace serve`."""

    data: Path
    ports: dict[str, int]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.data / "server.log"

    def start(self, *arguments: str) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "control.cli", "serve", "--data", str(self.data), *arguments],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            wait_for(lambda: self.status(f"{self.api}/readyz") == 200, 30, "the server is ready")
        except BaseException as error:  # the timeout of a test, too: nobody else would end the process
            self.process.kill()
            self.process.wait()
            if isinstance(error, AssertionError):
                raise AssertionError(f"{error}\n{self.text()}") from None
            raise

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports['api']}"

    @property
    def edge(self) -> str:
        return f"http://127.0.0.1:{self.ports['edge']}"

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self) -> int:
        """SIGTERM and wait; the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(25 * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"SIGTERM did not end the server:\n{self.text()[-4000:]}") from None

    def cli(self, *arguments: str) -> Any:
        """Run `headrace ... --json` on the server's data folder and give what it answers."""
        done = subprocess.run(
            [sys.executable, "-m", "control.cli", *arguments, "--json", "--data", str(self.data)],
            env=self.environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    def add(self, name: str, **settings: Any) -> Any:
        """Make a stream by the API: what `headrace stream add NAME --json` answers, without a process."""
        return self.admin("/v1/streams", {"name": name, "settings": settings})

    def get(self, url: str, body: bytes | None = None, **headers: str) -> bytes:
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=15 * PATIENCE) as answer:
            found: bytes = answer.read()
            return found

    def status(self, url: str) -> int:
        try:
            with urllib.request.urlopen(url, timeout=10 * PATIENCE) as answer:
                code: int = answer.status
                return code
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def admin(self, path: str, send: Any = None) -> Any:
        """Ask the API as its operator, or, with something to send, tell it."""
        headers = {"Authorization": f"Bearer {(self.data / 'admin-token').read_text().strip()}"}
        if send is None:
            return json.loads(self.get(f"{self.api}{path}", **headers))
        headers["Content-Type"] = "application/json"
        return json.loads(self.get(f"{self.api}{path}", json.dumps(send).encode(), **headers))

    def playlist(self, path: str) -> str:
        """A playlist's text, empty while it is not there."""
        try:
            return self.get(f"{self.edge}{path}").decode()
        except (urllib.error.URLError, OSError):
            return ""

    def wait_on_air(self, name: str, seconds: float = 20) -> str:
        return wait_for(lambda: self.playlist(f"/live/{name}/index.m3u8"), seconds, f"{name} is on air")

    def push(self, url: str, *source: str, log: str = "push.log") -> subprocess.Popen[bytes]:
        """Start an ffmpeg that publishes to `url` from the given input and codec arguments."""
        with (self.data / log).open("wb") as out:
            return subprocess.Popen(
                [FFMPEG, "-hide_banner", "-loglevel", "warning", "-nostdin", *source, url],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def children(self) -> list[int]:
        """Every live process below the server's."""
        assert self.process is not None
        with contextlib.suppress(subprocess.CalledProcessError):
            out = subprocess.check_output(["ps", "-eo", "pid=,ppid=,stat="], text=True)
            rows = [line.split() for line in out.splitlines()]
            found, wave = [], {self.process.pid}
            while wave:
                wave = {int(p) for p, parent, stat in rows if int(parent) in wave and not stat.startswith("Z")}
                found += sorted(wave)
            return found
        return []


def new_server(data: Path, **settings: str) -> Server:
    """A server that is not started yet; `settings` such as `transcode__enabled="false"`."""
    ports = dict(zip(SECTIONS, itertools.count(free_port(len(SECTIONS))), strict=False))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE")}
    environment |= {f"HEADRACE_{s.upper()}__PORT": str(p) for s, p in ports.items()}
    environment |= {f"HEADRACE_{s.upper()}__HOST": "127.0.0.1" for s in SECTIONS}
    environment["HEADRACE_TRANSCODE__ADMISSION"] = "0"  # no measuring of the CPU beside the test
    environment |= {f"HEADRACE_{k.upper()}": v for k, v in settings.items()}
    environment["PYTHONUNBUFFERED"] = "1"
    return Server(data, ports, environment)


@contextlib.contextmanager
def running(data: Path, *arguments: str, **settings: str) -> Iterator[Server]:
    """A server for the length of the block, which may end it itself."""
    server = new_server(data, **settings)
    server.start(*arguments)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Kill the process at the end of the block, whatever happened."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def media(name: str) -> Path:
    """A real clip, or skip where the clips are not beside the checkout."""
    path = Path(__file__).parents[3] / "shared" / "media" / name
    if not path.exists():
        pytest.skip(f"{name} is not beside the checkout")
    return path
