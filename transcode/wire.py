"""Framing between core and worker: sans-IO, so that a socket pair today can be TCP to another machine later.

    frame = u32 header size | u32 payload size | header (msgpack, `messages`) | payload (raw bytes)

Sizes are big-endian. Either end closes the connection on a frame that breaks this.
"""

from __future__ import annotations

import struct

import msgspec

from media.errors import ProtocolError
from transcode.messages import Message, pack, unpack

_SIZES = struct.Struct(">II")

MAX_HEADER_BYTES = 1024 * 1024
"""A plan with every rung and both configurations is below 20 kB."""
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
"""More than any coded frame: an uncompressed 4K picture is 12 MB."""


def frame(message: Message, payload: bytes = b"") -> tuple[bytes, ...]:
    """The buffers to send: sizes with header, and payload (not copied) where there is one. Never an empty buffer: from
    Python 3.12 on, asyncio's `writelines` tries for ever to send one."""
    header = pack(message)
    head = _SIZES.pack(len(header), len(payload)) + header
    return (head, payload) if payload else (head,)


class Decoder:
    """Bytes in, messages with their payloads out. Holds at most one frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.max_header_bytes = MAX_HEADER_BYTES
        self.max_payload_bytes = MAX_PAYLOAD_BYTES

    def feed(self, data: bytes) -> list[tuple[Message, bytes]]:
        """All frames that are complete now. Raises `ProtocolError`; the decoder is of no use after that."""
        buffer = self._buffer
        buffer += data
        frames: list[tuple[Message, bytes]] = []
        position = 0
        while len(buffer) - position >= _SIZES.size:
            header_size, payload_size = _SIZES.unpack_from(buffer, position)
            if header_size > self.max_header_bytes or payload_size > self.max_payload_bytes:
                raise ProtocolError("A frame of the worker connection is larger than allowed.", slug="frame_too_large")
            start = position + _SIZES.size
            middle = start + header_size
            end = middle + payload_size
            if len(buffer) < end:
                break
            with memoryview(buffer) as view:  # a slice of the buffer itself would be one more copy
                header, payload = bytes(view[start:middle]), bytes(view[middle:end])
            try:
                message = unpack(header)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ProtocolError(f"A header of the worker connection cannot be read: {error}.") from error
            frames.append((message, payload))
            position = end
        del buffer[:position]
        return frames
