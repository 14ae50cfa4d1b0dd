"""Timed events: in the parts as emsg, in the playlists as date ranges, and left out of delta updates."""

from __future__ import annotations

import struct
from types import SimpleNamespace

from packager import render
from packager.cmaf import read
from packager.events import MAX_SCHEMES, SCHEME, Events, TimedEvent
from packager.hls import lint, parse
from packager.hls.media_lint import Tape
from packager.presentation import Presentation
from packager.settings import PackagerSettings


def messages(data: bytes) -> list[tuple[str, int, int, bytes]]:
    """(scheme, time, id, message) of every emsg, and that each stands before a moof."""
    found = []
    order = list(read.boxes(data))
    for place, box in enumerate(order):
        if box.kind != b"emsg":
            continue
        assert order[place + 1].kind in (b"emsg", b"moof")
        assert data[box.body] == 1
        scale, time, _, number = struct.unpack_from(">IQII", data, box.body + 4)
        assert scale == 90_000
        scheme, _, message = data[box.body + 24 : box.end].split(b"\0", 2)
        found.append((scheme.decode(), time, number, message))
    return found


def playlist(
    presentation: Presentation, *, name: str = "source", delta: bool = False, ranges: bool = False
) -> parse.MediaPlaylist:
    window = presentation.windows[name]
    found = parse.parse(render.media_playlist(presentation, window, delta=delta, skip_ranges=ranges))
    assert isinstance(found, parse.MediaPlaylist)
    assert lint.check(found) == []
    return found


def test_an_event_is_in_the_next_part_and_in_the_playlist(studio: SimpleNamespace) -> None:
    feeds = studio.long
    clock = studio.Clock()
    presentation = Presentation("x", PackagerSettings(window_segments=10), clock=clock, wall_us=clock.wall_us)
    assert presentation.announce(b"early") is None
    presentation.declare([feed.rendition for feed in feeds])
    due = {5.7: b"one", 15.2: b'{"two": 2}', 31.1: b"three"}
    made = {}
    copy: parse.MediaPlaylist | None = None
    for event in studio.script(feeds, studio.cuts_of(feeds[0])):
        studio.play(presentation, [event], clock, end=False)
        for at in [at for at in due if at <= event[0] and at not in made]:
            made[at] = presentation.announce(due[at])
        if presentation.ready and clock.now > 1028 and copy is None:
            copy = playlist(presentation)
    tape = Tape(2)
    shelf = presentation.shelves["source"]
    for init in shelf.inits.values():
        tape.init(init.name, init.data)
    first, second, third = made.values()
    assert first
    assert second
    assert third

    found: dict[bytes, list[tuple[int, int]]] = {}
    for msn in range(17):
        segment = shelf.segment(msn)
        for part in segment.parts if segment else ():
            for scheme, time, number, message in messages(part.data):
                assert scheme == SCHEME
                found.setdefault(message, []).append((msn, number))
                late = (part.start + part.duration - time) / 90_000
                assert late < 1 or part.index == 0
    assert found[b"three"] == [(15, 3)] or found[b"three"] == [(15, 3), (16, 3)]
    assert {number for _, number in found[b'{"two": 2}']} == {2}
    for tag in playlist(presentation).complete:
        assert tape.segment(tag, b"".join(part.data for part in shelf.segment(tag.msn).parts)) == []

    full = playlist(presentation)
    assert [said["ID"] for said in full.date_ranges] == ["event-2", "event-3"]
    assert bytes.fromhex(full.date_ranges[0]["X-DATA"][2:]) == b'{"two": 2}'
    assert full.date_ranges[1]["X-MESSAGE"] == "three"
    assert full.control["CAN-SKIP-DATERANGES"] == "YES"

    delta = playlist(presentation, delta=True, ranges=True)
    assert delta.version == 10
    assert [said["ID"] for said in delta.date_ranges] == ["event-3"]
    assert [said["ID"] for said in playlist(presentation, delta=True).date_ranges] == ["event-2", "event-3"]
    assert copy is not None
    merged, violations = lint.merge(delta, copy)
    assert merged is not None
    assert violations == []
    assert [said["ID"] for said in merged.date_ranges] == ["event-2", "event-3"]
    assert f'<InbandEventStream schemeIdUri="{SCHEME}"/>' in render.mpd(presentation).decode()


def test_what_one_playlist_still_shows_is_in_all(studio: SimpleNamespace) -> None:
    """A track that comes late has a shorter playlist: the others keep the ranges that lie before it."""
    pictures, sound = studio.video(seconds=12), studio.audio(seconds=12)
    late = studio.Feed(sound.rendition, [p for p in sound.packets if p.pts >= 8 * 48_000])
    presentation = Presentation("x", PackagerSettings())
    presentation.declare([pictures.rendition, late.rendition])
    for event in studio.script([pictures, late], studio.cuts_of(pictures)):
        studio.play(presentation, [event], end=False)
        if event[0] >= 3 and not presentation.events.count:
            presentation.announce(b"early")
        for name in presentation.windows:
            playlist(presentation, name=name)
    assert presentation.windows["audio"].shown[0].msn == 4
    assert [said["ID"] for said in playlist(presentation).date_ranges] == ["event-1"]


def test_schemes_are_bounded() -> None:
    events = Events()
    for number in range(100):
        events.add(TimedEvent(number, 0, 0, 0.0, "urn:x", str(number), b""), 0.0)
    assert len(events.schemes) == MAX_SCHEMES
