"""RTMP messages: their types, and the bodies of the small ones ([RTMP] 5.4, 7.1). No AMF here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from media.errors import ProtocolError

MAX_PARTS = 256
"""Messages in one aggregate: five seconds of sound."""


class Kind(IntEnum):
    """Message type ids."""

    SET_CHUNK_SIZE = 1
    ABORT = 2
    ACKNOWLEDGEMENT = 3
    USER_CONTROL = 4
    WINDOW_ACK_SIZE = 5
    SET_PEER_BANDWIDTH = 6
    AUDIO = 8
    VIDEO = 9
    DATA_AMF3 = 15
    SHARED_OBJECT_AMF3 = 16
    COMMAND_AMF3 = 17
    DATA_AMF0 = 18
    SHARED_OBJECT_AMF0 = 19
    COMMAND_AMF0 = 20
    AGGREGATE = 22


class UserControl(IntEnum):
    """Event types of a user control message ([RTMP] 7.1.7)."""

    STREAM_BEGIN = 0
    STREAM_EOF = 1
    SET_BUFFER_LENGTH = 3
    PING_REQUEST = 6
    PING_RESPONSE = 7


@dataclass(frozen=True, slots=True)
class Message:
    """One whole message."""

    kind: int
    timestamp: int
    """Milliseconds, 0 .. 2**32-1."""
    stream_id: int
    body: bytes
    chunk_stream: int = 0
    """The chunk stream it came on, or shall leave on."""


def control(kind: Kind, body: bytes) -> Message:
    """A protocol control message: chunk stream 2, message stream 0 ([RTMP] 5.4)."""
    return Message(kind, 0, 0, body, 2)


def number(kind: Kind, value: int) -> Message:
    """A control message that holds one 32-bit number."""
    return control(kind, value.to_bytes(4, "big"))


def peer_bandwidth(size: int) -> Message:
    """SetPeerBandwidth with the dynamic limit type."""
    return control(Kind.SET_PEER_BANDWIDTH, size.to_bytes(4, "big") + b"\x02")


def user_control(event: UserControl, value: int) -> Message:
    """A user control message with one 32-bit value."""
    return control(Kind.USER_CONTROL, event.to_bytes(2, "big") + value.to_bytes(4, "big"))


def read_number(body: bytes) -> int:
    """The 32-bit number at the head of a control message. Raises `ProtocolError`."""
    if len(body) < 4:
        raise ProtocolError("A protocol control message is too short.", slug="bad_control")
    return int.from_bytes(body[:4], "big")


def read_user_control(body: bytes) -> tuple[int, bytes]:
    """(event type, its data). Raises `ProtocolError`."""
    if len(body) < 2:
        raise ProtocolError("A user control message is too short.", slug="bad_control")
    return int.from_bytes(body[:2], "big"), body[2:]


def split_aggregate(message: Message) -> Iterator[Message]:
    """The messages of an aggregate, their times moved by the aggregate's ([RTMP] 7.1.6). Raises `ProtocolError`.

    The sub-headers are FLV tags: the upper 8 bits of the time stand behind the lower 24.
    """
    body, at, offset, left = message.body, 0, None, MAX_PARTS
    while at < len(body):
        left -= 1
        if left < 0:
            raise ProtocolError("An aggregate message has too many parts.", slug="bad_aggregate")
        if len(body) - at < 11:
            raise ProtocolError("An aggregate message ends within a header.", slug="bad_aggregate")
        kind = body[at]
        size = int.from_bytes(body[at + 1 : at + 4], "big")
        stamp = int.from_bytes(body[at + 4 : at + 7], "big") | body[at + 7] << 24
        end = at + 11 + size
        if end > len(body):
            raise ProtocolError("An aggregate message ends within a part.", slug="bad_aggregate")
        if offset is None:
            offset = message.timestamp - stamp
        if kind != Kind.AGGREGATE:
            time = (stamp + offset) & 0xFFFFFFFF
            yield Message(kind, time, message.stream_id, body[at + 11 : end], message.chunk_stream)
        at = end + 4  # the back pointer
