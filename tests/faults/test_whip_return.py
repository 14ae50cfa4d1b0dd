"""A browser that publishes is lost and returns: the same broadcast goes on, behind one discontinuity."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest
from browser_camera import SWITCHES, camera
from hls_reader import Recording, update, variants
from live_server import Server, running, wait_for
from playwright.sync_api import Browser, Error, Page
from watching import chromium
from whip_road import road

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def whip_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that gives a silent session up soon."""
    data = tmp_path_factory.mktemp("headrace") / "data"
    settings = {"transcode__ladder": "none", "whip__addresses": '["127.0.0.1"]', "whip__session_timeout_s": "3"}
    with running(data, **settings) as it:
        yield it


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(SWITCHES) as it:
        yield it


def go_live(server: Server, page: Page, key: str) -> None:
    page.add_init_script(camera(320, 180))
    page.goto(f"{server.api}/publish")
    page.wait_for_selector("#hint", state="hidden")
    page.fill("#key", key)
    page.click("#go")
    page.wait_for_selector("#state[data-state=live]", timeout=30_000)


def broadcast(server: Server, name: str) -> dict[str, object]:
    return next((b for b in server.admin("/v1/broadcasts") if b["stream"] == name), {"state": ""})


class Watching:
    """What a viewer gets of each rendition, from the first segment on."""

    def __init__(self, server: Server, name: str) -> None:
        self._server, self._base = server, f"{server.edge}/live/{name}/"
        path = f"/live/{name}/index.m3u8"
        text = wait_for(lambda: "TYPE=AUDIO" in (t := server.playlist(path)) and t, 30, "picture and sound are on air")
        video, audio = variants(str(text))
        self.of = {rendition.uri: Recording() for rendition in (*video, *audio)}

    def segments(self) -> int:
        """Read what is new; how many segments the shortest rendition has by now."""
        for uri, recording in self.of.items():
            update(recording, self._server, self._base + uri)
        return min(len(recording.segments) for recording in self.of.values())

    def goes_on(self) -> None:
        count = self.segments()
        wait_for(lambda: self.segments() >= count + 2, 30, "segments go on")

    def assert_one_broadcast(self) -> None:
        for uri, recording in self.of.items():
            numbers = sorted({*recording.segments, *recording.gaps})  # a busy browser leaves holes
            assert numbers == list(range(numbers[0], numbers[-1] + 1)), uri
            assert len(recording.discontinuities) >= 1, uri
            assert not recording.ended, uri
        assert len({tuple(sorted(recording.discontinuities)) for recording in self.of.values()}) == 1


def test_a_tab_that_crashed_and_another_that_goes_on(whip_server: Server, browser: Browser) -> None:
    server, name = whip_server, "crash"
    key = server.add(name)["key"]
    first, second = browser.new_page(), browser.new_page()
    go_live(server, first, key)
    watching = Watching(server, name)
    watching.goes_on()
    found = broadcast(server, name)
    with contextlib.suppress(Error):  # nobody is left to answer
        first.goto("chrome://crash")
    wait_for(lambda: broadcast(server, name)["state"] == "interrupted", 20, "the loss is seen")
    go_live(server, second, key)
    wait_for(lambda: broadcast(server, name)["state"] == "live", 10, "the publisher is back")
    watching.goes_on()
    now = broadcast(server, name)
    assert (now["id"], now["sessions"]) == (found["id"], 2)
    watching.assert_one_broadcast()
    second.click("#go")
    second.wait_for_selector("#state[data-state=idle]")
    second.close()


def test_a_network_that_comes_back_after_the_session_was_given_up(whip_server: Server, browser: Browser) -> None:
    server, name = whip_server, "cut"
    key = server.add(name)["key"]
    page = browser.new_page()
    with road(page) as way:
        go_live(server, page, key)
        watching = Watching(server, name)
        watching.goes_on()
        found = broadcast(server, name)
        way.ask("cut")  # the relays of a new session are whole
        wait_for(lambda: broadcast(server, name)["state"] == "interrupted", 20, "the loss is seen")
        # Waited for in the page: only then are its requests passed on.
        page.wait_for_selector("#state[data-state=busy]", timeout=20_000)
        page.wait_for_selector("#state[data-state=live]", timeout=40_000)
        wait_for(lambda: broadcast(server, name)["state"] == "live", 10, "the publisher is back")
        watching.goes_on()
        now = broadcast(server, name)
        assert (now["id"], now["sessions"]) == (found["id"], 2)
        watching.assert_one_broadcast()
        server.cli("key", "revoke", server.cli("key", "list", name)[0]["key_id"])
        page.wait_for_selector("#state[data-state=idle]", timeout=30_000)
        # Where the server's goodbye got lost, the page has tried once more and was refused.
        assert re.search("has ended the stream|does not accept this stream key", page.inner_text("#error"))
    page.close()
