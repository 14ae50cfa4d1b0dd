"""The cable is cut: packets vanish and nobody says goodbye. Over RTMP and SRT; and an SRT caller's address changes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live_server import Server, ended, running, wait_for
from playwright.sync_api import Browser
from small_source import small
from tcp_relay import TcpRelay
from watching import Viewer, chromium

pytestmark = pytest.mark.e2e

IDLE_S = 3
BEYOND_S = 1.5
"""As in test_reconnect: how much longer than the absence a viewer may stand still."""
RELAY = Path(__file__).parents[1] / "support" / "lossy_relay.py"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("headrace") / "data", limits__idle_timeout_s=str(IDLE_S)) as it:
        yield it


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as it:
        yield it


def newest(server: Server, name: str) -> dict[str, object]:
    return next((b for b in server.admin("/v1/broadcasts") if b["stream"] == name), {"state": ""})


def until(server: Server, name: str, state: str, seconds: float) -> dict[str, object]:
    wait_for(lambda: newest(server, name)["state"] == state, seconds, f"{name} is {state}")
    return newest(server, name)


def discontinuities(server: Server, name: str) -> int:
    return server.playlist(f"/live/{name}/source/media.m3u8").count("#EXT-X-DISCONTINUITY\n")


def watched_through(
    server: Server, name: str, browser: Browser, cut: Callable[[], None], back: Callable[[], None]
) -> None:
    """The publisher is cut off and comes back: one broadcast, one discontinuity, no stall beyond the absence."""
    found = until(server, name, "live", 15)
    server.wait_on_air(name)
    viewer = Viewer.open(browser, f"{server.edge}/watch/{name}")
    wait_for(viewer.plays, 20, "the picture moves")
    viewer.page.wait_for_timeout(2000)
    viewer.watch()
    cut()
    gone = time.monotonic()
    until(server, name, "interrupted", 20)
    assert server.status(f"{server.edge}/live/{name}/index.m3u8") == 200
    back()
    assert until(server, name, "live", 15)["id"] == found["id"]
    away_s = time.monotonic() - gone
    wait_for(lambda: discontinuities(server, name) == 1, 15, "segments go on behind a discontinuity")
    wait_for(viewer.plays, 15, "the viewer goes on")
    viewer.page.wait_for_timeout(1500)
    stalls = viewer.stalls()
    print(f"{name}: away {away_s:.1f} s, stood still {stalls}")
    assert sum(seconds for seconds, _ in stalls) < away_s + BEYOND_S, (away_s, stalls)
    assert viewer.restarts() == 0
    assert not viewer.missing
    viewer.page.close()


def test_rtmp_falls_silent_and_the_encoder_comes_back(impatient: Server, browser: Browser) -> None:
    server, name = impatient, "cut-rtmp"
    url = server.add(name)["urls"]["rtmp"]
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(TcpRelay(server.ports["rtmp"]))
        through = url.replace(f":{server.ports['rtmp']}/", f":{relay.port}/")
        stack.enter_context(ended(server.push(through, *small(), log="cut.log")))
        watched_through(
            server, name, browser, relay.silence, lambda: stack.enter_context(ended(server.push(url, *small())))
        )
        assert "fell silent" in server.text()


def test_rtmp_falls_silent_and_another_encoder_takes_over_at_once(impatient: Server) -> None:
    server, name = impatient, "cut-over"
    url = server.add(name)["urls"]["rtmp"]
    with TcpRelay(server.ports["rtmp"]) as relay:
        through = url.replace(f":{server.ports['rtmp']}/", f":{relay.port}/")
        with ended(server.push(through, *small(), log="over.log")):
            found = until(server, name, "live", 15)
            server.wait_on_air(name)
            relay.silence()
            with ended(server.push(url, *small())):
                wait_for(lambda: newest(server, name)["sessions"] == 2, 8, "the second encoder is let in")
                wait_for(lambda: discontinuities(server, name) == 1, 15, "its segments follow")
                assert newest(server, name)["id"] == found["id"]
                assert newest(server, name)["state"] == "live"


@contextlib.contextmanager
def weather(port: int) -> Iterator[tuple[int, Callable[[str], None]]]:
    """The SRT relay: its port, and what gives it commands."""
    process = subprocess.Popen(
        [sys.executable, str(RELAY), f"--to=127.0.0.1:{port}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    out, back = process.stdin, process.stdout

    def command(text: str) -> None:
        out.write(f"{text}\n")
        out.flush()
        back.readline()

    try:
        yield json.loads(back.readline())["port"], command
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("fault", ["cut", "rebind"])
def test_an_srt_caller_is_cut_off_or_changes_its_address(impatient: Server, browser: Browser, fault: str) -> None:
    server, name = impatient, f"srt-{fault}"
    url = server.add(name)["urls"]["srt"]
    source = (*small()[:-1], "mpegts")
    with contextlib.ExitStack() as stack:
        port, command = stack.enter_context(weather(server.ports["srt"]))
        through = url.replace(f":{server.ports['srt']}", f":{port}", 1)
        stack.enter_context(ended(server.push(through, *source, log="srt.log")))

        def back() -> None:
            command("heal")
            stack.enter_context(ended(server.push(through, *source, log="again.log")))

        watched_through(server, name, browser, lambda: command(fault), back)
