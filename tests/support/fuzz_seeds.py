"""What fuzzing begins from: streams that ffmpeg made, and texts as real clients send them."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import imageio_ffmpeg
from rtmp_publisher import Tag

from ingest.mpegts.demuxer import Demuxer
from ingest.mpegts.events import AccessUnit
from ingest.whip import feedback

SOURCE = "-f lavfi -i testsrc2=s=128x96:r=25:d=1 -f lavfi -i sine=440:d=1 -threads 1 -shortest"
RECIPES = {
    "h264": ("-c:v libx264 -preset fast -bf 2 -g 10 -c:a aac", "mpegts"),
    "hevc": ("-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=10 -c:a libopus", "mpegts"),
    "flv": ("-c:v libx264 -preset ultrafast -bf 2 -g 10 -c:a aac", "flv"),
    "enhanced": ("-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=10 -c:a aac", "flv"),
    "av1": ("-c:v libsvtav1 -preset 12 -an", "obu"),
}
OFFER = """v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=extmap-allow-mixed\r
m=audio 9 UDP/TLS/RTP/SAVPF 111 63\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r
a=ice-pwd:0123456789012345678901\r\na=ice-options:trickle\r\na=fingerprint:sha-256 {print}\r\na=setup:actpass\r
a=mid:0\r\na=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\na=extmap:3 {cc}\r\na=sendonly\r
a=msid:- a\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 transport-cc\r
a=fmtp:111 minptime=10;useinbandfec=1\r\na=rtpmap:63 red/48000/2\r\na=ssrc:1 cname:x\r
m=video 9 UDP/TLS/RTP/SAVPF 96 97 102 103\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r
a=ice-pwd:0123456789012345678901\r\na=fingerprint:sha-256 {print}\r\na=setup:actpass\r\na=mid:1\r\na=sendonly\r
a=rtcp-mux\r\na=rtcp-rsize\r\na=extmap:3 {cc}\r\na=candidate:1 1 udp 2130706431 192.0.2.7 5000 typ host\r
a=candidate:2 1 udp 2130706431 abc.local 5001 typ host\r\na=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack pli\r
a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\na=rtpmap:102 H264/90000\r\na=rtcp-fb:102 nack\r
a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\na=rtpmap:103 rtx/90000\r
a=fmtp:103 apt=102\r\na=ssrc-group:FID 11 22\r\na=ssrc:11 cname:x\r\na=ssrc:22 cname:x\r\na=end-of-candidates\r
""".format(print=":".join(["AB"] * 32), cc=feedback.URI)
FRAGMENT = (
    "a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\n"
    "a=candidate:1 1 udp 2130706431 192.0.2.7 5000 typ host\r\na=end-of-candidates\r\n"
)
HEAD = (
    b"GET /live/a/source/media.m3u8?_HLS_msn=4&_HLS_part=1 HTTP/1.1\r\nHost: x\r\nRange: bytes=0-99\r\n"
    b'If-None-Match: "abc", W/"d"\r\nAccept-Encoding: gzip;q=0.5, br\r\nConnection: keep-alive\r\n\r\n'
)
PLAYLIST = b"""#EXTM3U
#EXT-X-VERSION:9
#EXT-X-TARGETDURATION:2
#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.5,CAN-SKIP-UNTIL=12.0,HOLD-BACK=6.0
#EXT-X-PART-INF:PART-TARGET=0.50000
#EXT-X-MEDIA-SEQUENCE:4
#EXT-X-DISCONTINUITY-SEQUENCE:0
#EXT-X-INDEPENDENT-SEGMENTS
#EXT-X-MAP:URI="init.mp4",BYTERANGE="100@0"
#EXT-X-SKIP:SKIPPED-SEGMENTS=3
#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:08.000Z
#EXTINF:2.00000,
4.m4s
#EXT-X-DISCONTINUITY
#EXT-X-GAP
#EXT-X-DATERANGE:ID="a",START-DATE="2026-01-01T00:00:10Z",DURATION=2.5,X-A="b"
#EXT-X-PART:DURATION=0.50000,URI="5.0.m4s",INDEPENDENT=YES
#EXTINF:2.00000,
5.m4s
#EXT-X-PRELOAD-HINT:TYPE=PART,URI="6.1.m4s"
#EXT-X-RENDITION-REPORT:URI="../a/media.m3u8",LAST-MSN=6,LAST-PART=0
"""
VARIANTS = b"""#EXTM3U
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="x",LANGUAGE="en",DEFAULT=YES,AUTOSELECT=YES,CHANNELS="2",URI="a.m3u8"
#EXT-X-STREAM-INF:BANDWIDTH=2,AVERAGE-BANDWIDTH=1,CODECS="avc1.64001f,mp4a.40.2",RESOLUTION=2x2,AUDIO="a"
v.m3u8
#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=2,CODECS="avc1.64001f",RESOLUTION=2x2,URI="i.m3u8"
"""


class Clips:
    """Real streams, made once."""

    made: dict[str, bytes] = {}  # noqa: RUF012

    @classmethod
    def get(cls, name: str) -> bytes:
        if name not in cls.made:
            codecs, form = RECIPES[name]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "clip"
                command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *SOURCE.split(), *codecs.split()]
                subprocess.run([*command, "-f", form, str(path)], check=True, timeout=60, capture_output=True)
                cls.made[name] = path.read_bytes()
        return cls.made[name]

    @classmethod
    def units(cls, name: str) -> list[AccessUnit]:
        demuxer = Demuxer()
        events = demuxer.feed(cls.get(name)) + demuxer.flush()
        return [event for event in events if isinstance(event, AccessUnit)]

    @classmethod
    def tags(cls, name: str) -> list[Tag]:
        data, at, found = cls.get(name), 13, []
        while at + 11 <= len(data):
            size = int.from_bytes(data[at + 1 : at + 4], "big")
            found.append(Tag(data[at], int.from_bytes(data[at + 4 : at + 7], "big"), data[at + 11 : at + 11 + size]))
            at += 15 + size
        return found
