"""The validator finds what is wrong: each rule with a playlist that breaks it; and junk is refused politely."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.errors import ProtocolError
from packager.hls import lint, parse

GOOD = """#EXTM3U
#EXT-X-VERSION:6
#EXT-X-TARGETDURATION:2
#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.5,CAN-SKIP-UNTIL=12.0,HOLD-BACK=6.0
#EXT-X-PART-INF:PART-TARGET=0.50000
#EXT-X-MEDIA-SEQUENCE:4
#EXT-X-DISCONTINUITY-SEQUENCE:0
#EXT-X-INDEPENDENT-SEGMENTS
#EXT-X-MAP:URI="init.mp4"
#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:08.000Z
#EXTINF:2.00000,
4.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:10.000Z
#EXT-X-PART:DURATION=0.50000,URI="5.0.m4s",INDEPENDENT=YES
#EXT-X-PART:DURATION=0.50000,URI="5.1.m4s"
#EXT-X-PART:DURATION=0.50000,URI="5.2.m4s"
#EXT-X-PART:DURATION=0.50000,URI="5.3.m4s"
#EXTINF:2.00000,
5.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:12.000Z
#EXT-X-PART:DURATION=0.50000,URI="6.0.m4s",INDEPENDENT=YES
#EXT-X-PRELOAD-HINT:TYPE=PART,URI="6.1.m4s"
#EXT-X-RENDITION-REPORT:URI="../a/media.m3u8",LAST-MSN=6,LAST-PART=0
"""
NEXT = GOOD.replace(
    '#EXT-X-PRELOAD-HINT:TYPE=PART,URI="6.1.m4s"',
    '#EXT-X-PART:DURATION=0.50000,URI="6.1.m4s"\n#EXT-X-PRELOAD-HINT:TYPE=PART,URI="6.2.m4s"',
)
ROLLED = NEXT.replace("SEQUENCE:4", "SEQUENCE:5").replace(
    "#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:08.000Z\n#EXTINF:2.00000,\n4.m4s\n", ""
)
MASTER = """#EXTM3U
#EXT-X-INDEPENDENT-SEGMENTS
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="x",LANGUAGE="en",DEFAULT=YES,AUTOSELECT=YES,CHANNELS="2",URI="a.m3u8"
#EXT-X-STREAM-INF:BANDWIDTH=2,AVERAGE-BANDWIDTH=1,CODECS="avc1.64001f,mp4a.40.2",RESOLUTION=2x2,FRAME-RATE=30.000,AUDIO="a"
v.m3u8
"""


def media(text: str) -> parse.MediaPlaylist:
    found = parse.parse(text.encode())
    assert isinstance(found, parse.MediaPlaylist)
    return found


@pytest.mark.parametrize("last", ["2026-01-01T00:00:12.000", "9999-12-31T23:59:59.999Z"])
def test_dates_without_a_zone_or_beyond_all_calendars_are_read(last: str) -> None:
    text = GOOD.replace("2026-01-01T00:00:12.000Z", last)
    said = [violation.rule for violation in lint.check(media(text))]
    assert said == ([] if last.startswith("2026") else ["APPLE 8.4"])
    after = text + f"#EXTINF:0.50000,\n6.m4s\n#EXT-X-PROGRAM-DATE-TIME:{last}\n#EXTINF:2.00000,\n7.m4s\n"
    assert "APPLE 8.4" in [violation.rule for violation in lint.check(media(after))]


def test_good_playlists_pass() -> None:
    assert lint.check(media(GOOD)) == []
    assert lint.follow(media(GOOD), media(NEXT)) == []
    found = parse.parse(MASTER.encode())
    assert isinstance(found, parse.Multivariant)
    assert lint.check_multivariant(found) == []


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("TARGETDURATION:2", "TARGETDURATION:1", "4.4.3.1"),
        ("VERSION:6", "VERSION:3", "8"),
        ("PART-TARGET=0.50000", "PART-TARGET=0.49000", "4.4.4.9"),
        ("PART-TARGET=0.50000", "PART-TARGET=0.60000", "4.4.3.7"),
        ("PART-HOLD-BACK=1.5", "PART-HOLD-BACK=1.0", "APPLE 14.3"),
        ("PART-HOLD-BACK=1.5,", "", "4.4.3.8"),
        ("HOLD-BACK=6.0", "HOLD-BACK=5.0", "4.4.3.8"),
        ("CAN-SKIP-UNTIL=12.0", "CAN-SKIP-UNTIL=11.0", "4.4.3.8"),
        ("#EXT-X-PART-INF:PART-TARGET=0.50000\n", "", "4.4.3.7"),
        ('URI="6.1.m4s"\n', 'URI="6.0.m4s"\n', "4.4.5.3"),
        ("00:00:12.000Z", "00:00:12.100Z", "APPLE 8.4"),
        ('0,URI="5.3.m4s"', '0,URI="5.3.m4s"\n#EXT-X-DISCONTINUITY', "4.4.4.9"),
        ('DURATION=0.50000,URI="5.3', 'DURATION=0.40000,URI="5.3', "4.4.4.9"),
        ("#EXT-X-RENDITION", "#EXT-X-ENDLIST\n#EXT-X-RENDITION", "4.4.5.3"),
        ("#EXT-X-MEDIA-SEQUENCE:4", "#EXT-X-MEDIA-SEQUENCE:4\n#EXT-X-MEDIA-SEQUENCE:4", "4.4"),
    ],
)
def test_each_rule_by_itself(old: str, new: str, rule: str) -> None:
    broken = GOOD.replace(old, new)
    assert broken != GOOD
    assert rule in {violation.rule for violation in lint.check(media(broken))}


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        (GOOD, NEXT.replace("DURATION:2", "DURATION:3"), "6.2.1"),
        (GOOD, NEXT.replace("PART-TARGET=0.50000", "PART-TARGET=0.50100"), "4.4.3.7"),
        (GOOD, NEXT.replace("HOLD-BACK=6.0", "HOLD-BACK=7.0"), "4.4.3.8"),
        (ROLLED, NEXT, "6.2.2"),
        (NEXT, GOOD.replace('#EXT-X-PART:DURATION=0.50000,URI="6.0.m4s",INDEPENDENT=YES\n', ""), "6.2.2"),
        (GOOD, NEXT.replace("5.m4s\n", "5b.m4s\n"), "6.2.1"),
        (GOOD, NEXT.replace("00:00:10.000Z", "00:00:10.001Z"), "6.2.1"),
        (GOOD, NEXT.replace('URI="init', 'URI="other'), "6.2.1"),
        (GOOD, NEXT.replace('"5.1.m4s"', '"5.9.m4s"'), "6.2.1"),
        (GOOD, NEXT.replace("6.1.m4s", "6.7.m4s"), "4.4.5.3"),
        (GOOD, ROLLED, "6.2.2"),
        (GOOD, NEXT.replace("TY-SEQUENCE:0", "TY-SEQUENCE:1"), "6.2.2"),
    ],
)
def test_each_rule_between_two(before: str, after: str, rule: str) -> None:
    assert rule in {violation.rule for violation in lint.follow(media(before), media(after))}


def test_a_hint_is_no_promise() -> None:
    """The source stopped within segment 6, and came back as segment 7."""
    back = (
        "#EXTINF:0.50000,\n6.m4s\n#EXT-X-DISCONTINUITY\n#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:20.000Z\n"
        '#EXT-X-PART:DURATION=0.50000,URI="7.0.m4s",INDEPENDENT=YES\n#EXT-X-PRELOAD-HINT:TYPE=PART,URI="7.1.m4s"'
    )
    after = media(GOOD.replace('#EXT-X-PRELOAD-HINT:TYPE=PART,URI="6.1.m4s"', back).replace("MSN=6", "MSN=7"))
    assert lint.follow(media(GOOD), after) == []


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("AVERAGE-BANDWIDTH=1,", "", "APPLE 9"),
        ('AUDIO="a"\n', 'AUDIO="b"\n', "4.4.6.2"),
        (",RESOLUTION=2x2", "", "APPLE 9.2"),
        ('LANGUAGE="en",', "", "APPLE 8.10"),
        ("BANDWIDTH=2", "BANDWIDTH=0", "4.4.6.2"),
        ('AUDIO="a"\n', 'AUDIO="a",CLOSED-CAPTIONS="cc"\n', "4.4.6.2"),
        ("#EXT-X-STREAM", "#EXT-X-STREAM-INF:CLOSED-CAPTIONS=NONE\nw.m3u8\n#EXT-X-STREAM", "4.4.6.2"),
        ("TYPE=AUDIO", "TYPE=CLOSED-CAPTIONS", "4.4.6.1"),
    ],
)
def test_each_rule_of_the_list_of_variants(old: str, new: str, rule: str) -> None:
    found = parse.parse(MASTER.replace(old, new, 1).encode())
    assert isinstance(found, parse.Multivariant)
    assert rule in {violation.rule for violation in lint.check_multivariant(found)}


def test_playlists_of_one_presentation() -> None:
    other = GOOD.replace("TY-SEQUENCE:0", "TY-SEQUENCE:1").replace("DURATION:2", "DURATION:3")
    rules = [violation.text for violation in lint.compare({"a": media(GOOD), "b": media(other)})]
    assert any("target" in text for text in rules)
    assert any("discontinuity number" in text for text in rules)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.sampled_from(GOOD.splitlines()), max_size=40).map("\n".join).map(str.encode),
    )
)
def test_junk_is_refused_politely(data: bytes) -> None:
    for sent in (data, b"#EXTM3U\n" + data, GOOD.encode() + data):
        try:
            found = parse.parse(sent)
        except ProtocolError:
            continue
        if isinstance(found, parse.MediaPlaylist):
            lint.check(found)
            lint.follow(found, found)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xef\xbb\xbf#EXTM3U\n",
        b"#EXTM3U\n\xff",
        b"#EXTM3U \n",
        b"hello",
        b"#EXTM3U\n#EXTINF:NaN,\na\n",
        b"#EXTM3U\n#EXTINF:x,\na\n",
    ],
)
def test_what_is_no_playlist(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse.parse(data)


@pytest.mark.parametrize("text", ["A=1, B=2", "A=1,A=2", "a=1", "A", 'A="x', "A=1,"])
def test_bad_attribute_lists(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse.attributes(text)
