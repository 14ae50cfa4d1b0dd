"""The multivariant playlist: what it says of codecs, ranges of brightness and of which variant is the better one."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest

from media.codecs import audio_track
from media.codecs.captions import Captions
from media.rendition import Rendition
from media.track import Codec, Kind, Track
from packager import render
from packager.hls import lint, multivariant, parse
from packager.presentation import Presentation
from packager.settings import PackagerSettings

AVC = bytes.fromhex("01640028ffe1001b67640028acd940780227e5c044000003000400000300f03c60c65801000568ebe3cb22")
AV1 = bytes.fromhex("81050c00")
AAC = audio_track(100, Codec.AAC, bytes.fromhex("1190"))
OPUS = audio_track(101, Codec.OPUS, b"OpusHead\x01\x02\x38\x01\x80\xbb\0\0\0\0\0")


def video(name: str, codec: Codec, config: bytes, height: int, bits: int) -> multivariant.Entry:
    width = height * 16 // 9
    rendition = Rendition(name, Kind.VIDEO, codec, name == "source", bits, width, height, Fraction(30))
    track = Track(0, Kind.VIDEO, codec, 90_000, config, width, height, Fraction(30))
    return multivariant.Entry(rendition, track, bits * 11 // 10, bits, Fraction(30))


def sound(name: str, track: Track, bits: int, order: int) -> multivariant.Entry:
    return multivariant.Entry(
        Rendition(name, Kind.AUDIO, track.codec, True, bits, default=order == 0), track, bits, bits
    )


def variants(*entries: multivariant.Entry) -> list[dict[str, str]]:
    listed = parse.parse(multivariant.render(entries))
    assert isinstance(listed, parse.Multivariant)
    assert [v for v in lint.check_multivariant(listed) if v.must] == []
    return [{**said, "URI": uri} for said, uri in listed.variants]


def test_one_codec_needs_no_score() -> None:
    found = variants(
        video("source", Codec.H264, AVC, 1080, 6_000_000),
        video("360p", Codec.H264, AVC, 360, 800_000),
        sound("audio", AAC, 128_000, 0),
    )
    assert not any("SCORE" in said for said in found)


def test_every_variant_has_a_score_where_codecs_differ() -> None:
    found = variants(
        video("source", Codec.H264, AVC, 1080, 4_000_000),
        video("1080p", Codec.AV1, AV1, 1080, 3_000_000),
        video("360p", Codec.H264, AVC, 360, 800_000),
        sound("audio", AAC, 128_000, 0),
        sound("audio2", OPUS, 128_000, 1),
    )
    scores = {(said["URI"].split("/")[0], said["AUDIO"]): float(said["SCORE"]) for said in found}
    assert len(set(scores.values())) == len(found) == 6
    assert scores["1080p", "audio-opus"] > scores["1080p", "audio-aac"] > scores["source", "audio-opus"]
    assert scores["source", "audio-aac"] > scores["360p", "audio-opus"] > scores["360p", "audio-aac"] == 1


def test_codecs_tell_every_format_of_the_variant() -> None:
    found = variants(video("source", Codec.H264, AVC, 1080, 4_000_000), sound("audio", OPUS, 96_000, 0))
    assert found[0]["CODECS"] == "avc1.640028,opus"
    assert "VIDEO-RANGE" not in found[0]


def test_without_captions_every_variant_says_so() -> None:
    """A player that is not told looks for them in segments before it plays (Shaka 5.2)."""
    found = variants(
        video("source", Codec.H264, AVC, 1080, 6_000_000),
        video("360p", Codec.H264, AVC, 360, 800_000),
        sound("audio", AAC, 128_000, 0),
    )
    assert [said["CLOSED-CAPTIONS"] for said in found] == ["NONE", "NONE"]
    assert [said["CLOSED-CAPTIONS"] for said in variants(sound("audio", AAC, 128_000, 0))] == ["NONE"]


@pytest.mark.parametrize(("kind", "version"), [(Captions.CEA608, 6), (Captions.CEA708, 7)])
def test_captions_of_the_source_are_offered_by_every_variant(kind: Captions, version: int) -> None:
    entries = [
        replace(video("source", Codec.H264, AVC, 1080, 6_000_000), captions=kind),
        video("360p", Codec.H264, AVC, 360, 800_000),
        sound("audio", AAC, 128_000, 0),
    ]
    assert [said["CLOSED-CAPTIONS"] for said in variants(*entries)] == ["cc", "cc"]
    text = multivariant.render(entries).decode()
    assert f'INSTREAM-ID="{kind.value}"\n' in text
    assert f"#EXT-X-VERSION:{version}\n" in text


def test_tracks_that_are_called_the_same_have_names_of_their_own() -> None:
    tracks = [sound(f"audio-{n}", replace(AAC, name="Track"), 128_000, n) for n in range(3)]
    tracks[2] = replace(tracks[2], rendition=replace(tracks[2].rendition, language="de"))
    listed = parse.parse(multivariant.render([video("source", Codec.H264, AVC, 1080, 4_000_000), *tracks]))
    assert isinstance(listed, parse.Multivariant)
    assert lint.check_multivariant(listed) == []
    assert [said["NAME"] for said in listed.media] == ["Track (audio-0)", "Track (audio-1)", "Track (audio-2)"]
    assert [said["AUTOSELECT"] for said in listed.media] == ["YES", "NO", "YES"]


SEI = b"\0\0\0\x12\x06\x04\x0e\xb5\0\x31GA94\x03\x41\xff\xfc\x94\x20\xff\x80"
"""An SEI unit with one valid pair of CEA-608."""


@pytest.mark.parametrize("captioned", [False, True])
def test_captions_are_found_in_what_is_passed_through(studio: SimpleNamespace, captioned: bool) -> None:
    feed = studio.video(seconds=3)
    if captioned:
        feed.packets[:] = [replace(p, data=SEI + p.data) for p in feed.packets]
    presentation = Presentation("x", PackagerSettings())
    presentation.declare([feed.rendition])
    studio.play(presentation, studio.script([feed], studio.cuts_of(feed)))
    listed = render.multivariant(presentation).decode()
    assert ("CLOSED-CAPTIONS=NONE" in listed) is not captioned
    assert ('INSTREAM-ID="CC1"' in listed) is captioned
    assert (b'<Accessibility schemeIdUri="urn:scte:dash:cc:cea-608:2015"' in render.mpd(presentation)) is captioned
