"""`headrace lint` judges rates by a multivariant playlist that was read after the media: BANDWIDTH follows the peak."""

from __future__ import annotations

import asyncio

import pytest

from control import lint
from control.lint_report import Client, Report

MEDIA = b"""#EXTM3U
#EXT-X-VERSION:3
#EXT-X-TARGETDURATION:2
#EXT-X-MEDIA-SEQUENCE:0
#EXTINF:2.0,
0.ts
#EXTINF:2.0,
1.ts
#EXT-X-ENDLIST
"""
PEAK = 400_000
"""Bits per second of both segments."""
LISTED = """#EXTM3U
#EXT-X-STREAM-INF:BANDWIDTH={},AVERAGE-BANDWIDTH=1000,CODECS="avc1.42c01e",RESOLUTION=2x2,FRAME-RATE=30.000
media.m3u8
"""


class Scripted(Client):
    """A server whose multivariant playlist says another BANDWIDTH each time, the last one from then on."""

    def __init__(self, listed: list[bytes]) -> None:
        self._listed = listed

    async def get(self, url: str, byterange: str = "") -> tuple[int, bytes]:
        if url.endswith("media.m3u8"):
            return 200, MEDIA
        if url.endswith(".ts"):
            return 200, bytes(PEAK * 2 // 8)
        body = self._listed.pop(0) if len(self._listed) > 1 else self._listed[0]
        return (200, body) if body else (404, b"")


def rules(listed: list[bytes]) -> set[str]:
    """What a run tells, as the sections of broken rules."""
    report = Report("http://x/index.m3u8")
    asyncio.run(lint.Linter(report.url, Scripted(listed), report).run(20))
    assert report.ended
    assert report.segments == 2
    return {found.rule for found in report.musts}


def said(bandwidth: int) -> bytes:
    return LISTED.format(bandwidth).encode()


@pytest.mark.parametrize(
    ("listed", "broken"),
    [
        ([said(PEAK)], set()),
        ([said(PEAK // 2), said(PEAK)], set()),
        ([said(PEAK // 2), said(PEAK // 2), said(PEAK)], set()),
        ([said(PEAK // 2)], {"APPLE 1.29"}),
        ([said(PEAK), said(PEAK // 2)], {"APPLE 1.29"}),
        ([said(PEAK), b""], set()),
        ([said(PEAK), b"gone"], {"4"}),
    ],
    ids=["fits", "grew", "grew, from a cache", "too small", "became too small", "gone at the end", "broken at the end"],
)
def test_bandwidth_is_judged_as_it_is_listed_last(
    monkeypatch: pytest.MonkeyPatch, listed: list[bytes], broken: set[str]
) -> None:
    monkeypatch.setattr(lint, "CACHED_S", 0.0)
    assert rules(listed) == broken
