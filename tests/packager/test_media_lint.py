"""The reader of boxes against what we wrote, and the validator's media rules: each broken on purpose."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from media.errors import ProtocolError
from media.track import Codec, Kind
from packager import render
from packager.cmaf import read
from packager.hls import parse
from packager.hls.media_lint import Tape, check_codecs, check_rates
from packager.model import Boundary, Segment
from packager.presentation import Presentation
from packager.rates import Rates
from packager.settings import PackagerSettings


@pytest.fixture(scope="module")
def shown(studio: SimpleNamespace) -> Presentation:
    feeds = [studio.video(seconds=8, bframes=2), studio.audio(seconds=8)]
    presentation = Presentation("x", PackagerSettings())
    presentation.declare([feed.rendition for feed in feeds])
    studio.play(presentation, studio.script(feeds, studio.cuts_of(feeds[0])), end=False)
    return presentation


def tags(presentation: Presentation, name: str = "source") -> list[parse.SegmentTag]:
    found = parse.parse(render.media_playlist(presentation, presentation.windows[name], delta=False))
    assert isinstance(found, parse.MediaPlaylist)
    return found.complete


def tape(presentation: Presentation, name: str = "source") -> Tape:
    it = Tape(2)
    for init in presentation.shelves[name].inits.values():
        assert it.init(init.name, init.data) == []
    return it


def whole(presentation: Presentation, msn: int, name: str = "source") -> bytes:
    segment = presentation.shelves[name].segment(msn)
    assert segment is not None
    return b"".join(part.data for part in segment.parts)


@pytest.mark.parametrize("codec", [Codec.H264, Codec.HEVC, Codec.AV1, Codec.AAC, Codec.OPUS], ids=lambda c: c.value)
def test_headers_tell_what_the_track_told(studio: SimpleNamespace, codec: Codec) -> None:
    sound = codec in (Codec.AAC, Codec.OPUS)
    feed = studio.audio(codec=codec, seconds=3) if sound else studio.video(codec=codec, seconds=3)
    presentation = Presentation("x", PackagerSettings())
    presentation.declare([feed.rendition])
    studio.play(presentation, studio.script([feed], studio.cuts_of(feed)))
    (entry,) = render.entries(presentation)
    shelf = presentation.shelves[feed.rendition.name]
    (init,) = shelf.inits.values()
    header = read.header(init.data)
    assert header.codec == entry.codec
    assert header.kind is (Kind.AUDIO if sound else Kind.VIDEO)
    assert (header.timescale, header.width) == (entry.track.timescale, entry.track.width)
    for segment in shelf.listed:
        for part in segment.parts:
            (chunk,) = read.chunks(part.data, header.defaults)
            assert chunk.duration == part.duration
            assert len(chunk.samples) == part.samples
            assert chunk.samples[0].sync is part.independent
            assert (chunk.at, chunk.end) == (0, len(part.data))


def test_our_own_media_keeps_the_rules(shown: Presentation) -> None:
    for name in ("source", "audio"):
        it = tape(shown, name)
        for tag in tags(shown, name):
            segment = shown.shelves[name].segment(tag.msn)
            assert segment is not None
            parts = list(zip(tag.parts, (p.data for p in segment.parts), strict=True)) if tag.parts else []
            assert it.segment(tag, whole(shown, tag.msn, name), parts) == []


def test_a_wrong_duration_is_told(shown: Presentation) -> None:
    tag = tags(shown)[1]
    tag.duration += Decimal("0.2")
    assert [v.rule for v in tape(shown).segment(tag, whole(shown, tag.msn))] == ["4.4.4.1"]


def test_a_jump_of_decode_times_is_told(shown: Presentation) -> None:
    it, listed = tape(shown), tags(shown)
    it.segment(listed[0], whole(shown, listed[0].msn))
    assert [v.rule for v in it.segment(listed[1], whole(shown, listed[2].msn))] == ["APPLE 7.3"]


def test_parts_of_another_segment_are_told(shown: Presentation) -> None:
    tag, other = tags(shown)[-1], shown.shelves["source"].segment(1)
    assert other is not None
    parts = list(zip(tag.parts, (p.data for p in other.parts), strict=True))
    assert "4.4.4.9" in [v.rule for v in tape(shown).segment(tag, whole(shown, tag.msn), parts)]


def test_a_segment_without_a_keyframe_first_is_told(shown: Presentation) -> None:
    tag = tags(shown)[1]
    segment = shown.shelves["source"].segment(tag.msn)
    assert segment is not None
    body = b"".join(part.data for part in segment.parts[1:])
    assert "APPLE 7.4" in [v.rule for v in tape(shown).segment(tag, body)]


def test_rates_and_codecs_are_held_against_the_variant(shown: Presentation) -> None:
    it = tape(shown)
    for tag in tags(shown):
        it.segment(tag, whole(shown, tag.msn))
    codec = next(iter(it.headers.values())).codec
    fits = {"BANDWIDTH": str(int(it.peak) + 1), "CODECS": codec}
    assert check_rates("x", fits, it, []) == []
    assert check_codecs("x", fits, [it]) == []
    assert [v.must for v in check_rates("x", {"BANDWIDTH": str(int(it.peak / 1.2))}, it, [])] == [False]
    assert [v.must for v in check_rates("x", {"BANDWIDTH": str(int(it.peak / 1.3))}, it, [])] == [True]
    assert [v.rule for v in check_codecs("x", {"CODECS": "avc1.4d401e"}, [it])] == ["4.4.6.2"]


@given(st.lists(st.tuples(st.integers(1, 900_000), st.integers(60_000, 200_000)), min_size=1, max_size=12))
@example([(2, 67_358), (1, 136_185), (2, 67_357)])  # together longer than one and a half targets
def test_what_was_declared_holds_against_rounded_durations(made: list[tuple[int, int]]) -> None:
    """BANDWIDTH is an upper bound, to the bit; EXTINF is not exact."""
    rates, it = Rates(2, 0), Tape(2)
    for msn, (size, length) in enumerate(made):
        cut = Boundary(msn, 0, 0, False, 0)
        rates.add(Segment(cut, None, 90_000, 0, length, (), complete=True, size_bytes=size))
        it.segment(parse.SegmentTag(msn, 0, uri="x", duration=round(Decimal(length) / 90_000, 5)), bytes(size))
    if it.peak:
        assert check_rates("x", {"BANDWIDTH": str(rates.peak(None))}, it, []) == []


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_broken_files_are_protocol_errors(shown: Presentation, data: st.DataObject) -> None:
    init = next(iter(shown.shelves["source"].inits.values())).data
    body = whole(shown, 0)[:1500]
    good = data.draw(st.sampled_from([init, body]))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + data.draw(st.binary(min_size=1, max_size=6)) + good[at + data.draw(st.integers(0, 6)) :]
    for read_it in (read.header, read.chunks):
        with contextlib.suppress(ProtocolError):
            read_it(bad)
