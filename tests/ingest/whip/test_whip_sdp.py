"""Offers and fragments: what is read, what is refused, what is answered."""

from __future__ import annotations

import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from hypothesis import given
from hypothesis import strategies as st

from ingest.settings import IceServer
from ingest.whip import headers, sdp, sdpfrag
from ingest.whip.feedback import URI
from media.errors import HeadraceError, MediaError, ProtocolError
from media.track import Codec, Kind

PRINT = ":".join(["AB"] * 32)
TRANSPORT = f"""a=ice-ufrag:abcd
a=ice-pwd:0123456789012345678901
a=fingerprint:sha-256 {PRINT}
a=setup:actpass
a=rtcp-mux
"""
AUDIO = f"""m=audio 9 UDP/TLS/RTP/SAVPF 111 63
c=IN IP4 0.0.0.0
{TRANSPORT}a=mid:0
a=sendonly
a=rtpmap:111 opus/48000/2
a=fmtp:111 minptime=10;useinbandfec=1
a=rtpmap:63 red/48000/2
"""
VIDEO = f"""m=video 0 UDP/TLS/RTP/SAVPF 96 97 102 103 104
c=IN IP4 0.0.0.0
a=bundle-only
{TRANSPORT}a=mid:1
a=sendonly
a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid
a=extmap:99 urn:something:else
a=candidate:1 1 udp 2130706431 192.0.2.7 5000 typ host
a=candidate:2 1 tcp 2130706431 192.0.2.7 9 typ host tcptype active
a=candidate:3 1 udp 2130706431 0c1b6dd1-2d5f.local 5001 typ host
a=rtpmap:96 VP8/90000
a=rtcp-fb:96 nack
a=rtpmap:97 rtx/90000
a=fmtp:97 apt=96
a=rtpmap:102 H264/90000
a=rtcp-fb:102 goog-remb
a=rtcp-fb:102 transport-cc
a=rtcp-fb:102 nack
a=rtcp-fb:102 nack pli
a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=640c1f
a=rtpmap:103 rtx/90000
a=fmtp:103 apt=102
a=rtpmap:104 H264/90000
a=fmtp:104 packetization-mode=0;profile-level-id=42001f
a=ssrc-group:FID 11 22
a=ssrc:11 cname:x
a=ssrc:22 cname:x
"""
HEAD = "v=0\no=- 1 1 IN IP4 127.0.0.1\ns=-\nt=0 0\na=group:BUNDLE 0 1\n"
OFFER = HEAD + AUDIO + VIDEO


def test_the_offer_of_a_browser() -> None:
    offer = sdp.parse_offer(OFFER.replace("\n", "\r\n"))
    audio, video = offer.media
    assert (audio.kind, audio.codec, audio.payload_type) == (Kind.AUDIO, Codec.OPUS, 111)
    assert (video.codec, video.payload_type, video.rtx_type, video.ssrcs) == (Codec.H264, 102, 103, (11, 22))
    assert video.feedback == ("nack", "nack pli", "goog-remb")
    assert video.extensions == ((4, "urn:ietf:params:rtp-hdrext:sdes:mid"),)
    assert [candidate.address for candidate in offer.candidates] == ["192.0.2.7"]
    assert (offer.ignored_candidates, offer.answer_setup) == (2, "passive")


def test_vp8_only_if_there_is_no_h264() -> None:
    offer = sdp.parse_offer(OFFER.replace("H264", "H265"))
    assert (offer.media[1].codec, offer.media[1].payload_type, offer.media[1].rtx_type) == (Codec.VP8, 96, 97)


