"""`headrace lint URL`: follows a live HLS or LL-HLS stream like several clients at once and tells each broken rule.

Every media playlist that is listed is followed (`lint_follower`), those that come and go with the ladder, too, and held
against each other. The rules themselves are in `packager.hls.lint` and `packager.hls.media_lint`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from urllib.parse import urljoin

import aiohttp

from control.lint_follower import Follower
from control.lint_report import Client, Report
from media.errors import HeadraceError, ProtocolError
from packager.hls import lint, parse
from packager.hls.lint import Violation
from packager.hls.media_lint import Tape, check_codecs, check_rates

TIMEOUT_S = 30.0
LISTED_EVERY_S = 10
"""How often the multivariant playlist is read again."""
CACHED_S = 2.0
"""For so long a cache may hold a multivariant playlist that changes; ours is held for half a target duration."""


class LintError(HeadraceError):
    """The stream could not be followed at all."""

    default_slug = "lint_failed"


class Linter:
    """One run over one URL."""

    def __init__(self, url: str, client: Client, report: Report) -> None:
        self._url = url
        self._client = client
        self._report = report
        self._followers: dict[str, Follower] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._variants: parse.Multivariant | None = None

    async def run(self, seconds: float) -> None:
        """Follow until the time is over or everything has ended. Raises `LintError`."""
        status, body = await self._client.get(self._url)
        if status != 200:
            raise LintError(f"{self._url} is answered {status or 'not at all'}.")
        try:
            top = parse.parse(body)
        except ProtocolError as error:
            raise LintError(f"{self._url} is no HLS playlist: {error.text}") from error
        if isinstance(top, parse.Multivariant):
            self._take_multivariant(top)
        else:
            self._add(self._url, "media")
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                self._follow(group)
                watcher = group.create_task(self._watch(group))
                while going := [task for task in self._tasks.values() if not task.done()]:
                    await asyncio.wait(going)
                self._report.ended = True
                watcher.cancel()
        except TimeoutError:
            pass
        self._report.seconds = time.monotonic() - self._report.began
        if self._variants is not None:
            await self._judge()

    def _take_multivariant(self, found: parse.Multivariant) -> None:
        self._report.take("multivariant", lint.check_multivariant(found))
        self._variants = found
        for uri in self._uris():
            self._add(urljoin(self._url, uri), uri)

    def _uris(self) -> list[str]:
        """All media playlists that are listed."""
        found = self._variants
        if found is None:
            return []
        return [*(uri for _, uri in found.variants), *(m["URI"] for m in found.media if "URI" in m)]

    def _add(self, url: str, name: str) -> None:
        if url not in self._followers or self._followers[url].gone:
            self._followers[url] = Follower(url, name, self._client, self._report, self._listed)
            self._tasks.pop(url, None)

    def _follow(self, group: asyncio.TaskGroup) -> None:
        """Begin with those that are new: renditions come and go with the ladder."""
        for url, follower in self._followers.items():
            if url not in self._tasks:
                self._report.followed.append(follower.name)
                self._tasks[url] = group.create_task(follower.follow())

    async def _listed(self, url: str) -> bool:
        await self._list_again()
        return self._variants is None or any(urljoin(self._url, uri) == url for uri in self._uris())

    async def _watch(self, group: asyncio.TaskGroup) -> None:
        """The renditions against each other, and the multivariant playlist again."""
        for turn in itertools.count():
            await asyncio.sleep(1)
            latest = {f.name: f.latest for f in self._followers.values() if f.latest is not None and not f.gone}
            self._report.take("all", lint.compare(latest))
            if turn % LISTED_EVERY_S == LISTED_EVERY_S - 1:
                await self._list_again()
                self._follow(group)

    async def _list_again(self) -> None:
        """The multivariant playlist as it is now; without one, what was read before counts."""
        if self._variants is None:
            return
        status, body = await self._client.get(self._url)
        if status != 200:
            return
        try:
            found = parse.parse(body)
        except ProtocolError as error:
            self._report.take("multivariant", [Violation("4", error.text)])
            return
        if isinstance(found, parse.Multivariant):
            self._take_multivariant(found)

    async def _judge(self) -> None:
        """Codecs and rates, by a multivariant playlist read after all was measured: its BANDWIDTH follows the peak.

        Where that is not enough it may have come from a cache, and is read once more.
        """
        await self._list_again()
        if any(violation.must for _, found in self._measured() for violation in found):
            await asyncio.sleep(CACHED_S)
            await self._list_again()
        for uri, violations in self._measured():
            self._report.take(uri, violations)

    def _measured(self) -> Iterator[tuple[str, list[Violation]]]:
        """Each variant as it is listed, against the media that was seen of it."""
        assert self._variants is not None
        for said, uri in self._variants.variants:
            video = self._tape(uri)
            audios = [
                tape
                for medium in self._variants.media
                if medium.get("TYPE") == "AUDIO" and medium.get("GROUP-ID") == said.get("AUDIO") and "URI" in medium
                if (tape := self._tape(medium["URI"])) is not None and tape is not video
            ]
            yield uri, check_rates(uri, said, video, audios)
            yield uri, check_codecs(uri, said, [*([video] if video else []), *audios])

    def _tape(self, uri: str) -> Tape | None:
        follower = self._followers.get(urljoin(self._url, uri))
        return follower.tape if follower else None


async def run(url: str, seconds: float) -> Report:
    """Follow `url` for `seconds`. Raises `LintError` where nothing can be followed."""
    report = Report(url)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        await Linter(url, Client(session, report), report).run(seconds)
    return report
