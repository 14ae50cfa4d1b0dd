"""The bodies of audio and video messages: which track, which codec, which sort of packet. No codec is looked into.

Two grammars: the legacy FLV tags (AVC id 7, the HEVC id 12 that grew in the wild, AAC id 10), and Enhanced RTMP
([ERTMP] v1 and v2: FourCC, multitrack, ModEx), which may be mixed freely within one session.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum

from media.errors import ProtocolError


class Sort(Enum):
    """What a part of a message is."""

    CONFIG = "config"
    FRAME = "frame"
    CHANNELS = "channels"
    """Opus channel layout, where there is no header ([ERTMP] MultichannelConfig)."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one track gets out of a message."""

    track: int
    """Track number of the message; 0 is the default one."""
    codec: str
    """FourCC, also for what came as a legacy id; or `legacy-N` for a legacy id that we do not take."""
    sort: Sort
    body: bytes
    cts: int = 0
    """Composition offset, milliseconds."""
    offset_ns: int = 0
    """Added to the presentation time."""


class _VideoPacket(IntEnum):
    SEQUENCE_START = 0
    CODED_FRAMES = 1
    SEQUENCE_END = 2
    CODED_FRAMES_X = 3
    METADATA = 4
    MPEG2TS_SEQUENCE_START = 5
    MULTITRACK = 6
    MOD_EX = 7


class _AudioPacket(IntEnum):
    SEQUENCE_START = 0
    CODED_FRAMES = 1
    SEQUENCE_END = 2
    MULTICHANNEL_CONFIG = 4
    MULTITRACK = 5
    MOD_EX = 7


_COMMAND_FRAME = 5
_LEGACY_VIDEO = {7: "avc1", 12: "hvc1"}
_LEGACY_AUDIO = {10: "mp4a"}
_EX_AUDIO = 9
_WITH_COMPOSITION = ("avc1", "hvc1", "vvc1")
_ONE_TRACK, _MANY_CODECS = 0, 2
_OFFSET_NANO = 0
_MOST_TRACKS = 256
"""In one message: a track's number has eight bits, and no track is in it twice."""
_MOST_MOD_EX = 16
"""One sort of ModEx exists."""


def video(body: bytes) -> Iterator[Part]:
    """The parts of a video message. Raises `ProtocolError`; parts of kinds that nobody needs are left out."""
    if not body:
        return
    if not body[0] & 0x80:
        yield from _legacy_video(body)
        return
    frame_type, packet = body[0] >> 4 & 7, body[0] & 15
    at, offset_ns = 1, 0
    if packet == _VideoPacket.MOD_EX:
        packet, at, offset_ns = _mod_ex(body, at, _VideoPacket.MOD_EX)
    # ffmpeg 9 sends Metadata with the frame type of a command: the packet type goes first ([ERTMP]).
    if packet == _VideoPacket.METADATA:
        return
    if frame_type == _COMMAND_FRAME:
        return  # one byte of command, and no FourCC
    for track, fourcc, kind, data in _tracks(body, at, packet, _VideoPacket.MULTITRACK):
        if kind == _VideoPacket.SEQUENCE_START:
            yield Part(track, fourcc, Sort.CONFIG, data)
        elif kind == _VideoPacket.CODED_FRAMES:
            cts = 0
            if fourcc in _WITH_COMPOSITION:
                cts, data = _si24(data), data[3:]
            yield Part(track, fourcc, Sort.FRAME, data, cts, offset_ns)
        elif kind == _VideoPacket.CODED_FRAMES_X:
            yield Part(track, fourcc, Sort.FRAME, data, 0, offset_ns)


def _legacy_video(body: bytes) -> Iterator[Part]:
    frame_type, ident = body[0] >> 4, body[0] & 15
    if frame_type == _COMMAND_FRAME:
        return
    codec = _LEGACY_VIDEO.get(ident)
    if codec is None:
        yield Part(0, f"legacy-{ident}", Sort.FRAME, b"")
        return
    if len(body) < 5:
        raise ProtocolError("A video message ends within its header.", slug="bad_flv")
    if body[1] == 0:
        yield Part(0, codec, Sort.CONFIG, body[5:])
    elif body[1] == 1:
        yield Part(0, codec, Sort.FRAME, body[5:], _si24(body[2:5]))


