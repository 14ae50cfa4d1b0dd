"""What an MPD offers in a Period stays as it is through all updates: a reader of our own follows every version."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mpd_reader import Reader

from media.rendition import Rendition
from packager.presentation import Presentation
from packager.settings import PackagerSettings


@pytest.fixture(scope="module")
def feeds(studio: SimpleNamespace) -> list:
    options = {"crf": "45"}
    return [
        studio.video(seconds=26, options=options),
        studio.video(name="240p", seconds=26, options=options),
        studio.audio(seconds=26),
    ]


def broadcast(studio: SimpleNamespace, window: int = 8) -> tuple[Presentation, Reader, object]:
    clock = studio.Clock()
    shown = Presentation("x", PackagerSettings(window_segments=window), clock=clock, wall_us=clock.wall_us)
    return shown, Reader(shown), clock


def run(studio: SimpleNamespace, feeds: list, changes: dict[int, object], lag: dict[str, float], window: int) -> Reader:
    """`changes`: what is done just before the cut of that number."""
    shown, reader, clock = broadcast(studio, window)
    if 0 not in changes:
        shown.declare([feed.rendition for feed in feeds])
    for event in studio.script(feeds, studio.cuts_of(feeds[0]), lag):
        do = changes.get(getattr(event[2], "index", -1))
        if do is not None:
            do(shown)
        studio.play(shown, [event], clock, end=False)
        reader.look()
    shown.end()
    reader.look()
    return reader


def renditions(feeds: list, *names: str) -> list[Rendition]:
    return [feed.rendition for feed in feeds if feed.rendition.name in names]


@pytest.mark.parametrize("lag", [{}, {"240p": 0.4}, {"240p": 0.9}, {"240p": 2.2, "audio": 0.2}])
@pytest.mark.parametrize("window", [6, 30])
def test_a_rung_leaves_and_comes_back(studio: SimpleNamespace, feeds: list, lag: dict[str, float], window: int) -> None:
    everything = renditions(feeds, "source", "240p", "audio")
    without = renditions(feeds, "source", "audio")
    changes = {
        3: lambda shown: shown.declare(everything, ["240p"]),
        4: lambda shown: shown.declare(without),
        7: lambda shown: shown.declare(everything),
    }
    while_there = [p for p in feeds[1].packets if not 6 * 90_000 <= p.pts < 14 * 90_000]
    reader = run(studio, [feeds[0], studio.Feed(feeds[1].rendition, while_there), feeds[2]], changes, lag, window)
    offers = [set(found) for found in reader.offers.values()]
    assert {"source", "audio"} in offers
    assert offers[-1] == {"source", "240p", "audio"}
    assert len(offers) <= 4 + bool(lag)


def test_a_ladder_change_at_a_cut_is_a_new_period_there(studio: SimpleNamespace, feeds: list) -> None:
    everything = renditions(feeds, "source", "240p", "audio")
    changes = {3: lambda shown: shown.declare(everything, ["240p"])}
    feeds = [*feeds[:1], studio.Feed(feeds[1].rendition, [p for p in feeds[1].packets if p.pts < 6 * 90_000]), feeds[2]]
    reader = run(studio, feeds, changes, {}, 30)
    assert [(name, set(found)) for name, found in reader.offers.items()] == [
        ("p0", {"source", "240p", "audio"}),
        ("p3", {"source", "audio"}),
    ]
    assert reader.continuous() == [("p3", "p0"), ("p3", "p0")]
    assert reader.starts == {"p0": "PT0.0S", "p3": "PT6.0S"}


def test_a_shed_rung_has_no_gap_in_the_numbers_of_a_period(studio: SimpleNamespace, feeds: list) -> None:
    away = [p for p in feeds[1].packets if not 7 * 90_000 <= p.pts < 14 * 90_000]
    changes = {4: lambda shown: shown.lost(["240p"])}
    reader = run(studio, [feeds[0], studio.Feed(feeds[1].rendition, away), feeds[2]], changes, {}, 30)
    offers = [set(found) for found in reader.offers.values()]
    assert offers == [{"source", "240p", "audio"}, {"source", "audio"}, {"source", "240p", "audio"}]
    assert ("240p", 4) not in reader.times
    assert ("240p", 8) in reader.times


def test_a_track_that_comes_later(studio: SimpleNamespace, feeds: list) -> None:
    late = studio.Feed(feeds[2].rendition, [p for p in feeds[2].packets if p.pts >= 9 * 48_000])
    silent = renditions(feeds, "source", "240p")
    changes = {
        0: lambda shown: shown.declare(silent),
        4: lambda shown: shown.declare([*silent, late.rendition]),
    }
    reader = run(studio, [*feeds[:2], late], changes, {}, 30)
    assert [set(found) for found in reader.offers.values()] == [{"source", "240p"}, {"source", "240p", "audio"}]


def test_two_broadcasts(studio: SimpleNamespace, feeds: list) -> None:
    shown, reader, clock = broadcast(studio, 30)
    shown.declare([feed.rendition for feed in feeds])
    for _ in range(2):
        start = clock.now - 1000
        for at, name, item in studio.script(feeds, studio.cuts_of(feeds[0])):
            studio.play(shown, [(at + start, name, item)], clock, end=False)
            reader.look()
        if len(reader.offers) == 1:
            shown.restart()
    assert [set(found) for found in reader.offers.values()] == [{"source", "240p", "audio"}] * 2
    assert reader.continuous() == []


def test_a_new_header_without_a_discontinuity(studio: SimpleNamespace, feeds: list) -> None:
    other = studio.video(name="240p", seconds=26, options={"crf": "45", "profile": "main", "coder": "1"})
    mixed = [p for p in feeds[1].packets if p.pts < 8 * 90_000] + [p for p in other.packets if p.pts >= 8 * 90_000]
    assert other.packets[0].track.config != feeds[1].packets[0].track.config
    reader = run(studio, [feeds[0], studio.Feed(feeds[1].rendition, mixed), feeds[2]], {}, {}, 30)
    assert [sorted(found) for found in reader.offers.values()] == [["240p", "audio", "source"]] * 2
    # The sound has nothing new, and neither has the source; but they share a set with what has.
    assert reader.continuous() == [("p4", "p0")]
