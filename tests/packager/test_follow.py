"""A validator follows every version of every playlist of broadcasts with all their troubles, on a fake clock."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest
from playlist_follower import Follower

from media.codecs import audio_track
from media.cut import Cut
from media.packet import Packet
from media.rendition import Rendition
from media.track import Codec, Kind, Track
from packager import render
from packager.presentation import Presentation
from packager.settings import PackagerSettings

AVC = bytes.fromhex("01640028ffe1001b67640028acd940780227e5c044000003000400000300f03c60c65801000568ebe3cb22")
ASC = bytes.fromhex("1190")


def picture_track(rate: Fraction | None) -> Track:
    return Track(0, Kind.VIDEO, Codec.H264, 90_000, AVC, 1920, 1080, rate)


def packets_of_video(times: list[int], keys: set[int], rate: Fraction | None, lead: int = 0) -> list[Packet]:
    track = picture_track(rate)
    ends = [*times[1:], 2 * times[-1] - times[-2]]
    return [
        Packet(track, t, t - lead, end - t, t in keys, t.to_bytes(8, "big") * (40 if t in keys else 8))
        for t, end in zip(times, ends, strict=True)
    ]


def packets_of_audio(seconds: float, rate: int = 48_000, start: int = 0) -> list[Packet]:
    track = audio_track(100, Codec.AAC, ASC if rate == 48_000 else bytes.fromhex("1210"))
    count = int(seconds * rate / 1024)
    return [
        Packet(track, start + n * 1024, start + n * 1024, 1024, True, n.to_bytes(4, "big") * 80) for n in range(count)
    ]


def rendition(name: str, kind: Kind = Kind.VIDEO, rate: Fraction | None = None) -> Rendition:
    codec = Codec.H264 if kind is Kind.VIDEO else Codec.AAC
    return Rendition(
        name, kind, codec, name == "source", 2_000_000 if kind is Kind.VIDEO else 128_000, 1920, 1080, rate
    )


def follow(studio: SimpleNamespace, feeds: list, cuts: list[Cut], lag: dict[str, float] | None = None) -> Follower:
    clock = studio.Clock()
    presentation = Presentation("x", PackagerSettings(), clock=clock, wall_us=clock.wall_us)
    presentation.declare([feed.rendition for feed in feeds])
    follower = Follower(presentation)
    for event in studio.script(feeds, cuts, lag):
        studio.play(presentation, [event], clock, end=False)
        follower.look()
    presentation.end()
    follower.look()
    return follower


def ladder(
    studio: SimpleNamespace,
    rate: Fraction | None,
    times: list[int],
    keys: set[int],
    seconds: float,
    audio_rate: int = 48_000,
) -> list:
    feeds = [
        studio.Feed(rendition(name, rate=rate), packets_of_video(times, keys, rate, lead))
        for name, lead in (("source", 0), ("720p", 3000), ("360p", 0))
    ]
    return [*feeds, studio.Feed(rendition("audio", Kind.AUDIO), packets_of_audio(seconds, audio_rate))]


def grid_keys(times: list[int], segment: int = 180_000) -> tuple[set[int], list[Cut]]:
    """Keyframes at the first frame from each two seconds on, and the cuts of `transcode.cuts` in grid mode."""
    keys, cuts, due = set(), [], times[0]
    for t in times:
        if t >= due:
            keys.add(t)
            cuts.append(Cut(len(cuts), due, 1_800_000_000_000_000 + due * 100 // 9))
            due += segment
    return keys, cuts


@pytest.mark.parametrize(
    "rate", ["24", "25", "30000/1001", "30", "50", "60", "24000/1001", "15", "12.5", "10", "5", "1"]
)
def test_constant_rates(studio: SimpleNamespace, rate: str) -> None:
    fps = Fraction(rate)
    times = [round(n * 90_000 / fps) for n in range(int(40 * fps))]
    keys, cuts = grid_keys(times)
    follower = follow(studio, ladder(studio, fps, times, keys, 40), cuts, {"720p": 0.4, "360p": 0.3})
    assert follower.violations == []
    assert follower.shoulds == []
    assert follower.seen > (200 if fps > 4 else 50)


@pytest.mark.parametrize("said", [None, Fraction(30)])
@pytest.mark.parametrize("rate", ["12.5", "10", "8", "7", "5", "3", "2", "1", "0.5"])
def test_slow_rates_that_are_not_declared(studio: SimpleNamespace, rate: str, said: Fraction | None) -> None:
    fps = Fraction(rate)
    times = [round(n * 1000 / fps) * 90 for n in range(max(3, int(40 * fps)))]
    keys, cuts = grid_keys(times)
    follower = follow(studio, ladder(studio, said, times, keys, 40), cuts)
    assert follower.violations == []
    assert follower.presentation.windows["source"].last_complete >= 15


@pytest.mark.parametrize("rate", ["24", "25", "30000/1001", "60"])
def test_timestamps_rounded_to_milliseconds(studio: SimpleNamespace, rate: str) -> None:
    fps = Fraction(rate)
    times = [round(n * 1000 / fps) * 90 for n in range(int(30 * fps))]
    keys = {t for n, t in enumerate(times) if n % round(2 * fps) == 0}
    cuts = [Cut(i, t, 1_800_000_000_000_000 + t * 100 // 9) for i, t in enumerate(sorted(keys))]
    follower = follow(studio, ladder(studio, fps, times, keys, 30, 44_100), cuts, {"720p": 0.4, "360p": 0.3})
    assert follower.violations == []
    assert follower.shoulds == []


@pytest.mark.parametrize("seed", range(4))
def test_variable_rate(studio: SimpleNamespace, seed: int) -> None:
    dice = random.Random(seed)
    times, now = [], 0
    while now < 30 * 90_000:
        times.append(now)
        now += dice.choice([1500, 3000, 3000, 3003, 4500, 6000])
    keys, cuts = grid_keys(times)
    follower = follow(studio, ladder(studio, None, times, keys, 30), cuts, {"720p": 0.5, "360p": 0.2})
    assert follower.violations == []


def test_short_and_uneven_groups_of_pictures(studio: SimpleNamespace) -> None:
    dice = random.Random(7)
    times = [n * 3000 for n in range(1200)]
    keys, frame = set(), 0
    while frame < len(times):
        keys.add(times[frame])
        frame += dice.randint(27, 73)
    cuts = [Cut(i, t, 1_800_000_000_000_000 + t * 100 // 9) for i, t in enumerate(sorted(keys))]
    follower = follow(studio, ladder(studio, Fraction(30), times, keys, 40), cuts, {"720p": 0.4})
    assert follower.violations == []


def test_sound_only(studio: SimpleNamespace) -> None:
    feed = studio.Feed(rendition("audio", Kind.AUDIO), packets_of_audio(40))
    follower = follow(studio, [feed], studio.cuts_of(feed))
    assert follower.violations == []
    assert follower.shoulds == []


def test_a_lost_worker_leaves_a_gap_and_comes_back(studio: SimpleNamespace) -> None:
    times = [n * 3000 for n in range(1200)]
    keys, cuts = grid_keys(times)
    back = 9
    cuts[back] = replace(cuts[back], discontinuity=True, reason="transcoder_restart")
    feeds = ladder(studio, Fraction(30), times, keys, 40)
    died, resumed = 13.2 * 90_000, cuts[back].pts
    for feed in feeds[1:3]:
        feed.packets = [p for p in feed.packets if p.pts < died or p.pts >= resumed]
    clock = studio.Clock()
    presentation = Presentation("x", PackagerSettings(), clock=clock, wall_us=clock.wall_us)
    presentation.declare([feed.rendition for feed in feeds])
    follower = Follower(presentation)
    told = False
    for event in studio.script(feeds, cuts, {"720p": 0.4, "360p": 0.3}):
        if event[0] > 13.8 and not told:
            told = True
            presentation.lost(["720p", "360p"])
        studio.play(presentation, [event], clock, end=False)
        follower.look()
    listed = {s.msn: s for s in presentation.windows["720p"].segments}
    assert [n for n, s in listed.items() if s.gap] == [7, 8]
    assert listed[6].duration < 180_000
    assert [n for n, s in listed.items() if s.boundary.discontinuity] == [9]
    assert not any(s.gap for s in presentation.windows["source"].segments)
    assert follower.violations == []
    presentation.end()
    follower.look()
    assert follower.violations == []


def test_a_rung_that_is_away_where_players_join_is_not_offered_until_it_is_back(studio: SimpleNamespace) -> None:
    times = [n * 3000 for n in range(900)]
    keys, cuts = grid_keys(times)
    feeds = ladder(studio, Fraction(30), times, keys, 30)
    died, resumed = 5.2 * 90_000, cuts[8].pts
    feeds[1].packets = [p for p in feeds[1].packets if p.pts < died or p.pts >= resumed]
    clock = studio.Clock()
    presentation = Presentation("x", PackagerSettings(), clock=clock, wall_us=clock.wall_us)
    presentation.declare([feed.rendition for feed in feeds])
    offered: list[tuple[float, bool]] = []
    for event in studio.script(feeds, cuts, {"720p": 0.4}):  # never before its cut
        studio.play(presentation, [event], clock, end=False)
        if presentation.ready:
            text = render.multivariant(presentation)
            assert b"source/media.m3u8" in text
            offered.append((event[0], b"720p/media.m3u8" in text))
    assert all(there for at, there in offered if 3 < at < 6)
    assert not any(there for at, there in offered if 14 < at < 16)
    assert all(there for at, there in offered if at > 19)


def test_another_broadcast_goes_on_counting(studio: SimpleNamespace) -> None:
    times = [n * 3000 for n in range(600)]
    keys, cuts = grid_keys(times)
    feeds = ladder(studio, Fraction(30), times, keys, 20)
    clock = studio.Clock()
    presentation = Presentation("x", PackagerSettings(), clock=clock, wall_us=clock.wall_us)
    follower = Follower(presentation)
    for round_ in range(3):
        if round_:
            presentation.restart()
            follower.last = {}
        presentation.declare([feed.rendition for feed in feeds])
        for at, name, item in studio.script(feeds, cuts, {"720p": 0.4, "360p": 0.3}):
            studio.play(presentation, [(at + 30 * round_, name, item)], clock, end=False)
            follower.look()
        presentation.end()
        follower.look()
        assert presentation.windows["source"].ended
    assert follower.violations == []
    listed = presentation.windows["source"].segments
    assert [s.msn for s in listed] == list(range(15, 30))
    assert [s.msn for s in listed if s.boundary.discontinuity] == [20]
    assert presentation.windows["audio"].discontinuity_sequence == 1


def test_a_rung_that_slept_is_awake_in_the_broadcast_after_it(studio: SimpleNamespace) -> None:
    times = [n * 3000 for n in range(600)]
    keys, cuts = grid_keys(times)
    feeds = ladder(studio, Fraction(30), times, keys, 20)
    lag = {"720p": 0.4, "360p": 0.3}
    clock = studio.Clock()
    presentation = Presentation("x", PackagerSettings(), clock=clock, wall_us=clock.wall_us)
    follower = Follower(presentation)
    presentation.declare([feed.rendition for feed in feeds])
    for at, name, item in studio.script(feeds, cuts, lag):
        if at > 15 and not presentation.sleeps("360p"):
            assert presentation.sleep("360p")
        if name != "360p" or at < 15:
            studio.play(presentation, [(at, name, item)], clock, end=False)
    presentation.restart()
    assert not presentation.sleeps("360p")
    presentation.declare([feed.rendition for feed in feeds])
    for at, name, item in studio.script(feeds, cuts, lag):
        studio.play(presentation, [(at + 30, name, item)], clock, end=False)
        follower.look()
    assert follower.violations == []
    assert [s.msn for s in presentation.windows["360p"].segments] == list(range(10, 19))
    assert presentation.sleep("360p")


def test_video_that_falls_silent_does_not_stop_the_sound(studio: SimpleNamespace) -> None:
    times = [n * 3000 for n in range(300)]
    keys, cuts = grid_keys(times)
    feeds = ladder(studio, Fraction(30), times, keys, 40)
    follower = follow(studio, feeds, cuts)
    assert follower.presentation.own_cuts > 10
    assert follower.violations == []
    assert follower.presentation.windows["audio"].last_complete >= 17


def test_sound_that_comes_later(studio: SimpleNamespace) -> None:
    times = [n * 3000 for n in range(900)]
    keys, cuts = grid_keys(times)
    *pictures, sound = ladder(studio, Fraction(30), times, keys, 30)
    late = studio.Feed(sound.rendition, [p for p in sound.packets if p.pts >= 11 * 48_000])
    follower = follow(studio, [*pictures, late], cuts)
    assert follower.violations == []
    assert follower.last["audio"].media_sequence == 6, "a segment would begin a second late"


@pytest.mark.parametrize("ahead", [1.5, 5, 12])
def test_sound_that_comes_far_ahead_of_the_picture_is_cut_with_it(studio: SimpleNamespace, ahead: float) -> None:
    times = [n * 3000 for n in range(900)]
    keys, cuts = grid_keys(times)
    feeds = ladder(studio, Fraction(30), times, keys, 30)
    follower = follow(studio, feeds, cuts, {"audio": -ahead})
    shown = follower.presentation
    assert follower.violations == []
    assert shown.own_cuts == 0
    sound, picture = shown.windows["audio"].segments, shown.windows["source"].segments
    assert [s.msn for s in sound] == [s.msn for s in picture]
    for one, other in zip(sound, picture, strict=True):
        assert abs(one.start / one.timescale - other.start / other.timescale) <= 1024 / 48_000
        assert sum(part.samples for part in one.parts) >= 93


def test_renditions_stay_in_step(studio: SimpleNamespace) -> None:
    times = [n * 3000 for n in range(600)]
    keys, cuts = grid_keys(times)
    clock = studio.Clock()
    presentation = Presentation("x", PackagerSettings(), clock=clock, wall_us=clock.wall_us)
    feeds = ladder(studio, Fraction(30), times, keys, 20)
    presentation.declare([feed.rendition for feed in feeds])
    for event in studio.script(feeds, cuts, {"720p": 0.6, "360p": 0.3, "audio": 0.1}):
        studio.play(presentation, [event], clock, end=False)
        windows = presentation.windows
        if not windows:
            continue
        assert len(windows) == 4
        places = [w.last_part[0] * 4 + w.last_part[1] for w in windows.values() if w.current and w.current.parts]
        assert max(places, default=0) - min(places, default=0) <= 1
    assert presentation.counters()["late_releases"] == 0


def test_a_rendition_that_is_too_slow_is_not_waited_for(studio: SimpleNamespace) -> None:
    times = [n * 3000 for n in range(900)]
    keys, cuts = grid_keys(times)
    feeds = ladder(studio, Fraction(30), times, keys, 30)
    clock = studio.Clock()
    presentation = Presentation("x", PackagerSettings(), clock=clock, wall_us=clock.wall_us)
    presentation.declare([feed.rendition for feed in feeds])
    late = []
    for event in studio.script(feeds, cuts, {"720p": 1.6}):
        studio.play(presentation, [event], clock, end=False)
        window = presentation.windows.get("source")
        if window and 10 < event[0] < 30:
            last = window.shown[-1]
            late.append(event[0] - ((last.start + last.duration) / 90_000 - 1))
    assert max(late) < 1.4
    assert sum(late) / len(late) < 0.6
    assert presentation.counters()["late_releases"] > 0