def audio(body: bytes) -> Iterator[Part]:
    """The parts of an audio message. Raises `ProtocolError`. An empty message is a marker of silence."""
    if not body:
        return
    ident = body[0] >> 4
    if ident != _EX_AUDIO:
        codec = _LEGACY_AUDIO.get(ident)
        if codec is None:
            yield Part(0, f"legacy-{ident}", Sort.FRAME, b"")
        elif len(body) > 2:
            yield Part(0, codec, Sort.FRAME if body[1] else Sort.CONFIG, body[2:])
        return
    packet, at, offset_ns = body[0] & 15, 1, 0
    if packet == _AudioPacket.MOD_EX:
        packet, at, offset_ns = _mod_ex(body, at, _AudioPacket.MOD_EX)
    for track, fourcc, kind, data in _tracks(body, at, packet, _AudioPacket.MULTITRACK):
        if kind == _AudioPacket.SEQUENCE_START:
            yield Part(track, fourcc, Sort.CONFIG, data)
        elif kind == _AudioPacket.CODED_FRAMES and data:
            yield Part(track, fourcc, Sort.FRAME, data, 0, offset_ns)
        elif kind == _AudioPacket.MULTICHANNEL_CONFIG:
            yield Part(track, fourcc, Sort.CHANNELS, data)


def _si24(data: bytes) -> int:
    if len(data) < 3:
        raise ProtocolError("A video message ends within its composition offset.", slug="bad_flv")
    return int.from_bytes(data[:3], "big", signed=True)


def _mod_ex(body: bytes, at: int, mod_ex: int) -> tuple[int, int, int]:
    """(packet type behind all ModEx parts, where it goes on, nanoseconds offset)."""
    offset_ns = 0
    for _ in range(_MOST_MOD_EX):
        size = int.from_bytes(_take(body, at, 1), "big") + 1
        at += 1
        if size == 256:
            size = int.from_bytes(_take(body, at, 2), "big") + 1
            at += 2
        data = _take(body, at, size)
        at += size
        kind = _take(body, at, 1)[0]
        at += 1
        if kind >> 4 == _OFFSET_NANO and size >= 3:
            offset_ns = min(int.from_bytes(data[:3], "big"), 999_999)
        if kind & 15 != mod_ex:
            return kind & 15, at, offset_ns
    raise ProtocolError("An enhanced message has too many modifiers.", slug="bad_flv")


def _tracks(body: bytes, at: int, packet: int, multitrack: int) -> Iterator[tuple[int, str, int, bytes]]:
    """(track number, FourCC, packet type, data) of each track in the message."""
    if packet != multitrack:
        yield 0, _fourcc(body, at), packet, body[at + 4 :]
        return
    head = _take(body, at, 1)[0]
    at += 1
    how, packet = head >> 4, head & 15
    if how > _MANY_CODECS or packet == multitrack:
        raise ProtocolError("A multitrack message is of an unknown kind.", slug="bad_flv")
    fourcc = ""
    if how != _MANY_CODECS:
        fourcc = _fourcc(body, at)
        at += 4
    left = _MOST_TRACKS
    while at < len(body):
        left -= 1
        if left < 0:
            raise ProtocolError("A multitrack message has more tracks than there are numbers.", slug="bad_flv")
        if how == _MANY_CODECS:
            fourcc = _fourcc(body, at)
            at += 4
        track = _take(body, at, 1)[0]
        at += 1
        if how == _ONE_TRACK:
            yield track, fourcc, packet, body[at:]
            return
        size = int.from_bytes(_take(body, at, 3), "big")
        yield track, fourcc, packet, _take(body, at + 3, size)
        at += 3 + size


def _fourcc(body: bytes, at: int) -> str:
    return _take(body, at, 4).decode("latin-1")


def _take(body: bytes, at: int, size: int) -> bytes:
    if at + size > len(body):
        raise ProtocolError("An enhanced message ends too early.", slug="bad_flv")
    return body[at : at + size]
