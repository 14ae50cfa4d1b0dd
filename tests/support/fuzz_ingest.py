"""What fuzzing feeds the ways in: RTMP, MPEG-TS and SRT, WHIP."""

from __future__ import annotations

from random import Random

from aiortc.codecs import depayload
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket
from fuzz import Target, cut, quietly
from fuzz_seeds import FRAGMENT, OFFER, Clips
from rtmp_double import GOOD_KEY, Script
from rtmp_publisher import Tag

from ingest.mpegts.demuxer import Demuxer
from ingest.mpegts.events import AccessUnit
from ingest.rtmp import amf0, flv, handshake
from ingest.rtmp.events import Media
from ingest.rtmp.messages import Kind, Message
from ingest.rtmp.session import Session
from ingest.rtmp.state import State
from ingest.rtmp.tracks import Tracks
from ingest.sample import MPEGTS_CLOCK, RTMP_CLOCK, Sample
from ingest.settings import LimitSettings
from ingest.srt import streamid
from ingest.timeline import Timeline
from ingest.whip import feedback, sdp, sdpfrag
from ingest.whip.lipsync import LipSync
from ingest.whip.rtp import Frames, Nacks, Piece, h264_starts_key, vp8_starts_key
from ingest.whip.tracks import Audio, Video
from media.errors import MediaError, ProtocolError
from media.track import Codec
from media.track import Kind as TrackKind

LIMITS = LimitSettings(max_message_bytes=65_536, max_partial_bytes=65_536)


def _multitrack(tag: Tag) -> bytes:
    """A legacy video or audio tag as an enhanced message of two tracks."""
    is_video = tag.kind == Kind.VIDEO
    kind = (0 if tag.body[1] == 0 else 3) if is_video else (0 if tag.body[1] == 0 else 1)
    data = tag.body[5:] if is_video else tag.body[2:]
    head = bytes((0x90 | 6, 0x10 | kind)) + b"avc1" if is_video else bytes((0x90 | 5, 0x10 | kind)) + b"mp4a"
    return head + b"".join(bytes((track,)) + len(data).to_bytes(3, "big") + data for track in (0, 1))


def _ex_audio(asc: bytes) -> bytes:
    return b"\x90mp4a" + asc


def _rtmp() -> Target:
    """Handshake, chunks, commands and media of a whole session, into the timeline."""
    script, seeds = Script(), []
    for name in ("flv", "enhanced"):
        start = script.start(GOOD_KEY, capsEx=15.0, fourCcList=["av01", "hvc1"])
        media = b"".join(
            script.message(Message(Kind(tag.kind), tag.ms, 1, tag.body, 4 + (tag.kind & 2))) for tag in Clips.tags(name)
        )
        seeds += [start + media[:20_000], start, start + media[:3000]]
    extra = script.message(Message(Kind.AGGREGATE, 9, 1, b"\x08\0\0\x04\0\0\0\0\0\0\0\xaf\x01ab\0\0\0\x0f" * 3, 4))
    seeds.append(seeds[2] + extra + script.command("deleteStream", 7.0, None, 1.0) + script.publish("other"))

    def run(data: bytes, dice: Random) -> None:
        session = Session(LIMITS, bytes(1528), 0.0)
        timeline = Timeline(lambda: 0, RTMP_CLOCK, jump_limit_s=3.0)
        now = 0.0
        for piece in cut(data, dice):
            now += 0.01
            events = session.receive(piece, now)
            if session.state is State.ASKING:
                events += session.admit(now)
            for event in events:
                if isinstance(event, Media):
                    timeline.feed(event.sample, now)
            session.check(now)
            session.data_to_send()
        timeline.flush()

    return Target("rtmp", seeds, run, (MediaError,))


def _amf() -> Target:
    values: dict[str, amf0.Value] = {"a": 1.0, "b": [True, None, "x"], "c": {"d": amf0.EcmaArray(e=2.0)}}
    seeds = [tag.body for tag in Clips.tags("flv") if tag.kind == Kind.DATA_AMF0] + [amf0.encode("x", 1.0, values)]
    words = [bytes((marker,)) for marker in range(18)] + [b"\0\0\x09", b"\x0a\0\0\xff\xff", b"\x03\0\x01a" * 20]
    return Target("amf", seeds, lambda data, _: amf0.decode(data), (ProtocolError,), words)


def _flv() -> Target:
    """Media messages, legacy and enhanced, to samples; and the metadata before them."""
    tags = Clips.tags("flv") + Clips.tags("enhanced")
    seeds = [bytes((tag.kind,)) + tag.body[:3000] for tag in tags]
    seeds += [bytes((tag.kind,)) + _multitrack(tag)[:3000] for tag in Clips.tags("flv") if tag.kind in (8, 9)]
    seeds += [b"\x08" + _ex_audio(b"\x12\x10"), b"\x09\x97\x02\0\0\x01\0\x10avc1", b"\x08\x90Opus", b"\x08\x94Opus\1\2"]

    def run(data: bytes, dice: Random) -> None:
        tracks = Tracks(4)
        tracks.metadata({"audioTrackIdInfoMap": {"0": {"language": "en"}}, "width": 1e300})
        for body in (seeds[1], seeds[2], data, seeds[dice.randrange(len(seeds))], data):
            take = tracks.video if body[:1] == b"\x09" else tracks.audio
            take(dice.randrange(1 << 32), body[1:])
        list(flv.video(data))
        list(flv.audio(data))

    return Target(
        "flv", seeds, run, (ProtocolError, MediaError), [b"avc1", b"hvc1", b"av01", b"Opus", b"mp4a", b"\x97"]
    )


