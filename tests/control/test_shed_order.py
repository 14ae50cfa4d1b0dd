"""From requests at the edge to the rung that a worker leaves out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from control.broadcasts import Broadcasts
from edge.viewers import Viewers
from packager.settings import PackagerSettings
from transcode import messages as m
from transcode.job import Job, State
from transcode.plan import Plan
from transcode.pool import Pool
from transcode.settings import TranscodeSettings


class LinkDouble:
    """A worker's connection that notes what is said."""

    writable, exited, place, pid = True, False, "", 7

    def __init__(self) -> None:
        self.said: list[m.Message] = []

    def send(self, message: m.Message, payload: bytes = b"") -> None:
        self.said.append(m.unpack(m.pack(message)))


async def test_counts_of_the_edge_reach_the_worker_of_their_stream() -> None:
    viewers = Viewers(30, b"k")
    for number in range(7):
        rendition = "480p" if number < 4 else "360p" if number < 6 else "source"
        viewers.seen(f"/live/play/{rendition}/media.m3u8", f"203.0.113.{number}", "", 1.0)
    viewers.seen("/live/other/720p/media.m3u8", "203.0.113.9", "", 1.0)
    settings = TranscodeSettings()
    link, pool = LinkDouble(), Pool(settings)
    job = Job(Plan(), cast(Any, None), "s", settings, cast(Any, None), lambda job: None)
    job._process = cast(Any, link)
    job._state = State.RUNNING
    broadcasts = Broadcasts(pool, PackagerSettings(), cast(Any, None), keep_ended_s=1)
    on_air = SimpleNamespace(
        distributor=SimpleNamespace(job=job), presentation=SimpleNamespace(playback_id="play"), viewers={}
    )
    broadcasts._live["id"] = cast(Any, on_air)
    broadcasts.watched(viewers.watching())
    assert link.said == [m.Watched({"480p": 4, "360p": 2, "source": 1})]
    assert on_air.viewers == {"480p": 4, "360p": 2, "source": 1}
    broadcasts.watched({})
    assert link.said[-1] == m.Watched({}), "they have left"
