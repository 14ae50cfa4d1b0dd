"""What `fuzz.py` feeds: every parser that reads from the network, each with real input to begin from."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from aiortc.codecs import depayload
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket
from fuzz import Target, cut
from fuzz_seeds import FRAGMENT, HEAD, OFFER, PLAYLIST, VARIANTS, Clips
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey
from rtmp_double import GOOD_KEY, Script
from rtmp_publisher import Tag

from control import credentials
from control.snapshot import KeyRecord, Snapshot, StreamRecord
from control.stream_settings import StreamSettings
from edge import ranges, request, target
from edge.h2 import core, frames, hpack
from edge.h2 import request as h2_request
from edge.h2.sending import Stream
from edge.tokens import TokenGuard
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
from ingest.whip import feedback, headers, sdp, sdpfrag
from ingest.whip.lipsync import LipSync
from ingest.whip.rtp import Frames, Nacks, Piece, h264_starts_key, vp8_starts_key
from ingest.whip.tracks import Audio, Video
from media.codecs import aac, audio_track, av1, h264, hevc, nal, normalise_video, opus, video_track
from media.codecs.av1_sequence import parse_sequence_header
from media.codecs.captions import captions
from media.codecs.hevc_sps import parse_sps as parse_hevc_sps
from media.errors import HeadraceError, MediaError, ProtocolError
from media.track import Codec
from media.track import Kind as TrackKind
from packager.cmaf import read
from packager.cmaf.fragment import Sample as FragmentSample
from packager.cmaf.fragment import chunk
from packager.cmaf.init import init_segment
from packager.hls import blocking, lint, parse
from packager.hls.media_lint import Tape
from transcode import messages as worker_messages
from transcode.wire import Decoder, frame

QUERY_KEYS = frozenset({"_HLS_msn", "_HLS_part", "_HLS_skip"})
LIMITS = LimitSettings(max_message_bytes=65_536, max_partial_bytes=65_536)
MAKERS: dict[str, Callable[[], Target]] = {}


def _target(maker: Callable[[], Target]) -> Callable[[], Target]:
    MAKERS[maker.__name__.strip("_")] = maker
    return maker


def targets() -> list[Target]:
    """Every parser, ready to be fed."""
    return [make() for make in MAKERS.values()]


def _multitrack(tag: Tag) -> bytes:
    """A legacy video or audio tag as an enhanced message of two tracks."""
    is_video = tag.kind == Kind.VIDEO
    kind = (0 if tag.body[1] == 0 else 3) if is_video else (0 if tag.body[1] == 0 else 1)
    data = tag.body[5:] if is_video else tag.body[2:]
    head = bytes((0x90 | 6, 0x10 | kind)) + b"avc1" if is_video else bytes((0x90 | 5, 0x10 | kind)) + b"mp4a"
    return head + b"".join(bytes((track,)) + len(data).to_bytes(3, "big") + data for track in (0, 1))


def _ex_audio(asc: bytes) -> bytes:
    return b"\x90mp4a" + asc


@_target
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


@_target
def _amf() -> Target:
    values: dict[str, amf0.Value] = {"a": 1.0, "b": [True, None, "x"], "c": {"d": amf0.EcmaArray(e=2.0)}}
    seeds = [tag.body for tag in Clips.tags("flv") if tag.kind == Kind.DATA_AMF0] + [amf0.encode("x", 1.0, values)]
    words = [bytes((marker,)) for marker in range(18)] + [b"\0\0\x09", b"\x0a\0\0\xff\xff", b"\x03\0\x01a" * 20]
    return Target("amf", seeds, lambda data, _: amf0.decode(data), (ProtocolError,), words)


@_target
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


@_target
def _handshake() -> Target:
    def run(data: bytes, _: Random) -> None:
        if data:
            handshake.check_version(data[0])
        if len(data) >= handshake.SIZE:
            handshake.s2(data[: handshake.SIZE], 1)

    return Target("handshake", [Script.hello, b"\x03" + bytes(range(256)) * 6], run, (ProtocolError,))


@_target
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


CAPTIONS = b"\0\0\0\x12\x06\x04\x0e\xb5\0\x31GA94\x03\x41\xff\xfc\x94\x20\xff\x80"
"""An SEI unit of H.264 with its length in front."""


@_target
def _h264() -> Target:
    units = Clips.units("h264")
    video = [unit for unit in units if unit.track.kind is TrackKind.VIDEO]
    record = video[0].track.config
    seeds = [record, *h264.parse_avcc(record).sps, *(unit.data[:2000] for unit in video[:4])]

    def run(data: bytes, _: Random) -> None:
        for parser in (
            lambda: h264.parse_avcc(data), lambda: video_track(0, Codec.H264, data), lambda: h264.parse_sps(data),
            lambda: normalise_video(Codec.H264, nal.split_lengths(data), record), lambda: nal.split_annexb(data),
            lambda: normalise_video(Codec.H264, nal.split_annexb(data), b""), lambda: h264.codec_string(data),
            lambda: captions(Codec.H264, data),
        ):  # fmt: skip
            _quietly(parser)

    return Target("h264", seeds, run, (), [CAPTIONS, b"\0\0\1", b"\0\0\3", b"\0\0\0\1\x67", b"\0\0\0\1\x68\xce"])


@_target
def _hevc() -> Target:
    video = [unit for unit in Clips.units("hevc") if unit.track.kind is TrackKind.VIDEO]
    record = video[0].track.config
    config = hevc.parse_hvcc(record)
    seeds = [record, *config.sps, *config.vps, *(unit.data[:2000] for unit in video[:4])]

    def run(data: bytes, _: Random) -> None:
        for parser in (
            lambda: hevc.parse_hvcc(data), lambda: video_track(0, Codec.HEVC, data), lambda: parse_hevc_sps(data),
            lambda: normalise_video(Codec.HEVC, nal.split_lengths(data), record), lambda: hevc.codec_string(data),
            lambda: normalise_video(Codec.HEVC, nal.split_annexb(data), b""), lambda: captions(Codec.HEVC, data),
        ):  # fmt: skip
            _quietly(parser)

    return Target(
        "hevc", seeds, run, (), [b"\0\0\0\x13\x4e\x01" + CAPTIONS[5:], b"\0\0\1", b"\0\0\3", b"\0\0\0\1\x42\x01"]
    )


@_target
def _av1() -> Target:
    units = [bytes(obu) for obu in av1.iterate(Clips.get("av1"))]
    sequence = av1.sequence_obu(Clips.get("av1"))
    assert sequence is not None
    record = av1.build_av1c(sequence)
    seeds = [record, sequence.payload, b"".join(units[:3])[:3000], *(unit[:500] for unit in units[:6])]

    def run(data: bytes, _: Random) -> None:
        for parser in (
            lambda: av1.parse_av1c(data), lambda: video_track(0, Codec.AV1, data), lambda: list(av1.iterate(data)),
            lambda: parse_sequence_header(data), lambda: normalise_video(Codec.AV1, [data], record),
            lambda: av1.is_keyframe(data), lambda: av1.clean(data), lambda: av1.codec_string(data),
            lambda: captions(Codec.AV1, data),
        ):  # fmt: skip
            _quietly(parser)

    return Target("av1", seeds, run, (), [b"\x2a\x0f\x04" + CAPTIONS[7:-1]])


@_target
def _audio() -> Target:
    """AudioSpecificConfig, ADTS, OpusHead and Opus packets."""
    head = opus.build_head(opus.OpusHead(2))
    seeds = [
        b"\x12\x10",
        bytes.fromhex("2b8a08000000"),
        b"\x13\x90\x56\xe5\xa0",
        head,
        b"\xfc" + bytes(30),
        b"\xff\x03ab",
    ]
    adts = b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(9)
    seeds += [adts * 3, opus.build_head(opus.OpusHead(6, family=1, streams=4, coupled=2, mapping=b"\0\4\1\2\3\5"))]

    def run(data: bytes, _: Random) -> None:
        for parser in (
            lambda: aac.parse_asc(data), lambda: audio_track(100, Codec.AAC, data), lambda: aac.read_adts(data),
            lambda: opus.parse_head(data), lambda: audio_track(100, Codec.OPUS, data), lambda: aac.codec_string(data),
            lambda: opus.packet_duration(data), lambda: opus.to_dops(data), lambda: aac.split_adts(data),
        ):  # fmt: skip
            _quietly(parser)

    return Target("audio", seeds, run, ())


def _quietly(parser: Callable[[], object]) -> None:
    with contextlib.suppress(ProtocolError, MediaError):
        parser()


@_target
def _sdp() -> Target:
    """Offers and fragments of WHIP, and what our answer makes of an offer that was taken."""

    def run(data: bytes, _: Random) -> None:
        text = data.decode("utf-8")
        _quietly(lambda: sdpfrag.parse(text))
        offer = sdp.parse_offer(text)
        sdp.offer_for_aiortc(offer)

    words = [line.encode() + b"\r\n" for line in OFFER.splitlines()] + [b"*", b":", b";", b" ", b"9" * 12, b"9" * 5000]
    return Target(
        "sdp", [OFFER.encode(), FRAGMENT.encode()], run, (ProtocolError, MediaError, UnicodeDecodeError), words
    )


@_target
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


@_target
def _streamid() -> Target:
    seeds = [b"#!::r=live/KEY,m=publish,u=me,x=1", b"live/KEY?a=b&c", b"publish:KEY", b"%23!%3A%3Ar=KEY", b"read/KEY"]
    return Target(
        "streamid", seeds, lambda data, _: streamid.parse(data), (ProtocolError,), [b"#!::", b",", b"=", b"%"]
    )


@_target
def _http() -> Target:
    def run(data: bytes, _: Random) -> None:
        ranges.parse(data[:60].decode("latin-1"))
        if data.startswith(b"/"):
            target.parse(data[:200].decode("latin-1"), QUERY_KEYS)
        elif (end := request.find_end(data, 16_384)) > 0:
            request.parse(data[:end], QUERY_KEYS)

    words = [
        b"\r\n",
        b"\n",
        b"%2e%2E/",
        b"%00",
        b"?",
        b"&",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"9" * 5000,
    ]
    return Target("http", [HEAD, HEAD[4:52], b"/t/tok/live/a/../b?_HLS_msn=1"], run, (ProtocolError,), words)


class _Handler:
    """Takes requests as the edge does, and answers them."""

    def __init__(self) -> None:
        self.core = core.Core(self, 16_384)
        self.reader = h2_request.Reader(QUERY_KEYS, 4096, 16_384)

    def on_head(self, stream: int, block: bytes, *, ended: bool) -> None:
        try:
            self.reader.read(self.core.decoder, block)
        except frames.Broken:
            raise
        except ProtocolError:
            self.core.reset(stream, frames.Code.PROTOCOL_ERROR)
            return
        opened = self.core.open(stream, ended=ended)
        self.core.head(opened, hpack.encode(200, [(b"a", b"b")]), ended=False)
        self.core.data(opened, bytes(100))
        self.core.end(opened)

    def on_ended(self, stream: Stream) -> None: ...

    def on_body(self, stream: Stream) -> None: ...

    def on_reset(self, stream: Stream) -> None: ...


@_target
def _h2() -> Target:
    """The whole HTTP/2 core with requests and answers."""
    block = bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")
    hello = frames.PREFACE + frames.settings({})
    some = b"".join(frames.headers(number, block, ended=True) for number in (1, 3, 5))
    more = (
        frames.frame(frames.Kind.PING, 0, 0, bytes(8))
        + frames.window_update(0, 1000)
        + frames.reset(3, frames.Code.CANCEL)
    )
    seeds = [
        hello + some,
        hello + more + some + more,
        hello + frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 9}) + some,
    ]

    def run(data: bytes, dice: Random) -> None:
        handler = _Handler()
        for step, piece in enumerate(cut(data, dice)):
            handler.core.receive(piece, step / 10)
            handler.core.pump(10_000)
            handler.core.take()

    words = [frames.frame(kind, flag, stream) for kind in frames.Kind for flag in (0, 5) for stream in (0, 1)]
    return Target("h2", seeds, run, (ProtocolError,), words)


@_target
def _hpack() -> Target:
    fields = [(b"content-type", b"video/mp4"), (b"etag", b'"' + b"1" * 300 + b'"'), (b"x", b"y" * 9)]
    seeds = [bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff"), hpack.encode(206, fields)]

    def run(data: bytes, dice: Random) -> None:
        decoder = hpack.Decoder()
        for piece in cut(data, dice):
            decoder.decode(piece, 16_384)

    return Target("hpack", seeds, run, (ProtocolError,), [b"\x3f\xe1\x1f", b"\x40\x01a\x01b", b"\xbe", b"\x7f\xff\xff"])


@_target
def _playlist() -> Target:
    def run(data: bytes, _: Random) -> None:
        found = parse.parse(data)
        if isinstance(found, parse.MediaPlaylist):
            lint.check(found)
            lint.follow(found, found)
            lint.merge(found, found)
        else:
            lint.check_multivariant(found)

    words = [line + b"\n" for line in PLAYLIST.splitlines()] + [
        b"NaN",
        b"1e400",
        b"-1",
        b"9" * 30,
        b"9" * 5000,
        b'"',
        b",",
    ]
    return Target("playlist", [PLAYLIST, VARIANTS], run, (ProtocolError,), words)


@_target
def _directives() -> Target:
    def run(data: bytes, _: Random) -> None:
        pairs = [tuple((part + "=").split("=")[:2]) for part in data.decode("latin-1").split("&")]
        blocking.parse(pairs)  # type: ignore[arg-type]

    return Target(
        "directives",
        [b"_HLS_msn=4&_HLS_part=2&_HLS_skip=YES"],
        run,
        (ProtocolError,),
        [b"_HLS_msn=", b"&", b"9" * 40, b"9" * 5000],
    )


@_target
def _mp4() -> Target:
    """Our own initialisation and media segments, as the validator and the recall of old segments read them."""
    seeds = []
    for unit in (Clips.units("h264")[3], Clips.units("hevc")[0], Clips.units("hevc")[-1]):
        sound = unit.track.kind is TrackKind.AUDIO
        one = FragmentSample(1024 if sound else 3600, 0, True, unit.data[:300])
        seeds += [init_segment(unit.track), chunk(1, 0, [one] * 3)]

    def run(data: bytes, _: Random) -> None:
        for parser in (read.header, read.track, read.chunks, lambda data: list(read.boxes(data))):
            _quietly(lambda parser=parser: parser(data))  # type: ignore[misc]
        Tape(2).init("a", data)

    words = [b"moov", b"trak", b"stsd", b"avcC", b"trun", b"tfhd", b"esds", b"moof"]
    return Target("mp4", seeds, run, (), words)


@_target
def _worker() -> Target:
    m = worker_messages
    messages: list[tuple[Any, bytes]] = [
        (m.Unit(7, -3, 2**40, 3003, True), bytes(100)), (m.Mark(3, 180_000, True), b""), (m.Close(), b""),
        (m.Hole(None, 1, 2, "timestamp_jump"), b""), (m.Encoded(1, 2, 3, 4, False), b"x"), (m.Hello(1, 4711), b""),
        (m.Describe(7, Clips.units("h264")[0].track), b""), (m.Progress(5, {"a": 1.5, "note": "a"}), b""),
    ]  # fmt: skip
    seeds = [b"".join(part for message, payload in messages for part in frame(message, payload))]

    def run(data: bytes, dice: Random) -> None:
        decoder = Decoder()
        for piece in cut(data, dice):
            decoder.feed(piece)

    return Target("worker", seeds, run, (ProtocolError,), [b"\xdc\xff\xff", b"\xc0", b"\x93", b"\0\0\0\x05\0\0\0\0"])


@_target
def _credentials() -> Target:
    """Stream keys and publish tokens."""
    secret, ident, plain = b"x" * 32, "k12345678901", credentials.new_key()
    signing = credentials.signing_key(secret, ident)
    stream = StreamRecord("s", "show", "show", StreamSettings(), 0)
    rows = [
        KeyRecord(name, "s", credentials.hash_key(text), name == ident, False, "", 0, None, None, False, None, None)
        for name, text in ((ident, signing), ("k2", plain))
    ]
    snapshot = Snapshot(0, {"s": stream}, {row.id: row for row in rows}, {row.hash: row for row in rows})
    token = credentials.make_token(ident, signing, expires_s=600_000)

    def run(data: bytes, _: Random) -> None:
        text = data.decode("utf-8", "surrogateescape")
        headers.bearer(text)
        headers.if_match(text, '"a"')
        headers.media_type(text)
        snapshot.check(text, secret=secret, now_ms=0)

    return Target("credentials", [token.encode(), plain.encode()], run, (HeadraceError,), [b"hrt_", b"."])


@_target
def _viewer_token() -> Target:
    key = OctKey.generate_key(256, {"kid": "a"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.json"
        path.write_text(json.dumps(KeySet([key]).as_dict(private=True)))
        guard = TokenGuard(path, required=True, wall=lambda: 1000.0)
    good = jwt.encode({"alg": "HS256", "kid": "a"}, {"sub": "*", "exp": 2000}, key)
    odd = jwt.encode({"alg": "HS256"}, {"sub": "*", "exp": float("inf"), "nbf": -1}, key)

    def run(data: bytes, _: Random) -> None:
        where = target.parse("/live/a/x", QUERY_KEYS)
        asked = request.build(
            "GET", target.Target(where.path, "", data.decode("latin-1")), request.fields({"host": "x"}, False), False
        )
        guard.refuse(asked)

    return Target("viewer_token", [good.encode(), odd.encode()], run, (), [b".", b"eyJ", b"="])
