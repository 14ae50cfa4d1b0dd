"""One HTTP/2 connection without a socket: bytes and the time in, calls to a `Handler` and bytes out (RFC 9113).

| stream   | from                      | until                                                   |
|----------|---------------------------|---------------------------------------------------------|
| idle     | a number above `last`     | HEADERS                                                 |
| asked    | HEADERS with END_STREAM   | its answer's end, or RST_STREAM: in `streams` meanwhile, |
|          |                           | unless it was answered whole at once                    |
| sending  | HEADERS without           | END_STREAM (then asked); a body is refused              |
| closed   | the rest                  |                                                         |

Priorities are read over (how answers take turns is in `edge.h2.sending`). What a client can make us do without asking
for anything is counted, and too much of it ends the connection.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from edge.h2 import frames, hpack
from edge.h2.frames import Broken, Code, Flag, Kind, Setting
from edge.h2.sending import RECENT, Sender, Stream

MAX_STREAMS = 128
"""Requests under way at once: a low-latency player needs about six; RFC 9113 6.5.2 advises at least 100."""
MAX_CONTINUATIONS = 8
"""CONTINUATION frames per header block (CVE-2024-27316): each can hold 16 kB, a request needs none."""
NUISANCE_BURST = 400.0
NUISANCE_PER_S = 40.0
"""Frames that cost us and ask for nothing, over a burst: PING, SETTINGS, PRIORITY, empty or late DATA, and
requests taken back before their answer (CVE-2023-44487, CVE-2019-9512 to 9518)."""


class Handler(Protocol):
    """Who hears what a client wants. Called within `receive`, in order; must not raise."""

    def on_head(self, stream: int, block: bytes, *, ended: bool) -> None:
        """A request. `block` must be decoded with the core's `decoder`, now. May raise Broken from there."""
        ...

    def on_ended(self, stream: Stream) -> None:
        """The request of a stream that was opened with `ended=False` is whole."""
        ...

    def on_body(self, stream: Stream) -> None:
        """Such a stream sends a body."""
        ...

    def on_reset(self, stream: Stream) -> None:
        """The client wants no more of this; the stream is closed."""
        ...