def _handshake() -> Target:
    def run(data: bytes, _: Random) -> None:
        if data:
            handshake.check_version(data[0])
        if len(data) >= handshake.SIZE:
            handshake.s2(data[: handshake.SIZE], 1)

    return Target("handshake", [Script.hello, b"\x03" + bytes(range(256)) * 6], run, (ProtocolError,))


def _mpegts() -> Target:
    """Transport packets, tables, PES and both codecs' framing, into the timeline. Never raises."""
    seeds = [Clips.get(name)[: 188 * count] for name in ("h264", "hevc") for count in (2, 40, 200)]

    def run(data: bytes, dice: Random) -> None:
        demuxer = Demuxer(max_unit_bytes=65_536, max_tracks=4)
        timeline = Timeline(lambda: 0, MPEGTS_CLOCK, jump_limit_s=3.0)
        events = [event for piece in cut(data, dice) for event in demuxer.feed(piece)] + demuxer.flush()
        for event in events:
            if isinstance(event, AccessUnit):
                timeline.feed(
                    Sample(event.track, event.dts, event.data, event.keyframe, pts=event.pts,
                           offset_samples=event.offset_samples, duration_samples=event.duration_samples,
                           estimated=event.estimated), dice.random()
                )  # fmt: skip
        timeline.flush()

    return Target(
        "mpegts", seeds, run, (), [b"\x47\x40\x00\x10", b"\0\0\1\xe0\0\0\x80\xc0\x0a", b"\x47\x41\x00\x30\x01\x80"]
    )


def _streamid() -> Target:
    seeds = [b"#!::r=live/KEY,m=publish,u=me,x=1", b"live/KEY?a=b&c", b"publish:KEY", b"%23!%3A%3Ar=KEY", b"read/KEY"]
    return Target(
        "streamid", seeds, lambda data, _: streamid.parse(data), (ProtocolError,), [b"#!::", b",", b"=", b"%"]
    )


def _sdp() -> Target:
    """Offers and fragments of WHIP, and what our answer makes of an offer that was taken."""

    def run(data: bytes, _: Random) -> None:
        text = data.decode("utf-8")
        quietly(lambda: sdpfrag.parse(text))
        offer = sdp.parse_offer(text)
        sdp.offer_for_aiortc(offer)

    words = [line.encode() + b"\r\n" for line in OFFER.splitlines()] + [b"*", b":", b";", b" ", b"9" * 12, b"9" * 5000]
    return Target(
        "sdp", [OFFER.encode(), FRAGMENT.encode()], run, (ProtocolError, MediaError, UnicodeDecodeError), words
    )


def _rtp() -> Target:
    """RTP as aiortc reads it, then our depayload, order, frames and codecs; and header extensions."""
    units = [unit.data for unit in Clips.units("h264") if unit.track.kind is TrackKind.VIDEO]
    payloads = [unit[4:1200] for unit in units[:8]] + [
        b"\x7c\x85" + units[0][5:600],
        b"\x78\0\4\x67\x42\0\x1f\0\2\x68\xce",
    ]
    payloads += [b"\x10\x10\x02\0\x9d\x01\x2a\x80\0\x60\0" + bytes(50), b"\x90\x80\x05\x01\x02", b"\xfc" + bytes(40)]
    head = b"\x90\x66\x00\x01\0\0\0\x2a\0\0\0\x0b\xbe\xde\0\1\x31\0\1\0"
    seeds = [head + payload for payload in payloads] + [b"\x80\xe6\0\2\0\0\0\x2a\0\0\0\x0b" + payloads[0]]
    codecs = [RTCRtpCodecParameters(f"video/{name}", 90_000) for name in ("H264", "VP8")]

    def run(data: bytes, dice: Random) -> None:
        feedback.extension(data, dice.randrange(1, 15))
        parts, nacks, reports = Frames(hole_wait_us=0, max_frame_bytes=65_536), Nacks(), feedback.Feedback()
        which = dice.randrange(2)
        video, audio = Video((Codec.H264, Codec.VP8)[which], LipSync()), Audio(LipSync())
        for step in range(4):
            packet = RtpPacket.parse(data)
            payload = depayload(codecs[which], packet.payload) if packet.payload else b""
            number = (packet.sequence_number + dice.choice((0, 1, 1, 2, 700, 30_000)) * step) & 0xFFFF
            key = vp8_starts_key(packet.payload, payload) if which else h264_starts_key(packet.payload)
            piece = Piece(number, packet.timestamp, bool(packet.marker), payload, key)
            nacks.due(number, step)
            reports.seen(number, step * dice.randrange(100_000_000))
            for found in parts.push(piece, step):
                video.frame(found, step)
            audio.packet(piece, step)
        reports.build(1, 2)

    return Target("rtp", seeds, run, (ValueError,))


TARGETS = (
    _rtmp,
    _amf,
    _flv,
    _handshake,
    _mpegts,
    _streamid,
    _sdp,
    _rtp,
)
