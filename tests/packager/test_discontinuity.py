"""Behind a discontinuity the first frame is decoded when it is shown, so that no player leaves a hole there."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

from packager import render
from packager.cmaf import read
from packager.hls import lint, parse
from packager.hls.media_lint import Tape
from packager.presentation import Presentation
from packager.settings import PackagerSettings


def test_reordered_frames_are_squeezed_in_and_still_shown_in_time(studio: SimpleNamespace) -> None:
    feeds = [studio.video(seconds=6, bframes=2, rate=25), studio.audio(seconds=6)]
    presentation = Presentation("x", PackagerSettings())
    presentation.declare([feed.rendition for feed in feeds])
    studio.play(presentation, studio.script(feeds, studio.cuts_of(feeds[0])))
    presentation.restart()
    studio.play(presentation, studio.script(feeds, studio.cuts_of(feeds[0])))
    shelf = presentation.shelves["source"]
    shown: dict[int, list[int]] = {}
    for msn in range(6):
        segment = shelf.segment(msn)
        assert segment is not None
        samples = [s for part in segment.parts for c in read.chunks(part.data) for s in c.samples]
        shown[msn] = sorted(s.dts + s.offset for s in samples)
        assert all(s.offset >= 0 for s in samples)
        assert all(b.dts > a.dts for a, b in itertools.pairwise(samples))
        assert (samples[0].offset == 0) is (msn == 3)
        assert segment.duration == 180_000
        assert [p.duration for p in segment.parts][:-1] == [segment.parts[0].duration] * (len(segment.parts) - 1)
    assert [shown[n + 3] for n in range(3)] == [shown[n] for n in range(3)]
    playlist = parse.parse(render.media_playlist(presentation, presentation.windows["source"], delta=False))
    assert isinstance(playlist, parse.MediaPlaylist)
    assert lint.check(playlist) == []
    tape = Tape(2)
    for init in shelf.inits.values():
        tape.init(init.name, init.data)
    for tag in playlist.complete:
        segment = shelf.segment(tag.msn)
        assert segment is not None
        parts = list(zip(tag.parts, (p.data for p in segment.parts), strict=True)) if tag.parts else []
        assert tape.segment(tag, b"".join(p.data for p in segment.parts), parts) == []
