"""Behind a discontinuity the first frame is decoded when it is shown, so that no player leaves a hole there."""

from __future__ import annotations

import itertools
from fractions import Fraction
from types import SimpleNamespace

from encoded import avc_track

from media.cut import Cut
from media.packet import Packet
from media.rendition import Rendition
from media.track import Codec, Kind, Track
from packager import render
from packager.cmaf import read
from packager.cuts import Cuts
from packager.grid import Grid
from packager.hls import lint, parse
from packager.hls.media_lint import Tape
from packager.lane import Event, Made, Opened
from packager.presentation import Presentation
from packager.segmenter import Video
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


def test_what_an_encoder_hands_over_late_takes_nothing_from_the_source_that_is_passed_through() -> None:
    """The source was encoded, and is passed through from a cut on; the worker lags behind. Its last pictures made the
    lane wait for a cut that fits them: all but one picture of the segment were lost."""
    cuts = Cuts()
    cuts.add(Cut(0, 0, 0))
    source = Rendition("source", Kind.VIDEO, Codec.H264, passthrough=False)
    lane = Video(source, cuts, Grid(Fraction(1, 2), Fraction(53, 100), 2), "e", -1)
    encoded, passed = avc_track(), avc_track(width=320, height=192)

    def write(track: Track, first: int, last: int) -> list[Event]:
        return [
            event
            for n in range(first, last)
            for event in lane.write(Packet(track, n * 3600, n * 3600, 3600, n % 50 == 0, b"\0\0\0\1\x65"))
        ]

    events = write(encoded, 0, 48)
    cuts.add(Cut(1, 180_000, 2_000_000, discontinuity=True))
    events += write(passed, 50, 51) + write(encoded, 48, 50) + write(passed, 51, 100) + lane.end()
    assert [event.boundary.msn for event in events if isinstance(event, Opened)] == [0, 1]
    assert sum(event.part.samples for event in events if isinstance(event, Made)) == 48 + 50
    assert lane.dropped_packets == 2


def test_a_discontinuity_is_told_in_whole_playlists(studio: SimpleNamespace) -> None:
    """hls.js 1.5 puts a delta update that brings one right by what the hint before it had said: no discontinuity."""
    feeds = studio.long
    presentation = Presentation("x", PackagerSettings(window_segments=40))
    presentation.declare([feed.rendition for feed in feeds])
    script = studio.script(feeds, studio.cuts_of(feeds[0]))
    studio.play(presentation, script)
    presentation.restart()
    skipped: dict[int, set[bool]] = {}
    for event in script:
        studio.play(presentation, [event], end=False)
        window = presentation.windows["source"]
        found = parse.parse(render.media_playlist(presentation, window, delta=True))
        assert isinstance(found, parse.MediaPlaylist)
        if window.shown and window.shown[-1].parts:
            skipped.setdefault(window.shown[-1].msn, set()).add(found.skipped > 0)
    anew = next(msn for msn in sorted(skipped) if msn > 16)
    assert skipped[anew] == skipped[anew + 1] == {False}
    assert skipped[anew + 2] == {True}
