"""`headrace lint` and a hinted part that did not come: it is no fault unless it is refused once it is listed."""

from __future__ import annotations

import asyncio

import pytest

from control.lint_follower import Follower
from control.lint_report import Client, Report
from packager.hls import parse

HEAD = """#EXTM3U
#EXT-X-VERSION:6
#EXT-X-TARGETDURATION:2
#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.5
#EXT-X-PART-INF:PART-TARGET=0.5
#EXT-X-MEDIA-SEQUENCE:0
#EXT-X-MAP:URI="init.mp4"
#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:00.000Z
#EXTINF:2.00000,
0.m4s
"""
HINTED = HEAD + '#EXT-X-PRELOAD-HINT:TYPE=PART,URI="1.0.m4s"\n'
LISTED = HEAD + '#EXT-X-PART:DURATION=0.50000,URI="1.0.m4s",INDEPENDENT=YES\n'


class Scripted(Client):
    """Answers one request after the other with these statuses."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)

    async def get(self, url: str, byterange: str = "") -> tuple[int, bytes]:
        return self.statuses.pop(0), b""


def media(text: str) -> parse.MediaPlaylist:
    found = parse.parse(text.encode())
    assert isinstance(found, parse.MediaPlaylist)
    return found


async def always(_: str) -> bool:
    return True


@pytest.mark.parametrize(("hinted", "asked"), [(503, 2), (404, 2), (200, 1)])
async def test_a_hint_that_came_to_nothing_is_asked_for_again_when_it_is_listed(hinted: int, asked: int) -> None:
    client = Scripted(hinted, 200, 200)
    follower = Follower("http://x/media.m3u8", "media", client, Report("http://x/media.m3u8"), always)
    async with asyncio.TaskGroup() as group:
        await follower._news(media(HINTED), group)
        await follower._parts["1.0.m4s"]
        await follower._news(media(LISTED), group)
        status, _ = await follower._parts["1.0.m4s"]
    assert (status, 3 - len(client.statuses)) == (200, asked)
