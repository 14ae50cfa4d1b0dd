"""The clock of one track: a picture's grid, sound counted in samples, and how far either may stray from its stamps."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stamps import ASC, AUDIO, OPUS, OPUS_20_MS, RATES, gaps, packets, run, seamless, video

from ingest.lanes import MS
from ingest.sample import MPEGTS_CLOCK, RTMP_CLOCK, UNWRAPPED_90K, Sample
from ingest.timeline import Timeline
from media.codecs.aac import silent_frame
from media.packet import Packet
from media.track import Codec, Kind, Track


class TestVideoGrid:
    @pytest.mark.parametrize("rate", RATES)
    @pytest.mark.parametrize("rounding", [round, int])
    def test_milliseconds_of_a_claimed_rate_become_exact(self, rate: Fraction, rounding: type[int]) -> None:
        track = video(rate)
        items, timeline = run(Sample(track, rounding(index * 1000 / rate), b"") for index in range(600))
        step, per = 90_000 * rate.denominator, rate.numerator
        assert [packet.dts for packet in packets(items, 0)] == [
            pytest.approx(index * step // per, abs=1) for index in range(600)
        ]
        assert seamless(packets(items, 0))
        assert timeline.counters.repaired == 0

    @pytest.mark.parametrize("rate", RATES)
    def test_a_rate_that_nobody_claims_is_found(self, rate: Fraction) -> None:
        track = video()
        items, _ = run(Sample(track, round(index * 1000 / rate), b"") for index in range(1000))
        got = packets(items, 0)
        assert seamless(got)
        for index, packet in enumerate(got):
            assert abs(packet.dts - index * 90_000 / rate) <= 4 * MS
        last = {packet.duration for packet in got[-50:]}
        assert max(last) - min(last) <= 1

    def test_a_wrong_claim_is_not_believed(self) -> None:
        track = video(Fraction(60))
        items, _ = run(Sample(track, index * 40, b"") for index in range(100))
        assert [packet.dts for packet in packets(items, 0)] == [index * 3600 for index in range(100)]

    @pytest.mark.parametrize("claim", [Fraction(5), Fraction(1), Fraction(1, 10), Fraction(1, 2**32)])
    def test_a_claim_that_is_far_too_low_sets_no_clock_back(self, claim: Fraction) -> None:
        """What a claim of five pictures a second lets expect lies beyond the next ones of thirty."""
        items, timeline = run(Sample(video(claim), index * 33, b"") for index in range(100))
        assert [packet.dts for packet in packets(items, 0)] == [index * 33 * MS for index in range(100)]
        assert timeline.counters.jumps == 0
        assert not gaps(items)

    def test_one_broken_offset_takes_no_picture_into_the_far_future(self) -> None:
        """24 bits of milliseconds reach 2.3 hours: a segment that began there would leave nothing to see till then."""
        samples = [Sample(video(Fraction(25)), index * 40, b"", cts=8_000_000 * (index == 50)) for index in range(100)]
        items, timeline = run(samples)
        assert [packet.pts for packet in packets(items, 0)] == [index * 3600 for index in range(100)]
        assert timeline.counters.repaired == 1

    def test_variable_rate_stays_as_stated(self) -> None:
        stamps = [0, 40, 73, 211, 219, 300, 340, 555, 601, 602, 700, 941, 1003, 1100, 1117, 1300, 1500, 1502]
        items, _ = run(Sample(video(Fraction(30)), stamp, b"") for stamp in stamps)
        got = packets(items, 0)
        assert seamless(got)
        for packet, stamp in zip(got, stamps, strict=True):
            assert abs(packet.dts - stamp * MS) <= MS + 1500

    def test_a_locked_frame_leaves_at_once(self) -> None:
        timeline = Timeline(0, RTMP_CLOCK)
        track = video(Fraction(25))
        assert timeline.feed(Sample(track, 0, b"a"), 0) == []
        assert len(timeline.feed(Sample(track, 40, b"b"), 0.04)) == 2
        assert len(timeline.feed(Sample(track, 80, b"c"), 0.08)) == 1

    def test_skipped_frames_leave_the_others_on_the_grid(self) -> None:
        track = video(Fraction(30))
        kept = [index for index in range(300) if index % 97 != 50]
        items, timeline = run(Sample(track, round(index * 1000 / 30), b"") for index in kept)
        assert [packet.dts for packet in packets(items, 0)] == [index * 3000 for index in kept]
        assert timeline.counters.skipped_frames == 3

    def test_composition_offsets_fall_on_the_grid(self) -> None:
        track = video(Fraction(30))
        order = [2, 5, 3, 4]  # IPBB, two frames of delay
        samples = []
        for index in range(120):
            shown = order[index % 4] + index - index % 4
            dts, pts = round(index * 1000 / 30), round(shown * 1000 / 30)
            samples.append(Sample(track, dts, b"", cts=pts - dts))
        items, _ = run(samples)
        assert all(packet.pts % 3000 == 0 and packet.pts >= packet.dts for packet in packets(items, 0))

    def test_a_slow_drift_is_followed_with_durations_that_add_up(self) -> None:
        track = video(Fraction(30))
        clock = Fraction(1_000_300, 1_000_000)  # 300 ppm
        items, _ = run(Sample(track, int(index * 1000 * clock / 30), b"") for index in range(20_000))
        got = packets(items, 0)
        assert seamless(got)
        assert abs(got[-1].dts - int(19_999 * 90_000 * clock / 30)) <= 3 * MS

    def test_new_size_in_mid_stream_is_a_config_change(self) -> None:
        old, new = video(Fraction(25), width=640), video(Fraction(25), width=1280)
        items, _ = run(Sample(old if index < 10 else new, index * 40, b"") for index in range(20))
        assert [gap.reason for gap in gaps(items)] == ["config_change"]
        assert seamless(packets(items, 0))

    def test_missing_decoding_times_are_made_from_presentation_times(self) -> None:
        shown = [0] + [base + step for base in range(0, 240, 3) for step in (3, 1, 2)]
        samples = [Sample(video(), None, b"", pts=index * 3600) for index in shown]
        items, _ = run(samples, UNWRAPPED_90K)
        got = packets(items, 0)
        assert [packet.pts for packet in got] == [index * 3600 for index in shown]
        assert all(packet.pts >= packet.dts for packet in got[4:])


class TestAudio:
    def test_44100_hz_for_a_day_has_no_drift_and_no_rounding(self) -> None:
        # The stamps of RTMP repeat their pattern every 441 frames (10.24 s): one hour of whole frames, then a day
        # in which 100 of them share a stamp, as in a transport stream.
        timeline = Timeline(0, RTMP_CLOCK)
        count = 0
        for index in range(155_040):
            stamp = index * 1024_000 // 44_100
            (packet,) = timeline.feed(Sample(AUDIO, stamp, b""), stamp / 1000)
            assert isinstance(packet, Packet)
            count += packet.dts == index * 1024
            count += packet.duration == 1024
        assert count == 2 * 155_040
        timeline = Timeline(0, RTMP_CLOCK)
        last = 0
        for index in range(0, 24 * 3600 * 44_100 // 1024, 100):
            stamp = index * 1024_000 // 44_100
            sample = Sample(AUDIO, stamp, b"", duration_samples=102_400)
            (packet,) = timeline.feed(sample, stamp / 1000)
            assert isinstance(packet, Packet)
            assert packet.dts == index * 1024
            last = packet.dts
        assert last // 44_100 >= 24 * 3600 - 3

    def test_a_fast_source_clock_is_followed_smoothly(self) -> None:
        items, timeline = run(Sample(AUDIO, int(index * 1024_000 / 44_100 * 1.0002), b"") for index in range(100_000))
        got = packets(items, 100)
        assert not gaps(items)
        assert seamless(got)
        assert timeline.counters.slewed > 0
        stated_s = 99_999 * 1024 / 44_100 * 1.0002
        assert abs(got[-1].dts / 44_100 - stated_s) < 0.015

    def test_a_hole_is_filled_with_silent_frames(self) -> None:
        kept = [index for index in range(400) if not 100 <= index < 110]
        items, timeline = run(Sample(AUDIO, round(index * 1024_000 / 44_100), b"sound") for index in kept)
        got = packets(items, 100)
        assert [packet.dts for packet in got] == [index * 1024 for index in range(400)]
        assert [index for index, packet in enumerate(got) if packet.data != b"sound"] == list(range(100, 110))
        assert {packet.data for packet in got[100:110]} == {silent_frame(ASC)}
        assert not gaps(items)
        assert timeline.counters.holes == 1

    def test_a_hole_in_opus_is_filled_with_lost_frames(self) -> None:
        kept = [index for index in range(200) if not 100 <= index < 110]
        items, _ = run(Sample(OPUS, index * 20, OPUS_20_MS + b"sound") for index in kept)
        got = packets(items, 100)
        assert [packet.dts for packet in got] == [index * 960 for index in range(200)]
        assert {packet.data for packet in got[100:110]} == {OPUS_20_MS[:1]}
        assert not gaps(items)

    def test_a_hole_of_very_many_frames_is_a_gap(self) -> None:
        short = bytes((0xE0, 1))  # 2.5 ms
        items, _ = run(Sample(OPUS, at, short) for at in (0, 400))
        assert len(packets(items, 100)) == 2
        assert [gap.reason for gap in gaps(items)] == ["packet_loss"]

    @pytest.mark.parametrize(("asc", "missing"), [(ASC, 50), (bytes.fromhex("1a10"), 10)])
    def test_a_long_hole_or_one_of_another_coder_is_a_gap_of_whole_frames(self, asc: bytes, missing: int) -> None:
        track = Track(100, Kind.AUDIO, Codec.AAC, 44_100, asc, sample_rate=44_100, channels=2)
        kept = [index for index in range(400) if not 100 <= index < 100 + missing]
        items, timeline = run(Sample(track, round(index * 1024_000 / 44_100), b"") for index in kept)
        assert [packet.dts for packet in packets(items, 100)] == [index * 1024 for index in kept]
        assert [gap.reason for gap in gaps(items)] == ["packet_loss"]
        assert timeline.counters.holes == 1

    def test_frames_for_a_time_already_filled_are_dropped(self) -> None:
        order = [*range(100), *range(90, 300)]
        items, timeline = run(Sample(AUDIO, round(index * 1024_000 / 44_100), b"") for index in order)
        got = packets(items, 100)
        assert seamless(got)
        assert timeline.counters.dropped >= 9
        assert abs(got[-1].dts - 299 * 1024) < 3 * 1024

    def test_opus_durations_are_read_from_the_packets(self) -> None:
        items, _ = run(Sample(OPUS, index * 20, OPUS_20_MS) for index in range(50))
        assert {packet.duration for packet in packets(items, 100)} == {960}

    @pytest.mark.parametrize("share", [7, 20, 100])
    def test_frames_that_share_a_stamp(self, share: int) -> None:
        """Twenty frames of 48 kb/s fill one PES packet of ordinary size: their stamp then lies 0.4 s behind."""
        samples = [
            Sample(AUDIO, index * share * 1024 * 90_000 // 44_100, b"", offset_samples=part * 1024)
            for index in range(50)
            for part in range(share)
        ]
        items, timeline = run(samples, MPEGTS_CLOCK)
        assert [packet.dts for packet in packets(items, 100)] == [index * 1024 for index in range(50 * share)]
        assert timeline.counters.jumps == 0

    def test_another_sample_rate_in_mid_stream(self) -> None:
        new = Track(100, Kind.AUDIO, Codec.AAC, 48_000, bytes.fromhex("1190"), sample_rate=48_000, channels=2)
        samples = [Sample(AUDIO, round(index * 1024_000 / 44_100), b"") for index in range(100)]
        samples += [Sample(new, 2322 + round(index * 1024_000 / 48_000), b"") for index in range(100)]
        items, _ = run(samples)
        assert [gap.reason for gap in gaps(items)] == ["config_change"]
        first = packets(items, 100)[100]
        assert first.track is new
        assert abs(first.dts / 48 - 2322) <= 1


class TestProperties:
    @given(st.sampled_from(RATES), st.lists(st.integers(-3, 3), min_size=100, max_size=100), st.booleans())
    @settings(max_examples=60, deadline=None)
    def test_unsteady_stamps_are_never_left_by_more_than_half_a_frame(
        self, rate: Fraction, jitter: list[int], claimed: bool
    ) -> None:
        track = video(rate if claimed else None)
        stamps = [100 + round(index * 1000 / rate) + off for index, off in enumerate(jitter)]
        items, _ = run(Sample(track, stamp, b"") for stamp in stamps)
        for packet, stamp in zip(packets(items, 0), stamps, strict=True):
            assert abs(packet.dts - (stamp - stamps[0]) * MS) <= 2 * MS + 45_000 / rate

    @given(st.lists(st.integers(-8, 8), min_size=50, max_size=300), st.sampled_from([8_000, 44_100, 48_000]))
    @settings(max_examples=60, deadline=None)
    def test_unsteady_sound_stays_seamless_and_near(self, jitter: list[int], rate: int) -> None:
        track = Track(100, Kind.AUDIO, Codec.AAC, rate, ASC, sample_rate=rate, channels=2)
        stamps = [1000 + round(index * 1024_000 / rate) + off for index, off in enumerate(jitter)]
        items, _ = run(Sample(track, stamp, b"") for stamp in stamps)
        got = packets(items, 100)
        assert len(got) == len(jitter)
        assert seamless(got)
        for packet, stamp in zip(got, stamps, strict=True):
            assert abs(packet.dts * 1000 / rate - (stamp - stamps[0])) <= 40
