"""One media playlist as `headrace lint` follows it, like several clients at once: a low-latency one (blocking reloads,
full playlists and delta updates in turn, hinted parts, segments), one that polls, and once a few requests that must be
refused."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode, urljoin

from control.lint_report import Client, Report, http_range, with_query
from media.errors import ProtocolError
from packager.hls import lint, parse
from packager.hls.lint import Violation
from packager.hls.media_lint import Tape

FIRST_SEGMENTS = 3
"""Segments before the live edge that are looked at, too."""
QUEUED_SEGMENTS = 64
"""Segments that wait to be fetched; beyond it the oldest go unseen, counted."""
FULL_EVERY = 4
"""One low-latency reload in so many asks for the full playlist, the others for a delta."""
STILL_TARGETS = 3
"""A playlist that stands still for so many target durations is told."""


class Follower:
    """Everything that is asked of one media playlist."""

    def __init__(
        self, url: str, name: str, client: Client, report: Report, listed: Callable[[str], Awaitable[bool]]
    ) -> None:
        """`listed`: whether the multivariant playlist, as it is now, has this URL."""
        self.url = url
        self.name = name
        self.tape: Tape | None = None
        self.latest: parse.MediaPlaylist | None = None
        self.gone = False
        """It has left the multivariant playlist, and is there no more."""
        self._listed = listed
        self._client = client
        self._report = report
        self._parts: dict[str, asyncio.Task[tuple[int, bytes]]] = {}
        self._wanted: asyncio.Queue[parse.SegmentTag | None] = asyncio.Queue(QUEUED_SEGMENTS)
        self._seen_msn = self._listed_from = -1
        self._range_end = 0

    async def load(self, query: dict[str, object]) -> parse.MediaPlaylist | None:
        """One playlist, checked by itself; None where there was none."""
        status, body = await self._client.get(with_query(self.url, **query) if query else self.url)
        if status == 404 and not await self._listed(self.url):
            self.gone = True
            return None
        if status != 200:
            must = status not in (0, 503)  # a source that pauses is answered 503 (6.2.5.2)
            self._report.take(
                self.name, [Violation("6.2.5.2", f"the playlist is answered {status or 'not at all'}", must)]
            )
            return None
        self._report.playlists += 1
        try:
            found = parse.parse(body)
        except ProtocolError as error:
            self._report.take(self.name, [Violation("4", error.text)])
            return None
        if isinstance(found, parse.Multivariant):
            self._report.take(self.name, [Violation("4.4", "a multivariant playlist where a media playlist should be")])
            return None
        self._report.take(self.name, lint.check(found))
        return found

    async def follow(self) -> None:
        """All clients of this playlist, until it ends."""
        first = await self.load({})
        if first is None:
            return
        self.latest = first
        self.tape = Tape(first.target or 1)
        async with asyncio.TaskGroup() as group:
            fetcher = group.create_task(self._fetch())
            try:
                if first.ended:
                    await self._news(first, group)
                else:
                    probing = group.create_task(self._refusals(first))
                    polling = group.create_task(self._poll(first))
                    await self._reload(first, group)
                    await probing
                    await polling
                await self._wanted.put(None)
                await fetcher
            finally:
                for task in self._parts.values():
                    task.cancel()

    async def _reload(self, known: parse.MediaPlaylist, group: asyncio.TaskGroup) -> None:
        """The low-latency client; an ordinary one where the server cannot block."""
        blocks = known.control.get("CAN-BLOCK-RELOAD") == "YES"
        skips = "CAN-SKIP-UNTIL" in known.control
        await self._news(known, group)
        for turn in itertools.count(1):
            query: dict[str, object] = {}
            if blocks:
                query = dict(zip(("_HLS_msn", "_HLS_part"), _next(known), strict=False))
            else:
                await asyncio.sleep((known.target or 1) / 2)
            if skips and turn % FULL_EVERY:
                query["_HLS_skip"] = "v2" if turn % 2 else "YES"
            asked = time.monotonic()
            found = await self.load(query)
            if self.gone:
                return
            if found is None:
                await asyncio.sleep(0.5)
                continue
            if found.skipped:
                self._report.deltas += 1
                merged, violations = lint.merge(found, known)
                self._report.take(self.name, violations)
                if merged is None:
                    merged = await self.load({})
                    if merged is None:
                        continue
                found = merged
                self._report.take(f"{self.name} (merged)", lint.check(found))
            self._report.take(self.name, lint.follow(known, found))
            if blocks:
                self._block_kept(known, found, query)
                if time.monotonic() - asked < 0.005 and _edge(found) == _edge(known):
                    await asyncio.sleep(0.1)
            known = self.latest = found
            await self._news(found, group)
            if found.ended:
                return

    def _block_kept(self, known: parse.MediaPlaylist, found: parse.MediaPlaylist, query: dict[str, object]) -> None:
        msn, part = query.get("_HLS_msn"), query.get("_HLS_part")
        if found.ended or not isinstance(msn, int) or _edge(found) > _edge(known):
            return
        text = f"a blocking reload for {msn}.{part} was answered without anything new"
        self._report.take(self.name, [Violation("6.2.5.2", text)])

    async def _poll(self, known: parse.MediaPlaylist) -> None:
        """The ordinary client: the whole playlist once in a while."""
        target = known.target or 1
        moved = time.monotonic()
        while not (known.ended or self.gone):
            await asyncio.sleep(target * (1.0 if moved + target > time.monotonic() else 0.5))
            found = await self.load({})
            if found is None:
                continue
            self._report.take(f"{self.name} (polled)", lint.follow(known, found))
            if _edge(found) != _edge(known) or found.ended:
                moved = time.monotonic()
            elif time.monotonic() - moved > STILL_TARGETS * target:
                text = f"the playlist stands still for more than {STILL_TARGETS} target durations"
                self._report.take(self.name, [Violation("6.2.1", text, must=False)])
                moved = time.monotonic()
            known = found

    async def _refusals(self, known: parse.MediaPlaylist) -> None:
        """Directives that must be, or should be, refused (6.2.5.2)."""
        if known.control.get("CAN-BLOCK-RELOAD") != "YES":
            return
        far = known.segments[-1].msn + 100 if known.segments else 1000
        for query, must in (
            ({"_HLS_part": 0}, True),
            ({"_HLS_msn": "x"}, False),
            ({"_HLS_msn": -1}, False),
            ({"_HLS_msn": far}, False),
            ({"_HLS_msn": far, "_HLS_part": 0}, False),
        ):
            status, _ = await self._client.get(with_query(self.url, **query))
            if status != 400 and not (self.latest and self.latest.ended):
                text = f"{urlencode(query)} is answered {status}, not 400"
                self._report.take(self.name, [Violation("6.2.5.2", text, must)])

    async def _news(self, playlist: parse.MediaPlaylist, group: asyncio.TaskGroup) -> None:
        """Fetch what is new: parts as they are listed or hinted, segments in order."""
        if self._seen_msn < 0:
            complete = playlist.complete
            self._seen_msn = complete[-FIRST_SEGMENTS].msn - 1 if len(complete) >= FIRST_SEGMENTS else -1
            self._listed_from = playlist.segments[-1].msn if playlist.segments else 0
        for segment in playlist.segments:
            if segment.msn >= self._listed_from:
                for part in segment.parts:
                    if not part.gap:
                        self._part(part.uri, part.byterange, group, listed=True)
            if segment.uri and segment.msn > self._seen_msn:
                self._seen_msn = segment.msn
                if self._wanted.full():
                    self._wanted.get_nowait()
                    self._report.unseen_segments += 1
                self._wanted.put_nowait(segment)
        for hint in playlist.hints:
            if hint.get("TYPE") == "PART" and "BYTERANGE-START" not in hint:
                self._part(hint.get("URI", ""), "", group, listed=False)

    def _part(self, uri: str, byterange: str, group: asyncio.TaskGroup, *, listed: bool) -> None:
        if byterange:
            return
        asked = self._parts.get(uri)
        # A hinted part that did not come in time, as nothing was published meanwhile, is asked for again; so is one
        # that was taken back, should it be listed all the same.
        again = (404, 503) if listed else (503,)
        if asked is None or (asked.done() and asked.result()[0] in again):
            self._parts[uri] = group.create_task(self._client.get(urljoin(self.url, uri)))

    async def _fetch(self) -> None:
        """Segments in order, each held against its parts."""
        assert self.tape is not None
        while (segment := await self._wanted.get()) is not None:
            if segment.gap:
                continue
            if segment.map and segment.map not in self.tape.headers:
                await self._init(segment)
            wanted = ""
            if segment.byterange:
                wanted, self._range_end = http_range(segment.byterange, self._range_end)
            status, body = await self._client.get(urljoin(self.url, segment.uri), wanted)
            if status not in (200, 206):
                self._report.take(self.name, [Violation("6.2.2", f"segment {segment.msn} is answered {status}")])
                continue
            self._report.segments += 1
            parts = await self._parts_of(segment)
            self._report.take(self.name, self.tape.segment(segment, body, parts))

    async def _init(self, segment: parse.SegmentTag) -> None:
        assert self.tape is not None
        wanted = http_range(segment.map_range, 0)[0] if segment.map_range else ""
        status, body = await self._client.get(urljoin(self.url, segment.map), wanted)
        if status not in (200, 206):
            self._report.take(self.name, [Violation("6.2.2", f"{segment.map} is answered {status}")])
            return
        self._report.take(self.name, self.tape.init(segment.map, body))

    async def _parts_of(self, segment: parse.SegmentTag) -> list[tuple[parse.PartTag, bytes]]:
        """The segment's parts with their bytes, if all of them were fetched; forgets those of older segments."""
        found = []
        whole = True
        real = [part for part in segment.parts if not part.gap]
        for uri, part in ((part.uri, part) for part in real):
            task = self._parts.pop(uri, None)
            if task is None:
                whole = False
                continue
            status, body = await task
            if status != 200:
                self._report.take(self.name, [Violation("6.2.6", f"the listed part {uri} is answered {status}")])
                whole = False
                continue
            self._report.parts += 1
            found.append((part, body))
        for uri in [uri for uri, task in self._parts.items() if task.done()]:
            if self._parts[uri].result()[0] == 404 and not self._is_listed(uri):
                self._report.cancelled_hints += 1
                del self._parts[uri]
        return found if whole and real else []

    def _is_listed(self, uri: str) -> bool:
        latest = self.latest
        return latest is not None and any(p.uri == uri for s in latest.segments[-4:] for p in s.parts)


def _edge(playlist: parse.MediaPlaylist) -> tuple[int, int, bool]:
    """The newest thing in a playlist: segment, parts, and whether the segment is whole."""
    last = playlist.segments[-1] if playlist.segments else None
    return (last.msn, len(last.parts), bool(last.uri)) if last else (-1, 0, False)


def _next(playlist: parse.MediaPlaylist) -> tuple[int, ...]:
    """What a low-latency client asks for next: the part after the newest, else the segment after it."""
    last = playlist.segments[-1] if playlist.segments else None
    if last is None:
        return (playlist.media_sequence,)
    if playlist.part_target is None:
        return (last.msn + 1,)
    return (last.msn + 1, 0) if last.uri else (last.msn, len(last.parts))