class Core(Sender):
    """See the module. `max_head`: most bytes of a header block, and of the fields in it."""

    def __init__(self, handler: Handler, max_head: int) -> None:
        greeting = {
            Setting.HEADER_TABLE_SIZE: 0,
            Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            Setting.MAX_HEADER_LIST_SIZE: max_head,
            Setting.NO_RFC7540_PRIORITIES: 1,
        }
        super().__init__(frames.settings(greeting))
        self._handler, self._max_head = handler, max_head
        self.decoder = hpack.Decoder()
        self.last = 0
        """Highest stream seen."""
        self.going = False
        """GOAWAY was sent: no new requests."""
        self.failed = False
        self.held = False
        """Nothing is read on until this is False and `receive` is called again: answers wait to be taken."""
        self.frames = 0
        """Received and understood."""
        self._buffer = b""
        self._greeted = False
        self._settled = False
        self._block: list[bytes] = []
        self._block_of = 0
        self._block_ended = False
        self._block_bytes = 0
        self._taken_back: deque[int] = deque(maxlen=RECENT)
        """Streams that the client reset lately."""
        self._skipped: deque[tuple[int, int]] = deque(maxlen=RECENT)
        """Numbers that were left out lately, as the stream before and the one after them."""
        self._nuisance = NUISANCE_BURST
        self._nuisance_at = 0.0
        self._now = 0.0

    def receive(self, data: bytes, now: float) -> None:
        """Take what came. After a breach of the protocol `failed` is set, and the last of `out` is a GOAWAY."""
        if self.failed:
            return
        self._now = now
        buffer = self._buffer + data if self._buffer else data
        at = 0
        try:
            if not self._greeted:
                if not frames.PREFACE.startswith(buffer[: len(frames.PREFACE)]):
                    raise Broken(Code.PROTOCOL_ERROR, "This is not HTTP/2.", "bad_preface")
                if len(buffer) < len(frames.PREFACE):
                    self._buffer = buffer
                    return
                self._greeted = True
                at = len(frames.PREFACE)
            size = len(buffer)
            while size - at >= frames.HEADER_BYTES and not self.held:
                length, kind, flags, stream = frames.read_header(buffer, at)
                if length > frames.DEFAULT_FRAME_BYTES:
                    raise Broken(Code.FRAME_SIZE_ERROR, "A frame is too large.", "frame_too_large")
                end = at + frames.HEADER_BYTES + length
                if end > size:
                    break
                self._frame(kind, flags, stream, buffer[at + frames.HEADER_BYTES : end])
                self.frames += 1
                at = end
        except Broken as error:
            self.fail(error)
            return
        self._buffer = buffer[at:]

    def fail(self, error: Broken) -> None:
        """End the connection."""
        self.failed = self.going = True
        self._ready.clear()
        self._buffer, self._block_of = b"", 0
        self.out.append(frames.goaway(self.last, error.code))

    def forget(self) -> list[Stream]:
        """Drop all streams; they are returned."""
        streams = list(self.streams.values())
        self.streams.clear()
        self._ready.clear()
        return streams

    def warn(self) -> None:
        """Say that the end is near; requests on their way are still taken."""
        if not self.going:
            self.out.append(frames.goaway(frames.MAX_WINDOW, Code.NO_ERROR))

    def go(self) -> None:
        """No new requests from here on; those that came are answered."""
        if not self.going:
            self.going = True
            self.out.append(frames.goaway(self.last, Code.NO_ERROR))

    @property
    def partial(self) -> bool:
        """Something was begun and not ended: the greeting, a frame, a header block."""
        return bool(self._buffer or self._block_of or not self._settled)

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block_of and (kind != Kind.CONTINUATION or number != self._block_of):
            raise Broken(Code.PROTOCOL_ERROR, "A header block was interrupted.", "bad_frame")
        if not self._settled and (kind != Kind.SETTINGS or flags & Flag.ACK):
            raise Broken(Code.PROTOCOL_ERROR, "The first frame is not SETTINGS.", "bad_frame")
        if kind == Kind.HEADERS:
            self._headers(flags, number, payload)
        elif kind == Kind.WINDOW_UPDATE:
            self._window_update(number, payload)
        elif kind == Kind.DATA:
            self._data(flags, number, payload)
        elif kind == Kind.RST_STREAM:
            self._rst_stream(number, payload)
        elif kind == Kind.SETTINGS:
            self._settings(flags, number, payload)
        elif kind == Kind.PING:
            self._ping(flags, number, payload)
        elif kind == Kind.PRIORITY:
            self._priority(number, payload)
        elif kind == Kind.CONTINUATION:
            self._continuation(flags, number, payload)
        elif kind == Kind.GOAWAY:
            self._goaway(number, payload)
        elif kind == Kind.PUSH_PROMISE:
            raise Broken(Code.PROTOCOL_ERROR, "A client cannot push.", "bad_frame")
        # Frames of other kinds are ignored (5.5).

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number & 1:
            raise Broken(Code.PROTOCOL_ERROR, "A request came on a stream that a client cannot open.", "bad_stream")
        if flags & (Flag.PADDED | Flag.PRIORITY):
            payload = _unpad(flags, payload)
            if flags & Flag.PRIORITY:
                if len(payload) < 5:
                    raise Broken(Code.FRAME_SIZE_ERROR, "HEADERS is too short for its priority.", "bad_frame")
                if _on_itself(number, payload):
                    raise Broken(Code.PROTOCOL_ERROR, "A stream depends on itself.", "bad_stream")
                payload = payload[5:]
        ended = bool(flags & Flag.END_STREAM)
        if flags & Flag.END_HEADERS:
            self._request(number, payload, ended)
            return
        self._block, self._block_of, self._block_ended, self._block_bytes = [payload], number, ended, len(payload)

    def _continuation(self, flags: int, number: int, payload: bytes) -> None:
        if not self._block_of:
            raise Broken(Code.PROTOCOL_ERROR, "CONTINUATION continues nothing.", "bad_frame")
        self._block.append(payload)
        self._block_bytes += len(payload)
        if len(self._block) > MAX_CONTINUATIONS + 1 or self._block_bytes > self._max_head:
            raise Broken(Code.ENHANCE_YOUR_CALM, "A header block is too large.", "head_too_large")
        if flags & Flag.END_HEADERS:
            block, self._block, self._block_of = b"".join(self._block), [], 0
            self._request(number, block, self._block_ended)

    def _request(self, number: int, block: bytes, ended: bool) -> None:
        if number <= self.last:
            self._trailers(number, block, ended)
            return
        if number != self.last + 2 and number != 1:
            self._skipped.append((self.last, number))
        self.last = number
        if self.going or len(self.streams) >= MAX_STREAMS:
            self.decoder.decode(block, self._max_head)  # the table must not miss it (RFC 9113 4.3)
            self.annoy()
            self.out.append(frames.reset(number, Code.REFUSED_STREAM))
            return
        self._handler.on_head(number, block, ended=ended)

    def _trailers(self, number: int, block: bytes, ended: bool) -> None:
        fields = self.decoder.decode(block, self._max_head)
        self.annoy()
        stream = self.streams.get(number)
        if any(before < number < after for before, after in self._skipped):
            raise Broken(Code.PROTOCOL_ERROR, "A stream was opened after a later one.", "bad_stream")  # 5.1.1
        if stream is None and number not in self._cut and number not in self._taken_back:
            raise Broken(Code.STREAM_CLOSED, "A request came on a stream that had ended.", "bad_stream")  # 5.1
        again = any(name[:1] == b":" for name, _ in fields)
        if again and (number in self._cut or (stream is not None and not stream.asked)):
            self.reset(number, Code.PROTOCOL_ERROR)  # 8.1: no pseudo fields in trailers
            if stream is not None:
                self._handler.on_reset(stream)
        elif stream is None or stream.asked:
            self._gone(number, stream)
        elif not ended:
            raise Broken(Code.PROTOCOL_ERROR, "Trailers must end a request.", "bad_frame")
        else:
            stream.asked = True
            self._handler.on_ended(stream)

    def _gone(self, number: int, stream: Stream | None) -> None:
        """Something came on a stream that its sender had ended, or that we ended while it was under way."""
        if number in self._cut:
            return
        self.reset(number, Code.STREAM_CLOSED)
        if stream is not None:
            self._handler.on_reset(stream)

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        if not number or number > self.last:
            raise Broken(Code.PROTOCOL_ERROR, "DATA came on a stream that is not open.", "bad_stream")
        body = _unpad(flags, payload) if flags & Flag.PADDED else payload
        if payload:
            self.out.append(frames.window_update(0, len(payload)))
        if not body or number not in self.streams:
            self.annoy()
        stream = self.streams.get(number)
        if stream is None or stream.asked:
            if number in self._cut and not flags & Flag.END_STREAM and len(body) == frames.DEFAULT_FRAME_BYTES:
                # Not at once: curl 7.88 then calls an answer that it already has an error. RFC 9113 8.1.
                self.out.append(frames.reset(number, Code.NO_ERROR))
            self._gone(number, stream)
            return
        if flags & Flag.END_STREAM:
            stream.asked = True
        if body:
            self._handler.on_body(stream)
        elif stream.asked:
            self._handler.on_ended(stream)

    def _rst_stream(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Broken(Code.FRAME_SIZE_ERROR, "RST_STREAM has four bytes.", "bad_frame")
        if not number or number > self.last:
            raise Broken(Code.PROTOCOL_ERROR, "RST_STREAM came on a stream that is not open.", "bad_stream")
        self.annoy()
        self._taken_back.append(number)
        stream = self.streams.pop(number, None)
        if stream is not None:
            self._ready.pop(stream, None)
            self._handler.on_reset(stream)

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Broken(Code.PROTOCOL_ERROR, "SETTINGS belongs to no stream.", "bad_frame")
        if len(payload) % 6 or (flags & Flag.ACK and payload):
            raise Broken(Code.FRAME_SIZE_ERROR, "SETTINGS has a wrong size.", "bad_frame")
        if flags & Flag.ACK:
            self.annoy()
            return
        if self._settled:
            self.annoy()
        self._settled = True
        for name, value in frames.read_settings(payload):
            if name == Setting.INITIAL_WINDOW_SIZE:
                if value > frames.MAX_WINDOW:
                    raise Broken(Code.FLOW_CONTROL_ERROR, "The window is too large.", "bad_setting")
                change, self.stream_window = value - self.stream_window, value
                for stream in self.streams.values():
                    stream.window += change
                    if stream.window > frames.MAX_WINDOW:
                        raise Broken(Code.FLOW_CONTROL_ERROR, "The window is too large.", "bad_setting")
            elif name == Setting.MAX_FRAME_SIZE:
                if not frames.DEFAULT_FRAME_BYTES <= value < 2**24:
                    raise Broken(Code.PROTOCOL_ERROR, "The frame size is out of range.", "bad_setting")
                # Larger frames would only make answers wait longer for each other.
            elif name == Setting.ENABLE_PUSH and value > 1:
                raise Broken(Code.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1.", "bad_setting")
        self.out.append(frames.frame(Kind.SETTINGS, Flag.ACK, 0))

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Broken(Code.PROTOCOL_ERROR, "PING belongs to no stream.", "bad_frame")
        if len(payload) != 8:
            raise Broken(Code.FRAME_SIZE_ERROR, "PING has eight bytes.", "bad_frame")
        self.annoy()
        if not flags & Flag.ACK:
            self.out.append(frames.frame(Kind.PING, Flag.ACK, 0, payload))

    def _priority(self, number: int, payload: bytes) -> None:
        if not number:
            raise Broken(Code.PROTOCOL_ERROR, "PRIORITY belongs to a stream.", "bad_frame")
        self.annoy()
        alone = len(payload) == 5 and _on_itself(number, payload)
        if len(payload) != 5 or alone:
            stream = self.streams.get(number)
            self.reset(number, Code.PROTOCOL_ERROR if alone else Code.FRAME_SIZE_ERROR)
            if stream is not None:
                self._handler.on_reset(stream)

    def _goaway(self, number: int, payload: bytes) -> None:
        if number:
            raise Broken(Code.PROTOCOL_ERROR, "GOAWAY belongs to no stream.", "bad_frame")
        if len(payload) < 8:
            raise Broken(Code.FRAME_SIZE_ERROR, "GOAWAY is too short.", "bad_frame")
        self.annoy()

    def _window_update(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Broken(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE has four bytes.", "bad_frame")
        if number > self.last:
            raise Broken(Code.PROTOCOL_ERROR, "WINDOW_UPDATE came on a stream that is not open.", "bad_stream")
        more = int.from_bytes(payload, "big") & frames.MAX_WINDOW
        if not number:
            self.window += more
            if not more:
                raise Broken(Code.PROTOCOL_ERROR, "The window grows by nothing.", "bad_window")
            if self.window > frames.MAX_WINDOW:
                raise Broken(Code.FLOW_CONTROL_ERROR, "The connection's window is too large.", "bad_window")
            return
        stream = self.streams.get(number)
        if stream is None:
            return
        stream.window += more
        if not more or stream.window > frames.MAX_WINDOW:
            self.reset(number, Code.FLOW_CONTROL_ERROR if more else Code.PROTOCOL_ERROR)
            self._handler.on_reset(stream)

    def annoy(self) -> None:
        """Count a frame that asks for nothing. Raises Broken when there were too many."""
        idle = self._now - self._nuisance_at
        self._nuisance_at = self._now
        self._nuisance = min(NUISANCE_BURST, self._nuisance + idle * NUISANCE_PER_S) - 1.0
        if self._nuisance < 0.0:
            raise Broken(Code.ENHANCE_YOUR_CALM, "Too many frames that ask for nothing.", "flood")


def _on_itself(number: int, payload: bytes) -> bool:
    """A priority says that a stream depends on itself (RFC 7540 5.3.1; RFC 9113 has no priorities any more)."""
    return int.from_bytes(payload[:4], "big") & frames.MAX_WINDOW == number


def _unpad(flags: int, payload: bytes) -> bytes:
    if not flags & Flag.PADDED:
        return payload
    if not payload:
        raise Broken(Code.FRAME_SIZE_ERROR, "A padded frame is empty.", "bad_frame")
    if payload[0] >= len(payload):
        raise Broken(Code.PROTOCOL_ERROR, "A frame is all padding.", "bad_frame")
    return payload[1 : len(payload) - payload[0]]
