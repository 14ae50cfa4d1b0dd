"""What a run of `headrace lint` saw, and the HTTP client that it asks with: each request and byte is counted."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import aiohttp

from packager.hls.lint import Violation

MAX_KINDS = 500
"""Different violations that are kept."""


@dataclass(slots=True)
class Found:
    """One violation, where it was seen, and how often."""

    where: str
    rule: str
    text: str
    must: bool
    first_s: float
    count: int = 1


@dataclass(slots=True)
class Report:
    """What a run saw."""

    url: str
    seconds: float = 0.0
    requests: int = 0
    bytes: int = 0
    playlists: int = 0
    deltas: int = 0
    segments: int = 0
    parts: int = 0
    cancelled_hints: int = 0
    unseen_segments: int = 0
    ended: bool = False
    followed: list[str] = field(default_factory=list)
    """Media playlists, in the order in which they were found."""
    found: dict[tuple[str, str, str], Found] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def take(self, where: str, violations: Iterable[Violation]) -> None:
        """Add violations; those seen before are counted."""
        for one in violations:
            key = (where, one.rule, one.text)
            if key in self.found:
                self.found[key].count += 1
            elif len(self.found) < MAX_KINDS:
                at = round(time.monotonic() - self.began, 2)
                self.found[key] = Found(where, one.rule, one.text, one.must, at)

    @property
    def musts(self) -> list[Found]:
        return [found for found in self.found.values() if found.must]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        numbers = {
            name: getattr(self, name)
            for name in ("url", "requests", "bytes", "playlists", "deltas", "segments", "parts", "cancelled_hints",
                         "unseen_segments", "ended", "followed")
        }  # fmt: skip
        violations = [
            {"where": f.where, "rule": f.rule, "must": f.must, "text": f.text, "first_s": f.first_s, "count": f.count}
            for f in self.found.values()
        ]
        return {**numbers, "seconds": round(self.seconds, 1), "musts": len(self.musts), "violations": violations}


class Client:
    """HTTP as a player does it: statuses are answers, broken connections are too."""

    def __init__(self, session: aiohttp.ClientSession, report: Report) -> None:
        self._session = session
        self._report = report

    async def get(self, url: str, byterange: str = "") -> tuple[int, bytes]:
        """Status and body; status 0 where no answer came."""
        self._report.requests += 1
        headers = {"Range": f"bytes={byterange}"} if byterange else {}
        try:
            async with self._session.get(url, headers=headers) as answer:
                body = await answer.read()
                self._report.bytes += len(body)
                return answer.status, body
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return 0, b""


def with_query(url: str, **more: object) -> str:
    """`url` with directives added; those in it already are kept."""
    parts = urlsplit(url)
    query = [*parse_qsl(parts.query, keep_blank_values=True), *((k, str(v)) for k, v in more.items())]
    return urlunsplit(parts._replace(query=urlencode(sorted(query))))


def http_range(byterange: str, before_end: int) -> tuple[str, int]:
    """The Range of an EXT-X-BYTERANGE (n[@o]), and where it ends."""
    length, _, offset = byterange.partition("@")
    start = int(offset) if offset else before_end
    return f"{start}-{start + int(length) - 1}", start + int(length)
