"""What edges must hear of soon: viewer tokens that are void, and streams to be forgotten from caches.

The list is a file in the data folder, written by the API or, without a server, by the command line. The running server
looks at it every second and tells its own edge's workers; the origin shows it at `/access/news.json`, where edges on
other machines look as often, through as many tiers as there are. It holds fingerprints only, so it needs no secret.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from control.secret_files import write_private
from edge.revocation import LIMIT, Revocations, fingerprint
from edge.supervisor import EdgePool
from media.errors import Refused

log = structlog.get_logger(__name__)

FILE = "viewer-news.json"
LOCK = "viewer-news.lock"
PATH = "/access/news.json"
LOOK_S = 1.0
PURGES_S = 600.0
"""How long a purge stays in the list: an edge that could not be reached for longer has nothing fresh any more."""
TOKENS_S = 400 * 86_400.0
"""How long a token stays in the list that does not say when it ends, and a stream."""
LONGEST_BYTES = 2**24
"""Of a list, as it is heard: three times one that is full."""

App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


class News(BaseModel):
    """The list, as in the file and at the origin."""

    model_config = ConfigDict(extra="ignore")

    tokens: dict[str, float] = {}
    """Fingerprint of a token's `jti`, and when the token ends by itself: Unix seconds."""
    streams: dict[str, float] = {}
    """Fingerprint of a playback id, and the moment up to which its tokens are void."""
    purges: dict[str, str] = {}
    """When, in Unix seconds, and the fingerprint of the playback id."""

    def revocations(self) -> Revocations:
        """As the edge takes it."""
        return Revocations(frozenset(self.tokens), self.streams)


def read(data: Path) -> News:
    """The list; empty where there is none. Raises `Refused` for a broken file, which is left as it is."""
    try:
        return News.model_validate_json((data / FILE).read_bytes())
    except FileNotFoundError:
        return News()
    except ValidationError as error:
        raise Refused(f"The file {data / FILE} is broken: {error.error_count()} mistakes.", slug="bad_file") from error


def revoke_token(data: Path, jti: str, ends: float | None = None) -> None:
    """Make one token void. `ends` is its own end, where that is known."""
    _change(data, lambda news: news.tokens.__setitem__(fingerprint(jti), ends or time.time() + TOKENS_S))


def revoke_stream(data: Path, playback_id: str) -> None:
    """Make void all tokens of a stream that were made before now."""
    _change(data, lambda news: news.streams.__setitem__(fingerprint(playback_id), time.time()))


def purge(data: Path, playback_id: str) -> None:
    """Tell edges on other machines to forget a stream."""
    _change(data, lambda news: news.purges.__setitem__(repr(time.time()), fingerprint(playback_id)))


def _change(data: Path, change: Callable[[News], None]) -> None:
    with (data / LOCK).open("a") as lock:  # the API writes from several threads, the command line beside them
        fcntl.flock(lock, fcntl.LOCK_EX)
        news, now = read(data), time.time()
        news.tokens = {mark: ends for mark, ends in news.tokens.items() if ends > now}
        news.streams = {mark: until for mark, until in news.streams.items() if until > now - TOKENS_S}
        news.purges = {at: mark for at, mark in news.purges.items() if float(at) > now - PURGES_S}
        most = max(LIMIT, len(news.tokens) + len(news.streams))
        change(news)
        if len(news.tokens) + len(news.streams) > most:
            raise Refused("Too many tokens are revoked: rotate the key instead.", slug="too_many_revocations")
        write_private(data / FILE, news.model_dump_json())


class Board:
    """The running server's view of the list."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._stamp = (0, 0, 0)
        self.news = News()

    def _look(self) -> bool:
        """Read the file if it has changed; whether it has. In a thread."""
        try:
            stat = (self._data / FILE).stat()
        except FileNotFoundError:
            return False
        stamp = stat.st_mtime_ns, stat.st_ino, stat.st_size  # the time alone stands still for milliseconds
        if stamp == self._stamp:
            return False
        self.news, self._stamp = read(self._data), stamp
        return True

    async def look(self, edge: EdgePool | None) -> None:
        """Read the list now, and tell `edge` if it has changed."""
        try:
            if await asyncio.to_thread(self._look) and edge is not None:
                await edge.revoke(self.news.revocations())
        except (Refused, OSError) as error:
            log.error("viewer_news_not_read", error=str(error))

    async def run(self, edge: EdgePool | None) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look(edge)
            await asyncio.sleep(LOOK_S)

    def in_front_of(self, origin: App) -> App:
        """The origin, with the list at `PATH`."""

        async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] != "http" or scope["path"] != PATH:
                await origin(scope, receive, send)
                return
            body = self.news.model_dump_json().encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"cache-control", b"public, max-age=1"),
                (b"content-length", str(len(body)).encode()),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

        return app


class Follower:
    """An edge on its own that keeps up with the list of its origin."""

    def __init__(self, pool: EdgePool, origins: list[str]) -> None:
        self._pool, self._origins = pool, origins
        self._known: News | None = None

    async def run(self) -> None:
        """Ask again and again, until cancelled. What was heard last holds while nobody answers."""
        import aiohttp

        silent = False
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                for origin in self._origins:
                    try:
                        async with session.get(origin + PATH) as answer:
                            if answer.status == 200:
                                body = bytearray()
                                async for piece in answer.content.iter_any():
                                    body += piece
                                    if len(body) > LONGEST_BYTES:
                                        raise ValueError("the list is too long")
                                await self.hear(News.model_validate(json.loads(body)))
                                silent = False
                                break
                            if answer.status == 404:
                                break  # an origin that is not ours
                    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                        if not silent:
                            log.warning("viewer_news_not_heard", origin=origin, error=type(error).__name__)
                        silent = True
                await asyncio.sleep(LOOK_S)

    async def hear(self, news: News) -> None:
        """Do what is new in a list."""
        known, self._known = self._known, news
        if known is None or (known.tokens, known.streams) != (news.tokens, news.streams):
            await self._pool.revoke(news.revocations())
        if known is not None:  # what was purged before we came was never here
            for mark in {mark for at, mark in news.purges.items() if at not in known.purges}:
                await self._pool.purge_stream(mark)
