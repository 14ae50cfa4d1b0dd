"""From the demuxer's units to the publication."""

from __future__ import annotations

import pytest
from recorder import Recorder
from stamps import video

from ingest.mpegts.events import AccessUnit
from ingest.ports import PublishRequest
from ingest.settings import LimitSettings
from ingest.srt.media import Media

SHOWN = [0] + [base + step for base in range(0, 240, 3) for step in (3, 1, 2)]
"""Places in the order of display, as pictures with two B-frames between their references come."""


@pytest.mark.parametrize("states_dts", [True, False])
async def test_reordered_pictures_with_and_without_decoding_times(states_dts: bool) -> None:
    """Muxers exist that write presentation times alone; each picture is shown at its own nevertheless."""
    publication = Recorder(PublishRequest("srt", "key", "192.0.2.1", 1))
    media, track = Media(publication, LimitSettings()), video()
    for place, shown in enumerate(SHOWN):
        pts = 90_000 + shown * 3600
        dts = 90_000 + (place - 1) * 3600 if states_dts else pts
        media._take([AccessUnit(track, pts, dts, place == 0, b"unit")], place / 25)
    media.flush(10)
    got = publication.packets(0)
    shift = got[0].pts
    assert [packet.pts - shift for packet in got] == [shown * 3600 for shown in SHOWN]
    times = [packet.dts for packet in got]
    assert times == sorted(set(times))
    assert not publication.gaps()
