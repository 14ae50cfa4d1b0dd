"""The picture, the sound and the controls, as headless Chromium gets them on the player page: hls.js and dash.js."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from captioned import captioned
from live_server import Server, ended, wait_for
from playwright.sync_api import Browser, Page
from watching import chromium

pytestmark = pytest.mark.e2e

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
    with chromium() as it:
        yield it


BOTH = pytest.mark.parametrize("query", ["", "?dash=1"], ids=["hls.js", "dash.js"])
VIDEO = "document.querySelector('video')"


@pytest.fixture(scope="module", autouse=True)
def long_stream(shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A stream with captions that can be rewound. It grows while other tests run: those that need it long come last."""
    made = shared_server.add("long", ladder=[], dvr_window_s=600)
    source = captioned(Path(tmp_path_factory.mktemp("captioned")), "HELLO THERE", seconds=400)
    with ended(shared_server.push(made["urls"]["rtmp"], *source, log="long.log")):
        yield "long"


@BOTH
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


@BOTH
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
    page.wait_for_selector("#seek")
    wait_for(lambda: page.evaluate(f"{VIDEO}.currentTime") > 1, 15, "it plays")
    page.press("#seek", "Home")
    assert page.evaluate(f"{VIDEO}.currentTime") < 1
    assert " of " in valuetext(page)
    wait_for(lambda: page.evaluate("document.querySelector('#preview-image').naturalWidth"), 15, "its first picture")
    assert not errors
    page.close()


def valuetext(page: Page) -> str:
    return page.get_attribute("#seek", "aria-valuetext") or ""


@BOTH
def test_captions_in_the_picture_are_off_until_they_are_chosen(
    shared_server: Server, browser: Browser, long_stream: str, query: str
) -> None:
    """The menu knew only those of playlists."""
    shared_server.wait_on_air(long_stream)
    page = browser.new_page()
    refused: list[str] = []
    page.on("console", lambda m: refused.append(m.text) if "Content Security Policy" in m.text else None)
    page.goto(f"{shared_server.edge}/watch/{long_stream}{query}")
    page.wait_for_selector("#captions", timeout=30_000)
    assert page.evaluate(f"{VIDEO}.textTracks[0].mode") != "showing"
    assert page.input_value("#captions") == "-1"
    page.select_option("#captions", "0")
    assert page.evaluate(f"{VIDEO}.textTracks[0].mode") == "showing"
    shown = f"Array.from({VIDEO}.textTracks[0].cues || []).map((cue) => cue.text).join()"
    wait_for(lambda: "HELLO THERE" in page.evaluate(shown), 15, "a caption")
    page.select_option("#captions", "-1")
    assert page.evaluate(f"{VIDEO}.textTracks[0].mode") != "showing"
    assert not refused
    page.close()


@BOTH
def test_viewer_rewinds_sees_where_stays_there_and_returns(
    shared_server: Server, browser: Browser, long_stream: str, query: str
) -> None:
    shared_server.wait_on_air(long_stream)
    page = browser.new_page()
    page.goto(f"{shared_server.edge}/watch/{long_stream}{query}")
    page.wait_for_selector("#seek", timeout=90_000)
    wait_for(lambda: page.evaluate("headrace.state") == "playing" and valuetext(page) == "live", 20, "it is live")
    page.focus("#seek")
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    assert "behind live" in valuetext(page)
    there = page.evaluate(f"{VIDEO}.currentTime")
    wait_for(
        lambda: page.evaluate("document.querySelector('#preview-image').naturalWidth"), 15, "a picture of the place"
    )
    # A jump to the edge would come at once: the page looks four times a second.
    wait_for(lambda: page.evaluate(f"{VIDEO}.currentTime") > there + 2, 20, "it plays from there")
    assert page.evaluate(f"{VIDEO}.currentTime") < there + 10
    assert "behind live" in valuetext(page)
    tile = page.evaluate("document.querySelector('#preview-image').src")
    segment = int(tile.rpartition("-")[2].removesuffix(".jpg"))
    assert abs(segment - page.evaluate(f"{VIDEO}.currentTime") / 2) < 2.5, "segments of 2 s, from 0"
    page.keyboard.press("End")
    wait_for(lambda: valuetext(page) == "live", 15, "at the edge by keyboard")
    page.keyboard.press("Home")
    wait_for(lambda: page.evaluate(f"{VIDEO}.currentTime") < there, 15, "at the start of the window")
    page.click("#live")
    wait_for(lambda: valuetext(page) == "live", 15, "at the edge by the button")
    page.close()


def test_a_storyboard_that_is_none_leaves_the_time(shared_server: Server, browser: Browser, long_stream: str) -> None:
    shared_server.wait_on_air(long_stream)
    page = browser.new_page()
    errors: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("request", lambda r: asked.append(r.url))
    junk = "".join(
        f"00:00:00.000 --> 99:00:00.000\n{name}\n\n"
        for name in (
            "https://other.example/a.jpg",
            "//other.example/b.jpg",
            "../c.jpg",
            "javascript:d.jpg",
            "",
            "<e>.jpg",
        )
    )
    body = f"WEBVTT\n\nNOTE zero is never\n\n{junk}1:2:3:4:5 --> x\n:::::: --> ......\nf.jpg\n"
    page.route("**/storyboard.vtt", lambda route: route.fulfill(body=body, content_type="text/vtt"))
    page.goto(f"{shared_server.edge}/watch/{long_stream}")
    page.wait_for_selector("#seek", timeout=90_000)
    page.focus("#seek")
    with page.expect_response("**/storyboard.vtt"):
        page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#preview-time:has-text('-0:')")
    page.keyboard.press("ArrowLeft")
    assert page.is_hidden("#preview-image")
    assert not [url for url in asked if url.endswith(".jpg") and "thumbnail" not in url]
    assert not errors
    page.close()
