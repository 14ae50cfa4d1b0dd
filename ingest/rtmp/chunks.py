"""The chunk stream ([RTMP] 5.3): bytes to messages and messages to bytes. Knows no message's meaning but three.

SetChunkSize and Abort steer the reader itself and take effect with the very next chunk. Header fields live on for
each chunk stream: later headers leave out what did not change.
"""

from __future__ import annotations

import sys
from collections.abc import Generator

from ingest.rtmp.messages import Kind, Message, read_number
from media.errors import ProtocolError

MAX_CHUNK_STREAMS = 64
"""Chunk streams in use by one peer. Known encoders use two to six of the 65 597 that there are."""
_HEADER_SIZE = (11, 7, 3, 0)
_EXTENDED = 0xFFFFFF
DEFAULT_CHUNK_SIZE = 128
MAX_CHUNK_SIZE = 0xFFFFFF
"""No message is longer, so larger sizes mean the same ([RTMP] 5.4.1)."""


class _Stream:
    """Header fields of one chunk stream, and the message in progress."""

    __slots__ = ("body", "delta", "extended", "kind", "length", "stream_id", "timestamp")

    def __init__(self) -> None:
        self.timestamp = self.delta = self.length = self.kind = self.stream_id = 0
        self.extended: bytes | None = None
        self.body: bytearray | None = None


class ChunkReader:
    """Messages out of bytes. Bounded in message size, chunk streams and bytes of unfinished messages."""

    def __init__(self, *, max_message_bytes: int, max_partial_bytes: int, budget: int = sys.maxsize) -> None:
        """`budget`: see the attribute."""
        self._max_message = max_message_bytes
        self._max_partial = max_partial_bytes
        self._chunk_size = DEFAULT_CHUNK_SIZE
        self._streams: dict[int, _Stream] = {}
        self._buffer = bytearray()
        self._at = 0
        self._partial = 0
        self._current: _Stream | None = None
        self._current_id = 0
        self._left = 0  # of the chunk whose header has been read
        self.budget = budget
        """Chunks that may still come: an empty one is a single byte, and costs as much work as a full one."""
        self._free_from = MAX_CHUNK_SIZE + 1

    @property
    def pending_bytes(self) -> int:
        """Bytes held: not yet parsed, and of unfinished messages."""
        return len(self._buffer) - self._at + self._partial

    def allow(self, *, max_message_bytes: int, max_partial_bytes: int, free_from: int) -> None:
        """Other bounds from here on; chunks with at least `free_from` bytes do not count against `budget` any more."""
        self._max_message, self._max_partial, self._free_from = max_message_bytes, max_partial_bytes, free_from

    def charge(self, chunks: int) -> None:
        """Count work as so many chunks. Raises `ProtocolError` where it is too much."""
        self.budget -= chunks
        if self.budget < 0:
            raise ProtocolError("The peer sends more small chunks than any encoder.", slug="too_many_chunks")

    def feed(self, data: bytes) -> None:
        """Add what arrived. `messages` then gives out what is complete."""
        self._buffer += data

    def messages(self) -> Generator[Message]:
        """Complete messages, one at a time; whoever stops in between finds the rest later. Raises `ProtocolError`."""
        try:
            while True:
                if self._current is None and not self._header():
                    return
                message = self._payload()
                if message is not None:
                    yield message
                elif self._current is not None:
                    return
        finally:
            if self._at:
                del self._buffer[: self._at]
                self._at = 0

    def _header(self) -> bool:
        """Read one chunk header; False where it is not yet complete, and nothing consumed then."""
        buffer, at = self._buffer, self._at
        end = len(buffer)
        if at >= end:
            return False
        fmt, csid = buffer[at] >> 6, buffer[at] & 0x3F
        at += 1
        if csid < 2:
            if at + csid >= end:
                return False
            # 5.3.1.1: the three-byte form is 64 + second + 256 * third.
            csid_bytes = buffer[at : at + 1 + csid]
            at += 1 + csid
            csid = 64 + int.from_bytes(csid_bytes, "little")
        stream = self._streams.get(csid)
        if stream is None and fmt:
            raise ProtocolError("A chunk stream begins without a full header.", slug="bad_chunk")
        fields = at
        at += _HEADER_SIZE[fmt]
        if at > end:
            return False
        extended: bytes | None
        if fmt == 3:
            assert stream is not None
            extended = stream.extended
            if extended is not None:
                # 5.3.1.3: repeated here. Old encoders leave it out, so it counts only where it is the same again.
                seen = bytes(buffer[at : at + 4])
                if len(seen) < 4 and extended.startswith(seen):
                    return False
                if seen == extended:
                    at += 4
        else:
            extended = None
            if int.from_bytes(buffer[fields : fields + 3], "big") == _EXTENDED:
                extended = bytes(buffer[at : at + 4])
                at += 4
                if at > end:
                    return False
        if stream is None:
            if len(self._streams) >= MAX_CHUNK_STREAMS:
                raise ProtocolError("The peer uses too many chunk streams.", slug="too_many_chunk_streams")
            stream = self._streams[csid] = _Stream()
        self._begin(stream, fmt, fields, extended)
        self._at = at
        self._current, self._current_id = stream, csid
        assert stream.body is not None
        self._left = min(self._chunk_size, stream.length - len(stream.body))
        if self._left < self._free_from:
            self.charge(1)
        return True

    def _begin(self, stream: _Stream, fmt: int, at: int, extended: bytes | None) -> None:
        """Take over the header's fields, and begin a message unless this chunk continues one."""
        buffer = self._buffer
        if fmt != 3:
            time = int.from_bytes(extended if extended is not None else buffer[at : at + 3], "big")
            stream.extended = extended
            if stream.body is not None:
                # A new header within a message: the old one will never be complete.
                self._partial -= len(stream.body)
                stream.body = None
            # A fmt 3 that begins a message after a fmt 0 moves on by that fmt 0's whole time (5.3.1.2.4).
            stream.delta = time
            stream.timestamp = time if fmt == 0 else (stream.timestamp + time) & 0xFFFFFFFF
            if fmt < 2:
                stream.length = int.from_bytes(buffer[at + 3 : at + 6], "big")
                stream.kind = buffer[at + 6]
            if fmt == 0:
                stream.stream_id = int.from_bytes(buffer[at + 7 : at + 11], "little")
        elif stream.body is None:
            stream.timestamp = (stream.timestamp + stream.delta) & 0xFFFFFFFF
        if stream.body is None:
            if stream.length > self._max_message:
                raise ProtocolError(
                    f"A message of {stream.length} bytes is over the limit of {self._max_message}.",
                    slug="message_too_large",
                )
            stream.body = bytearray()

    def _payload(self) -> Message | None:
        """Take what is there of the current chunk's payload; the message where that completes it."""
        stream = self._current
        assert stream is not None
        assert stream.body is not None
        take = min(self._left, len(self._buffer) - self._at)
        if take:
            stream.body += memoryview(self._buffer)[self._at : self._at + take]
            self._at += take
            self._left -= take
            self._partial += take
        if not self._left:
            self._current = None
        if len(stream.body) < stream.length:
            if self._partial > self._max_partial:
                raise ProtocolError("The peer begins too many messages without ending them.", slug="too_many_partial")
            return None
        self._partial -= len(stream.body)
        message = Message(stream.kind, stream.timestamp, stream.stream_id, bytes(stream.body), self._current_id)
        stream.body = None
        if message.kind == Kind.SET_CHUNK_SIZE:
            size = read_number(message.body)
            if not 0 < size < 0x80000000:
                raise ProtocolError("The peer sets an impossible chunk size.", slug="bad_chunk_size")
            self._chunk_size = min(size, MAX_CHUNK_SIZE)
        elif message.kind == Kind.ABORT:
            aborted = self._streams.get(read_number(message.body))
            if aborted is not None and aborted.body is not None:
                self._partial -= len(aborted.body)
                aborted.body = None
        return message


