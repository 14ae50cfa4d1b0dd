"""A viewer in headless Chromium on the player page, and what it lived through: every stall, with its length."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

PLAYS = ("--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--disable-gpu")
WATCH = """() => {
  const v = document.querySelector('video');
  let time = v.currentTime, at = performance.now();
  clearInterval(window.watching); window.stalls = [];
  window.watching = setInterval(() => {
    const now = performance.now();
    if (v.currentTime !== time) {
      if (now - at > 600) window.stalls.push([(now - at) / 1000, v.currentTime - time]);
      time = v.currentTime; at = now;
    }
  }, 50);
}"""


@contextmanager
def chromium(switches: Sequence[str] = PLAYS) -> Iterator[Browser]:
    """A browser for the length of the block; one that plays without being asked, if nothing else is said."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as driver, driver.chromium.launch(executable_path=path, args=[*switches]) as it:
        yield it


@dataclass
class Viewer:
    """One page. `missing`: answers of 400 and more that it got for playlists, manifests and media."""

    page: Page
    missing: list[tuple[int, str]]

    @classmethod
    def open(cls, browser: Browser, url: str) -> Viewer:
        missing: list[tuple[int, str]] = []
        page = browser.new_page()
        page.on(
            "response",
            lambda r: (
                missing.append((r.status, r.url)) if r.status >= 400 and not r.url.endswith("thumbnail.jpg") else None
            ),
        )
        page.goto(url)
        return cls(page, missing)

    def plays(self) -> bool:
        """Whether the picture moves now."""
        moving: bool = self.page.evaluate(
            """async () => {
              const v = document.querySelector('video'), t = v.currentTime;
              await new Promise(r => setTimeout(r, 400));
              return v.readyState > 2 && v.currentTime > t;
            }"""
        )
        return moving

    def watch(self) -> None:
        """Begin to note stalls; forget those before."""
        self.page.evaluate(WATCH)

    def stalls(self) -> list[list[float]]:
        """[seconds without progress, how far the place jumped at its end] of each stall that is over."""
        found: list[list[float]] = self.page.evaluate("window.stalls")
        return found

    def restarts(self) -> int:
        """How often the page had to start its engine anew; why is printed."""
        count: int = self.page.evaluate("headrace.restarts")
        if count:
            print(self.page.url, "started anew:", self.page.evaluate("headrace.lastLoss"))
        return count
