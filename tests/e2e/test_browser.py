"""The picture and the sound, as headless Chromium gets them on the player page: hls.js and dash.js."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from live_server import Server, ended, wait_for
from playwright.sync_api import Browser, sync_playwright

pytestmark = pytest.mark.e2e

CHROMIUM = shutil.which("chromium") or ""

PIXELS = """() => {
  const v = document.querySelector('video');
  if (!v || !v.videoWidth || v.readyState < 2 || v.currentTime === 0) return null;
  const c = document.createElement('canvas'); c.width = 64; c.height = 36;
  const g = c.getContext('2d'); g.drawImage(v, 0, 0, 64, 36);
  return Array.from(g.getImageData(0, 0, 64, 36).data);
}"""

LOUDNESS = """async () => {
  const v = document.querySelector('video');
  v.muted = false; v.volume = 1;
  const a = new AudioContext(); await a.resume();
  const n = a.createAnalyser();
  a.createMediaElementSource(v).connect(n); n.connect(a.destination);
  await new Promise(r => setTimeout(r, 1500));
  const d = new Float32Array(n.fftSize); n.getFloatTimeDomainData(d);
  return Math.max(...d.map(Math.abs));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("chromium is not installed")
    with sync_playwright() as p:
        it = p.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--disable-gpu"],
        )
        yield it
        it.close()


@pytest.mark.parametrize("query", ["", "?dash=1"], ids=["hls.js", "dash.js"])
def test_browser_sees_moving_pictures_and_hears_sound(shared_server: Server, browser: Browser, query: str) -> None:
    server = shared_server
    name = "dash" if query else "hls"
    made = server.add(f"browser-{name}")
    source = (
        "-re", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=30", "-f", "lavfi", "-i", "sine=frequency=440",
        "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "60", "-b:v", "800k", "-c:a", "aac",
        "-f", "flv",
    )  # fmt: skip
    with ended(server.push(made["urls"]["rtmp"], *source)):
        server.wait_on_air(f"browser-{name}")
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto(f"{server.edge}/watch/browser-{name}{query}")
        first = wait_for(lambda: page.evaluate(PIXELS), 20, "a picture")
        assert len({tuple(first[i : i + 3]) for i in range(0, len(first), 4)}) > 10, "not a plain colour"
        page.wait_for_timeout(1000)
        second = page.evaluate(PIXELS)
        assert sum(a != b for a, b in zip(first, second, strict=True)) > 100, "the picture moves"
        assert page.evaluate(LOUDNESS) > 0.01
        wait_for(
            lambda: page.evaluate("document.querySelector('#quality').options[0].text") == "Auto (360)", 5, "label"
        )
        assert not errors
        page.close()


def test_on_a_phone_controls_fit_and_the_first_tap_only_shows_them(shared_server: Server, browser: Browser) -> None:
    server = shared_server
    made = server.add("phone")
    source = (
        "-re", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25", "-c:v", "libx264", "-preset", "ultrafast",
        "-pix_fmt", "yuv420p", "-g", "50", "-f", "flv",
    )  # fmt: skip
    with ended(server.push(made["urls"]["rtmp"], *source)):
        server.wait_on_air("phone")
        context = browser.new_context(viewport={"width": 320, "height": 640}, has_touch=True, is_mobile=True)
        page = context.new_page()
        page.goto(f"{server.edge}/watch/phone")
        page.wait_for_selector("#stage.idle", timeout=20_000)
        page.touchscreen.tap(160, 110)
        page.wait_for_selector("#stage:not(.idle)")
        assert page.evaluate("document.querySelector('#full').getBoundingClientRect().right") <= 320
        assert page.evaluate("document.documentElement.scrollWidth") == 320
        assert not page.evaluate("document.querySelector('video').paused")
        page.touchscreen.tap(160, 110)
        wait_for(lambda: page.evaluate("document.querySelector('video').paused"), 5, "the second tap pauses")
        context.close()


def test_page_waits_for_a_stream_that_is_not_live_and_starts_by_itself(shared_server: Server, browser: Browser) -> None:
    server = shared_server
    made = server.add("late")
    page = browser.new_page()
    page.goto(f"{server.edge}/watch/late")
    page.wait_for_selector("#offline-hint:has-text('look whether the name')")
    assert not page.is_visible("#bar"), "there is nothing to play yet"
    assert page.evaluate(PIXELS) is None
    source = (
        "-re", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25", "-c:v", "libx264", "-preset", "ultrafast",
        "-pix_fmt", "yuv420p", "-g", "50", "-f", "flv",
    )  # fmt: skip
    with ended(server.push(made["urls"]["rtmp"], *source)):
        wait_for(lambda: page.evaluate(PIXELS), 25, "the picture comes without a reload")
        assert page.is_visible("#bar")
    page.wait_for_selector("#notice:has-text('The broadcaster is away')", timeout=25_000)
    page.close()


@pytest.mark.parametrize("query", ["", "?dash=1"], ids=["hls.js", "dash.js"])
def test_page_stays_at_the_end_and_shows_the_recording_when_loaded_again(
    shared_server: Server, browser: Browser, query: str
) -> None:
    """By hls.js it began the recording again and again, each time at its last seconds; by dash.js it stood at zero."""
    server = shared_server
    name = "over-dash" if query else "over"
    made = server.add(name, ladder=[])
    source = (
        "-re", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25", "-c:v", "libx264", "-preset", "ultrafast",
        "-pix_fmt", "yuv420p", "-g", "50", "-f", "flv",
    )  # fmt: skip
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda e: errors.append(str(e)))
    with ended(server.push(made["urls"]["rtmp"], *source)) as encoder:
        page.goto(f"{server.edge}/watch/{name}{query}")
        wait_for(lambda: page.evaluate(PIXELS), 25, "the picture comes")
        assert page.is_visible("#live")
        encoder.terminate()
        encoder.wait()
    page.wait_for_selector("#offline-hint:has-text('what was recorded')", timeout=25_000)
    assert page.inner_text("#offline-text") == "The stream has ended"
    page.reload()
    wait_for(lambda: page.evaluate(PIXELS), 25, "the recording plays")
    assert page.is_hidden("#live")
    assert page.evaluate("headrace.latency") is None
    assert not errors
    page.close()
