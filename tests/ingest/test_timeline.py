"""The clock of a publishing session: wraps, jumps, starts, and what no stream of stamps may ever do."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stamps import AUDIO, OPUS, OPUS_20_MS, both, gaps, packets, run, seamless, video

from ingest.sample import MPEGTS_CLOCK, RTMP_CLOCK, UNWRAPPED_90K, RawClock, Sample
from ingest.timeline import Timeline
from media.packet import Gap, Packet
from media.track import Kind


class TestWraps:
    @pytest.mark.parametrize(("clock", "at"), [(RTMP_CLOCK, 2**32), (RTMP_CLOCK, 2**31), (RTMP_CLOCK, 2**24)])
    def test_rtmp(self, clock: RawClock, at: int) -> None:
        samples = [
            Sample(sample.track, sample.dts % at, b"")
            for sample in both(20_000, start_ms=at - 10_000)
            if sample.dts is not None
        ]
        # `both` masks with 32 bits, so that 2**32 wraps by itself; the others are masked more narrowly here.
        plain, _ = run(both(20_000))
        wrapped, timeline = run(samples, clock)
        assert timeline.counters.jumps == 0
        assert not gaps(wrapped)
        for track_id in (0, 100):
            one, two = packets(plain, track_id), packets(wrapped, track_id)
            assert [packet.dts for packet in one] == [packet.dts for packet in two]

    def test_mpegts_33_bits(self) -> None:
        samples = [
            Sample(video(), (2**33 - 90_000 + index * 3600) % 2**33, b"", pts=(2**33 - 82_800 + index * 3600) % 2**33)
            for index in range(100)
        ]
        items, timeline = run(samples, MPEGTS_CLOCK)
        got = packets(items, 0)
        assert [packet.dts for packet in got] == [index * 3600 for index in range(100)]
        assert all(packet.pts - packet.dts == 7200 for packet in got)
        assert timeline.counters.jumps == 0

    def test_a_track_that_begins_beyond_the_wrap_keeps_its_place(self) -> None:
        track = video(Fraction(25))
        samples = [Sample(track, (2**32 - 1000 + index * 40) % 2**32, b"") for index in range(100)]
        samples.insert(50, Sample(AUDIO, 960, b""))
        items, timeline = run(samples)
        assert timeline.counters.jumps == 0
        assert packets(items, 100)[0].dts == round(1.96 * 44_100)


class TestJumps:
    @pytest.mark.parametrize("jump_ms", [3_600_000, -9_000, 60_000, 2**30 + 5_000_000])
    @pytest.mark.parametrize("first", [0, 100])
    def test_both_tracks_keep_their_distance(self, jump_ms: int, first: int) -> None:
        """One track's stamps jump 0.4 s before the other's, and lip sync is what it was."""
        start = 100_000
        before, after = both(10_000, start_ms=start), both(10_000, start_ms=start + 10_000 + jump_ms)
        overlap = [s for s in before if s.dts is not None and s.dts >= start + 9_600 and s.track.id != first]
        early = [s for s in after if s.dts is not None and s.track.id == first][:12]
        rest = [s for s in after if s not in early]
        items, timeline = run([s for s in before if s not in overlap] + early + overlap + rest)
        assert timeline.counters.jumps == 1
        assert [gap.reason for gap in gaps(items) if gap.track_id is None] == ["timestamp_jump"]
        sound, picture = packets(items, 100)[-1], packets(items, 0)[-1]
        stated = [[s.dts for s in after if s.track.id == which][-1] or 0 for which in (100, 0)]
        offset_ms = sound.dts / 44.1 - picture.dts / 90
        assert abs(offset_ms - (stated[0] - stated[1])) <= 20

    def test_only_the_picture_jumps(self) -> None:
        samples = [
            s if s.track is AUDIO or s.dts is None or s.dts < 5_000 else Sample(s.track, s.dts - 5_000 + 777_000, b"")
            for s in both(10_000)
        ]
        items, timeline = run(samples)
        assert timeline.counters.jumps == 1
        assert seamless(packets(items, 100))
        assert packets(items, 0)[-1].dts == 249 * 3600

    @pytest.mark.parametrize("early", [1, 2, 20])
    def test_sound_behind_a_silence_that_is_sent_too_early_keeps_lip_sync(self, early: int) -> None:
        """ffmpeg 7.1 sends the first sound behind a long silence at once, and the rest in its time."""
        sent = [s for s in both(12_000) if s.track is not AUDIO or not 3_000 <= (s.dts or 0) < 7_100]
        ahead = [s for s in sent if s.track is AUDIO and (s.dts or 0) >= 7_100][:early]
        sent = [s for s in sent if s not in ahead]
        at = next(n for n, s in enumerate(sent) if (s.dts or 0) >= 3_000)
        timeline, items, now = Timeline(0, RTMP_CLOCK), list[Packet | Gap](), 0.0
        for sample in (*sent[:at], *ahead, *sent[at:]):
            now = max(now, (sample.dts or 0) / 1000) if sample not in ahead else now
            items += timeline.feed(sample, now)
        sound, picture = packets(items, 100), packets(items, 0)
        assert picture[-1].dts == 299 * 3600
        assert sound[-1].dts / 44_100 == pytest.approx((sent[-1].dts or 0) / 1000, abs=0.03)
        told = [p.dts / 44_100 for p in sound]
        assert told == sorted(told)
        assert not [t for t in told if 3.1 + early * 0.024 < t < 7.0], "what came early is where it came"

    def test_a_picture_that_jumps_ahead_alone_and_for_good_keeps_its_place(self) -> None:
        samples = [
            s if s.track is AUDIO or s.dts is None or s.dts < 5_000 else Sample(s.track, s.dts + 10_000, b"")
            for s in both(30_000)
        ]
        items, timeline = run(samples)
        assert timeline.counters.jumps == 1
        assert seamless(packets(items, 100))
        assert packets(items, 0)[-1].dts == 749 * 3600

    def test_a_single_mad_stamp_does_no_harm(self) -> None:
        track = video(Fraction(25))
        stamps = [index * 40 if index != 50 else 99_999_999 for index in range(100)]
        items, _ = run(Sample(track, stamp, b"") for stamp in stamps)
        got = packets(items, 0)
        assert len(got) == 100
        assert got[-1].dts == 99 * 3600

    def test_a_pause_explains_a_step(self) -> None:
        timeline = Timeline(0, RTMP_CLOCK)
        track = video(Fraction(25))
        items: list[Packet | Gap] = []
        for index in range(100):
            late = 10 if index >= 50 else 0
            items += timeline.feed(Sample(track, index * 40 + late * 1000, b""), index * 0.04 + late)
        assert timeline.counters.jumps == 0
        assert packets(items, 0)[-1].dts == 99 * 3600 + 900_000

    def test_a_stream_that_goes_back_again_and_again_goes_on(self) -> None:
        track = video(Fraction(25))
        items, timeline = run(Sample(track, 100_000 + index % 20 * 40, b"") for index in range(1000))
        got = packets(items, 0)
        assert len(got) == 1000
        assert got[-1].dts > 400 * 3600
        assert timeline.counters.jumps > 10


class TestStarts:
    def test_the_first_sample_lies_at_the_origin_and_is_asked_for_once(self) -> None:
        asked = []

        def origin() -> int:
            asked.append(1)
            return 7_000_000

        timeline = Timeline(origin, RTMP_CLOCK)
        items = [item for sample in both(1000, start_ms=5_000) for item in timeline.feed(sample, 0)]
        assert packets(items, 0)[0].dts == 7_000_000
        assert abs(packets(items, 100)[0].dts / 44_100 - 7_000_000 / 90_000) < 0.001
        assert asked == [1]

    def test_nothing_lies_before_the_origin(self) -> None:
        track = video(Fraction(25))
        samples = [Sample(AUDIO, 500, b""), *(Sample(track, index * 40, b"") for index in range(50))]
        samples += [Sample(AUDIO, 523, b"")]
        items, _ = run(samples, origin=1000)
        got = packets(items, 0)
        assert len(got) == 50
        assert min(packet.dts for packet in got) >= 1000
        assert min(packet.pts for packet in got) >= 1000

    def test_late_audio_keeps_its_offset_and_picture_does_not_wait(self) -> None:
        samples = [s for s in both(10_000) if s.track.id == 0 or (s.dts or 0) >= 6_000]
        items, timeline = run(samples)
        assert timeline.counters.jumps == 0
        first = next(s for s in samples if s.track is AUDIO)
        assert abs(packets(items, 100)[0].dts / 44.1 - (first.dts or 0)) < 1

    def test_a_late_track_with_a_clock_of_its_own_belongs_to_now(self) -> None:
        track = video(Fraction(25))
        samples = [Sample(track, 1_000_000 + index * 40, b"") for index in range(100)]
        samples += [Sample(AUDIO, 0, b"")]
        items, _ = run(samples)
        assert abs(packets(items, 100)[0].dts / 44_100 - 3.96) < 0.01

    def test_offset_between_arrivals_is_measured(self) -> None:
        timeline = Timeline(0, RTMP_CLOCK)
        assert timeline.av_offset_ms is None
        for sample in both(20_000):
            late = 0.08 if sample.track is AUDIO else 0.0
            timeline.feed(sample, (sample.dts or 0) / 1000 + late)
        assert timeline.av_offset_ms == pytest.approx(80, abs=3)

    def test_a_sample_without_any_stamp_is_dropped(self) -> None:
        items, timeline = run([Sample(AUDIO, None, b"")])
        assert items == []
        assert timeline.counters.dropped == 1


@st.composite
def hostile(draw: st.DrawFn) -> list[tuple[Sample, float]]:
    """Stamps that make no sense: steps of every size, on any track, arriving at any time."""
    tracks = [video(), video(Fraction(30)), AUDIO, OPUS]
    now, raw = 0.0, draw(st.integers(0, 2**32 - 1))
    out: list[tuple[Sample, float]] = []
    steps = st.one_of(st.integers(-50, 120), st.integers(-5000, 5000), st.integers(-(2**32), 2**32))
    for _ in range(draw(st.integers(1, 60))):
        raw = (raw + draw(steps)) % 2**32
        now += draw(st.sampled_from([0.0, 0.001, 0.033, 2.0, 100.0]))
        track = draw(st.sampled_from(tracks))
        stamped = draw(st.sampled_from(["dts", "pts", "cts", "estimated"]))
        sample = Sample(
            track,
            None if stamped == "pts" else raw,
            OPUS_20_MS,
            pts=raw if stamped == "pts" else None,
            cts=draw(st.integers(-(2**23), 2**23 - 1)) if stamped == "cts" else 0,
            estimated=stamped == "estimated",
        )
        out.append((sample, now))
    return out


class TestProperties:
    @given(hostile(), st.integers(0, 10**9))
    @settings(max_examples=150, deadline=None)
    def test_time_never_goes_back_whatever_comes(self, samples: list[tuple[Sample, float]], origin: int) -> None:
        timeline = Timeline(origin, RTMP_CLOCK)
        items: list[Packet | Gap] = []
        for sample, now in samples:
            items += timeline.feed(sample, now)
        items += timeline.flush()
        last: dict[int, tuple[int, int]] = {}
        for item in items:
            if isinstance(item, Gap):
                assert origin <= item.start <= item.end
                continue
            scale = item.track.timescale
            assert item.duration > 0
            assert item.dts * 90_000 >= (origin - 90) * scale
            if item.track.id in last:
                dts, before = last[item.track.id]
                assert Fraction(item.dts, scale) > Fraction(dts, before)
            last[item.track.id] = (item.dts, scale)
        pictures = sum(sample.track.kind is Kind.VIDEO for sample, _ in samples)
        assert len(packets(items, 0)) == pictures


def test_what_a_stalled_network_held_and_then_delivers_at_once_is_no_jump() -> None:
    """A picture every eight seconds, sound all the time; for 40 s nothing arrives, then everything does."""
    timeline = Timeline(0, UNWRAPPED_90K)
    stamps = [(index * 8000, video()) for index in range(12)] + [(index * 20, OPUS) for index in range(4800)]
    out: list[Packet | Gap] = []
    for at_ms, track in sorted(stamps, key=lambda item: item[0]):
        arrival_s = 60.0 if 20_000 <= at_ms < 60_000 else at_ms / 1000
        data = OPUS_20_MS if track is OPUS else b""
        out += timeline.feed(Sample(track, None, data, pts=at_ms * 90, duration_samples=960), arrival_s)
    out += timeline.flush()
    assert not gaps(out)
    assert timeline.counters.jumps == 0
    assert [packet.pts for packet in packets(out, 0)] == [index * 8 * 90_000 for index in range(12)]
    # And a clock that runs ahead of its arrival is still told from that.
    out += timeline.feed(Sample(video(), None, b"", pts=(88 + 8 + 4) * 90_000), 96.0)
    assert timeline.counters.jumps == 1


@pytest.mark.parametrize("still_s", [2, 5, 30])
def test_a_screen_that_stands_still_and_moves_again_is_no_jump(still_s: int) -> None:
    """Screen sharing has no rate: a frame after a long pause tells nothing of when the next one comes."""
    timeline = Timeline(0, UNWRAPPED_90K)
    stamps = [0, 100, 233]
    for _ in range(5):
        stamps += [stamps[-1] + still_s * 1000, stamps[-1] + still_s * 1000 + 40, stamps[-1] + still_s * 1000 + 333]
    out: list[Packet | Gap] = []
    for at_ms in stamps:
        out += timeline.feed(Sample(video(), None, b"", pts=at_ms * 90), at_ms / 1000)
    out += timeline.flush()
    assert timeline.counters.jumps == 0
    assert not gaps(out)
    assert [packet.pts for packet in packets(out, 0)] == [at_ms * 90 for at_ms in stamps]