def test_transport_attributes_may_stand_in_the_session_part() -> None:
    offer = sdp.parse_offer(HEAD + TRANSPORT + (AUDIO + VIDEO).replace(TRANSPORT, ""))
    assert offer.ufrag == "abcd"
    assert sdp.parse_offer(OFFER.replace("actpass", "passive")).answer_setup == "active"


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("", "malformed_sdp"),
        ("v=0\n", "unsupported_offer"),
        (OFFER.replace("v=0", "v=1"), "malformed_sdp"),
        (OFFER.replace("a=mid:1", "a=mid:0"), "malformed_sdp"),
        (OFFER.replace("a=ice-ufrag:abcd", "a=ice-ufrag:a b"), "malformed_sdp"),
        (OFFER.replace("a=ice-pwd", "a=ice-pw"), "malformed_sdp"),
        (OFFER.replace("sha-256", "md5"), "malformed_sdp"),
        (OFFER.replace("setup:actpass", "setup:holdconn"), "malformed_sdp"),
        (OFFER.replace("sendonly", "recvonly"), "unsupported_offer"),
        (OFFER.replace("a=bundle-only\n", ""), "unsupported_offer"),
        (OFFER.replace("a=group:BUNDLE 0 1\n", ""), "unsupported_offer"),
        (OFFER + VIDEO.replace("a=mid:1", "a=mid:2"), "unsupported_offer"),
        (OFFER + "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\na=mid:2\n", "unsupported_offer"),
        (OFFER.replace("m=audio 9", "m=audio x"), "malformed_sdp"),
        (OFFER + "nonsense\n", "malformed_sdp"),
        (OFFER + "a=x\n" * 3000, "malformed_sdp"),
    ],
)
def test_offers_that_are_refused(text: str, slug: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        sdp.parse_offer(text)
    assert caught.value.slug == slug


def test_no_codec_in_common_is_said_in_words() -> None:
    with pytest.raises(MediaError, match=r"H\.264 or VP8, offered was AV1, H265, rtx"):
        sdp.parse_offer(OFFER.replace("H264", "H265").replace("VP8", "AV1"))


async def test_aiortc_takes_our_description_and_the_answer_has_the_real_profile() -> None:
    offer = sdp.parse_offer(OFFER)
    pc = RTCPeerConnection()
    try:
        await pc.setRemoteDescription(RTCSessionDescription(sdp.offer_for_aiortc(offer), "offer"))
        answer = (await pc.createAnswer()).sdp
    finally:
        await pc.close()
    ours = sdp.Candidate("f", 9, "203.0.113.5", 40_000, "host")
    text = sdp.answer_for_peer(answer, offer, [ours])
    assert text.count("a=setup:passive") == 2
    assert "active" not in text
    assert "a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=640c1f" in text
    assert "a=fmtp:103 apt=102" in text
    assert "stereo=1" in text
    assert "VP8" not in text
    assert text.count("a=candidate:f 1 udp 9 203.0.113.5 40000 typ host\r\n") == 2
    assert text.count("a=recvonly") == 2
    assert "m=audio 40000 " in text
    assert "c=IN IP4 203.0.113.5" in text


async def test_feedback_for_every_packet_is_agreed_where_all_sections_have_it() -> None:
    extmap = f"a=extmap:3 {URI}\na=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time\n"
    text = OFFER.replace("a=mid:0\n", "a=mid:0\n" + extmap + "a=rtcp-fb:111 transport-cc\n")
    assert sdp.parse_offer(text).transport_cc is None, "audio only"
    offer = sdp.parse_offer(text.replace("a=mid:1\n", "a=mid:1\n" + extmap))
    assert offer.transport_cc == 3
    shown = sdp.offer_for_aiortc(offer)
    assert "goog-remb" not in shown
    assert "abs-send-time" not in shown
    pc = RTCPeerConnection()
    try:
        await pc.setRemoteDescription(RTCSessionDescription(shown, "offer"))
        answer = sdp.answer_for_peer((await pc.createAnswer()).sdp, offer, [])
    finally:
        await pc.close()
    assert answer.count(f"a=extmap:3 {URI}\r\n") == 2
    assert "a=rtcp-fb:102 transport-cc\r\n" in answer
    assert "a=rtcp-fb:111 transport-cc\r\n" in answer
    assert "a=rtcp-fb:103" not in answer


def test_fragments() -> None:
    text = "a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\n"
    text += "a=candidate:1 1 UDP 5 2001:db8::1 99 typ srflx raddr :: rport 0\r\na=end-of-candidates\r\n"
    fragment = sdpfrag.parse(text)
    assert (fragment.ufrag, fragment.complete) == ("abcd", True)
    assert fragment.candidates == (sdp.Candidate("1", 5, "2001:db8::1", 99, "srflx"),)
    again = sdpfrag.parse(sdpfrag.render("wxyz", "p" * 22, "0", "audio", fragment.candidates))
    assert (again.ufrag, again.candidates) == ("wxyz", fragment.candidates)
    with pytest.raises(ProtocolError):
        sdpfrag.parse("hello")
    with pytest.raises(ProtocolError):
        sdpfrag.parse("a=ice-ufrag:\u00e9\u00e9\u00e9\u00e9\n")


LINES = st.sampled_from(OFFER.splitlines())


@given(st.lists(st.one_of(LINES, st.text(max_size=30)), max_size=60), st.booleans())
def test_only_our_errors_whatever_the_offer(lines: list[str], head: bool) -> None:
    text = "\n".join(lines)
    for parse in (sdp.parse_offer, sdpfrag.parse):
        try:
            parse(HEAD + text if head else text)
        except HeadraceError:
            continue


@given(st.integers(0, len(OFFER)), st.binary(max_size=6))
def test_a_broken_offer_never_reaches_aiortc(at: int, junk: bytes) -> None:
    try:
        offer = sdp.parse_offer(OFFER[:at] + junk.decode("latin-1") + OFFER[at:])
    except HeadraceError:
        return
    text = sdp.offer_for_aiortc(offer)
    assert text.isascii()
    assert sdp.parse_offer(text).media[0].codec is offer.media[0].codec


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a=ssrc-group:FID 11 22", "a=ssrc-group:"),
        ("a=group:BUNDLE 0 1", "a=group:\na=group:BUNDLE 0 1"),
        ("a=ssrc-group:FID 11 22", "a=ssrc-group:FID 11 " + "9" * 5000),
        ("a=ssrc:11 cname:x", "a=ssrc:" + "9" * 5000),
        ("a=ssrc:11 cname:x", "a=ssrc:\u0661 cname:x"),
        ("a=extmap:4 ", "a=extmap:" + "4" * 5000 + " "),
        ("a=rtpmap:96 ", "a=rtpmap:" + "9" * 5000 + " "),
        (" 2130706431 ", " " + "2" * 5000 + " "),
        (" 103 104\n", " 103 104 " + "1" * 5000 + "\n"),
    ],
)
def test_odd_numbers_break_nothing(old: str, new: str) -> None:
    assert old in OFFER
    offer = sdp.parse_offer(OFFER.replace(old, new, 1))
    sdp.offer_for_aiortc(offer).encode("ascii")
    assert offer.media[1].codec is Codec.H264


def test_link_headers_survive_a_client_that_splits_at_commas() -> None:
    servers = [
        IceServer(urls=("stun:stun.example.net", "turn:turn.example.net?transport=udp"), username="u", credential="p"),
        IceServer(urls=("turn:turn.example.org",), username="u", credential="a,b"),
    ]
    links = headers.links(servers)
    assert len(links) == 2
    turn = '<turn:turn.example.net?transport=udp>; rel="ice-server"; username="u"; credential="p"'
    assert links[1] == turn + '; credential-type="password"'


def test_if_match() -> None:
    assert headers.if_match(None, '"a"') == 428
    assert headers.if_match('"b"', '"a"') == 412
    assert headers.if_match('"a"', '"a"') == 0
    assert headers.if_match("*", '"a"') == headers.if_match('"*"', '"a"') == 1