class ChunkWriter:
    """Bytes out of messages: every message with a full header, in chunks of `chunk_size`."""

    def __init__(self) -> None:
        self.chunk_size = DEFAULT_CHUNK_SIZE

    def write(self, message: Message) -> bytes:
        """The bytes of one message; `SET_CHUNK_SIZE` takes effect behind itself."""
        first = _basic_header(0, message.chunk_stream)
        stamp = min(message.timestamp, _EXTENDED)
        extended = message.timestamp.to_bytes(4, "big") if stamp == _EXTENDED else b""
        header = stamp.to_bytes(3, "big") + len(message.body).to_bytes(3, "big") + bytes((message.kind,))
        out = bytearray(first + header + message.stream_id.to_bytes(4, "little") + extended)
        out += message.body[: self.chunk_size]
        more = _basic_header(3, message.chunk_stream) + extended
        for at in range(self.chunk_size, len(message.body), self.chunk_size):
            out += more + message.body[at : at + self.chunk_size]
        if message.kind == Kind.SET_CHUNK_SIZE:
            self.chunk_size = min(read_number(message.body), MAX_CHUNK_SIZE)
        return bytes(out)


def _basic_header(fmt: int, csid: int) -> bytes:
    if csid < 64:
        return bytes((fmt << 6 | csid,))
    if csid < 320:
        return bytes((fmt << 6, csid - 64))
    return bytes((fmt << 6 | 1,)) + (csid - 64).to_bytes(2, "little")
