"""The encoder dies and comes back: viewers stay. Stalls are measured against the time that nothing was published."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest
from hls_reader import variants
from live_server import Server, ended, wait_for
from playwright.sync_api import Browser
from small_source import small
from watching import Viewer, chromium

pytestmark = pytest.mark.e2e

BEYOND_S = 6
"""How much longer than the publisher's absence a viewer may stand still: parts and manifest reloads take about 1.5 s
(a second in DASH); the rest is room for a machine that is busy with other tests."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as it:
        yield it


@dataclass
class Poller:
    """Asks for the playlists five times a second, as those do who are not blocked; keeps what it saw."""

    server: Server
    name: str
    uris: list[str]
    statuses: set[int] = field(default_factory=set)
    first: dict[str, list[int]] = field(default_factory=dict)
    """EXT-X-MEDIA-SEQUENCE of each version."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Poller:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            for uri in ("index.m3u8", "manifest.mpd", *self.uris):
                url = f"{self.server.edge}/live/{self.name}/{uri}"
                self.statuses.add(self.server.status(url))
                if "media" in uri:
                    self.first.setdefault(uri, []).append(layout(self.server, self.name, uri)[0])


def layout(server: Server, name: str, uri: str) -> tuple[int, int, list[int], int, list[int]]:
    """(media sequence, discontinuity sequence, numbers behind a discontinuity, last number, gaps) of a playlist."""
    msn = first = sequence = 0
    marked: list[int] = []
    gaps: list[int] = []
    for line in server.playlist(f"/live/{name}/{uri}").splitlines():
        if line.startswith("#EXT-X-MEDIA-SEQUENCE:"):
            msn = first = int(line.partition(":")[2])
        elif line.startswith("#EXT-X-DISCONTINUITY-SEQUENCE:"):
            sequence = int(line.partition(":")[2])
        elif line == "#EXT-X-DISCONTINUITY":
            marked.append(msn)
        elif line == "#EXT-X-GAP":
            gaps.append(msn)
        elif line and not line.startswith("#"):
            msn += 1
    return first, sequence, marked, msn - 1, gaps


def state(server: Server, name: str) -> str:
    """What the stream's newest broadcast is doing."""
    return next((str(b["state"]) for b in server.admin("/v1/broadcasts") if b["stream"] == name), "")


def has_passed(server: Server, name: str, uri: str, msn: int) -> bool:
    """Whether a playlist lists a number higher than `msn`."""
    return layout(server, name, uri)[3] > msn


def test_publisher_killed_comes_back_and_hls_js_and_dash_js_play_on(shared_server: Server, browser: Browser) -> None:
    server, name = shared_server, "back"
    url = server.add(name)["urls"]["rtmp"]
    with contextlib.ExitStack() as stack:
        publisher = stack.enter_context(ended(server.push(url, *small())))
        video, audio = variants(server.wait_on_air(name))
        uris = sorted({v.uri for v in video} | {a.uri for a in audio})
        viewers = [Viewer.open(browser, f"{server.edge}/watch/{name}{q}") for q in ("", "?dash=1")]
        for viewer in viewers:
            wait_for(viewer.plays, 20, "the picture moves")
        viewers[0].page.wait_for_timeout(3000)
        poller = stack.enter_context(Poller(server, name, uris))
        for count, source in enumerate((small(), small("426x240", 30)), start=1):
            beyond = layout(server, name, uris[0])[3] + 1
            for viewer in viewers:
                viewer.watch()
                if count == 1:
                    viewer.missing.clear()  # one of the edge's workers may have kept a 404 for a second
            publisher.kill()
            gone = time.monotonic()
            wait_for(lambda: state(server, name) == "interrupted", 5, "the loss is seen")
            viewers[0].page.wait_for_timeout(3000)
            publisher = stack.enter_context(ended(server.push(url, *source)))
            wait_for(lambda: state(server, name) == "live", 10, "the publisher is back")
            away = time.monotonic() - gone
            wait_for(partial(has_passed, server, name, uris[0], beyond), 15, "segments go on")
            for viewer in viewers:
                wait_for(viewer.plays, 15, f"{viewer.page.url} goes on: {viewer.stalls()}")
            viewers[0].page.wait_for_timeout(2500)
            for viewer in viewers:
                stalls = viewer.stalls()
                print(viewer.page.url, f"away {away:.1f} s, stood still {stalls}, missed {viewer.missing}")
                assert sum(s for s, _ in stalls) < away + BEYOND_S, (viewer.page.url, away, stalls)
                assert viewer.restarts() == 0
                assert not viewer.missing
            shapes = {uri: layout(server, name, uri) for uri in uris}
            marks = {tuple(shape[2]) for shape in shapes.values()}
            assert len(marks) == 1, shapes
            assert len(marks.pop()) == count, shapes
            assert {s[1] for s in shapes.values()} == {0}, shapes
            # A publisher that dies within some pictures of a cut has sent no sound for the segment that it began.
            assert all(set(s[4]) <= {mark - 1 for mark in s[2]} for s in shapes.values()), shapes
    assert poller.statuses == {200}
    for seen in poller.first.values():
        assert seen == sorted(seen)
    for viewer in viewers:
        viewer.page.close()


def test_window_over_ends_the_playlists_and_the_page_starts_again_by_itself(
    shared_server: Server, browser: Browser
) -> None:
    server, name = shared_server, "over"
    url = server.add(name, reconnect_window_s=2)["urls"]["rtmp"]
    with ended(server.push(url, *small())) as first:
        video, _ = variants(server.wait_on_air(name))
        viewer = Viewer.open(browser, f"{server.edge}/watch/{name}")
        wait_for(viewer.plays, 20, "the picture moves")
        with Poller(server, name, []) as poller:
            first.kill()
            path = f"/live/{name}/{video[0].uri}"
            wait_for(lambda: "#EXT-X-ENDLIST" in server.playlist(path), 10, "the playlist is closed")
            wait_for(lambda: 'type="static"' in server.playlist(f"/live/{name}/manifest.mpd"), 5, "a static MPD")
            wait_for(lambda: viewer.restarts() == 1, 20, "the page sees that the stream is over")
            with ended(server.push(url, *small())):
                wait_for(lambda: "#EXT-X-ENDLIST" not in server.playlist(path), 15, "a new broadcast")
                wait_for(viewer.plays, 25, "the page starts again by itself")
        assert poller.statuses == {200}
    viewer.page.close()
