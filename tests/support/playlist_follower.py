"""A client of our own that looks at every version of every playlist of a presentation, and has each validated."""

from __future__ import annotations

from media.track import Kind
from packager import render
from packager.hls import lint, parse
from packager.model import Window
from packager.presentation import Presentation


class Follower:
    """Looks at every version of every playlist."""

    def __init__(self, presentation: Presentation) -> None:
        self.presentation = presentation
        self.last: dict[str, parse.MediaPlaylist] = {}
        self.version = -1
        self.violations: list[str] = []
        self.shoulds: list[str] = []
        self.seen = 0

    def look(self) -> None:
        shown = self.presentation
        if shown.version == self.version:
            return
        self.version = shown.version
        now: dict[str, parse.MediaPlaylist] = {}
        for name, window in shown.windows.items():
            full = parse.parse(render.media_playlist(shown, window, delta=False))
            delta = parse.parse(render.media_playlist(shown, window, delta=True))
            assert isinstance(full, parse.MediaPlaylist)
            assert isinstance(delta, parse.MediaPlaylist)
            if not full.segments:
                continue
            self.seen += 1
            summed = [(r.first.msn + n, r.first.start + n * r.first.duration, r.first.duration, r.first.gap, r.era)
                      for r in window.runs for n in range(r.count)]  # fmt: skip
            assert summed == [(s.msn, s.start, s.duration, s.gap, s.boundary.discontinuities) for s in window.segments]
            assert not any(r.first.parts for r in window.runs)
            found = [*lint.check(full), *lint.check(delta)]
            before = self.last.get(name)
            if before is not None:
                found += lint.follow(before, full)
                merged, more = lint.merge(delta, before)
                found += more
                if merged is not None:
                    found += lint.follow(full, merged) + lint.follow(merged, full)
            self._take(name, found)
            now[name] = self.last[name] = full
            if window.rendition.kind is Kind.VIDEO and window.segments:
                now[f"{name}/iframes"] = self._pictures(name, window)
        self._take("all", lint.compare(now))
        if shown.ready:
            listed = parse.parse(render.multivariant(shown))
            assert isinstance(listed, parse.Multivariant)
            self._take("multivariant", lint.check_multivariant(listed))

    def _pictures(self, name: str, window: Window) -> parse.MediaPlaylist:
        """The playlist of I pictures keeps the same rules."""
        key, shown = f"{name}/iframes", self.presentation
        full = parse.parse(render.iframe_playlist(shown, window))
        delta = parse.parse(render.iframe_playlist(shown, window, delta=True))
        assert isinstance(full, parse.MediaPlaylist)
        assert isinstance(delta, parse.MediaPlaylist)
        found = [*lint.check(full), *lint.check(delta)]
        before = self.last.get(key)
        if before is not None and before.segments:
            found += lint.follow(before, full)
            merged, more = lint.merge(delta, before)
            found += more
            if merged is not None:
                found += lint.follow(full, merged) + lint.follow(merged, full)
        self._take(key, found)
        self.last[key] = full
        return full

    def _take(self, name: str, found: list[lint.Violation]) -> None:
        for violation in found:
            (self.violations if violation.must else self.shoulds).append(f"{name}: {violation.rule} {violation.text}")
