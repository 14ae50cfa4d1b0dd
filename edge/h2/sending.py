"""The half of an HTTP/2 connection that answers: streams with their queues and windows, and bytes out.

Answers take turns, so that a playlist overtakes a segment anyway; one that is alone goes on. The other half, what a
client sends, is `edge.h2.core`; both are one object, and share its fields.
"""

from __future__ import annotations

from collections import deque

from edge.h2 import frames
from edge.h2.frames import Code, Flag, Kind

RECENT = 32
"""Streams of which is remembered that we ended them: what was on its way is no breach (5.1)."""

TURN_BYTES = 64 * 1024
"""What one of several answers sends before the next has its turn: four frames."""

Buffer = bytes | memoryview

_FULL = frames.start(frames.DEFAULT_FRAME_BYTES, Kind.DATA, 0)


class Stream:
    """A stream that could not be answered whole at once."""

    __slots__ = ("asked", "ending", "number", "owner", "queue", "queued", "window")

    def __init__(self, number: int, window: int, *, asked: bool) -> None:
        self.number = number
        self.window = window
        """Bytes that the client takes; below 0 after it made its window smaller."""
        self.asked = asked
        self.queue: deque[Buffer] = deque()
        self.queued = 0
        self.ending = False
        """END_STREAM goes with the last of the queue."""
        self.owner: object = None


class Sender:
    """See the module. `greeting`: what goes out first."""

    def __init__(self, greeting: bytes) -> None:
        self.streams: dict[int, Stream] = {}
        self.window = frames.DEFAULT_WINDOW
        """Bytes that the connection takes."""
        self.stream_window = frames.DEFAULT_WINDOW
        self.out: list[Buffer] = [greeting]
        self._ready: dict[Stream, None] = {}
        """Streams with something to send, in the order of their turns."""
        self._cut: deque[int] = deque(maxlen=RECENT)
        """Streams that we ended lately, before the client did."""

    def open(self, number: int, *, ended: bool) -> Stream:
        """Keep a stream that is answered later, or in pieces."""
        stream = self.streams[number] = Stream(number, self.stream_window, asked=ended)
        return stream

    def fits(self, size: int) -> bool:
        """Whether windows and other answers let a whole body out at once."""
        return size <= self.window and size <= self.stream_window and not self._ready

    def head(self, stream: Stream, block: bytes, *, ended: bool) -> None:
        """Send an answer's fields; with `ended` this is all of it."""
        self.out.append(frames.headers(stream.number, block, ended=ended))
        if ended:
            self._close(stream)

    def data(self, stream: Stream, data: Buffer) -> None:
        """Queue a piece of a body; `pump` sends it."""
        if data and stream.number in self.streams:
            stream.queue.append(data)
            stream.queued += len(data)
            self._ready[stream] = None

    def end(self, stream: Stream) -> None:
        """The body ends with what is queued."""
        if stream.number in self.streams:
            stream.ending = True
            self._ready[stream] = None

    def reset(self, number: int, code: Code) -> None:
        """Close a stream from our side."""
        stream = self.streams.pop(number, None)
        if stream is not None:
            self._ready.pop(stream, None)
        self._cut.append(number)
        self.out.append(frames.reset(number, code))

    def pump(self, budget: int) -> list[Stream]:
        """Move about `budget` queued bytes to `out`, as far as windows allow; the streams whose queue it emptied."""
        emptied: list[Stream] = []
        ready = self._ready
        blocked: list[Stream] = []
        while ready and budget > 0:
            stream = next(iter(ready))
            del ready[stream]
            if not stream.queue:
                self._finish(stream)
                continue
            room = min(TURN_BYTES if ready else budget, self.window, stream.window, stream.queued)
            if room <= 0:
                blocked.append(stream)
                if self.window <= 0:
                    break
                continue
            last = stream.ending and room == stream.queued
            self._move(stream, room, last)
            budget -= room
            if last:
                self._close(stream)
            elif stream.queue:
                ready[stream] = None
            else:
                emptied.append(stream)
        for stream in blocked:
            ready[stream] = None
        return emptied

    @property
    def sending(self) -> bool:
        """Something is queued, be it for want of a window."""
        return bool(self._ready)

    def take(self) -> bytes:
        """What is to be written, as one piece: it goes through TLS records, which should be full."""
        out, self.out = self.out, []
        return b"".join(out)

    def _move(self, stream: Stream, size: int, last: bool) -> None:
        """`size` bytes of the queue, as frames; with `last` they end the stream."""
        queue, out = stream.queue, self.out
        stream.window -= size
        stream.queued -= size
        self.window -= size
        number = frames.number(stream.number)
        while size:
            left = min(size, frames.DEFAULT_FRAME_BYTES)
            size -= left
            plain = left == frames.DEFAULT_FRAME_BYTES and (size or not last)
            out.append(_FULL if plain else frames.start(left, Kind.DATA, Flag.END_STREAM if last and not size else 0))
            out.append(number)
            while left:
                piece = queue[0]
                if len(piece) <= left:
                    out.append(piece)
                    left -= len(piece)
                    queue.popleft()
                else:
                    view = memoryview(piece)
                    out.append(view[:left])
                    queue[0] = view[left:]
                    break

    def _finish(self, stream: Stream) -> None:
        if stream.ending:
            self.out.append(frames.frame(Kind.DATA, Flag.END_STREAM, stream.number))
            self._close(stream)

    def _close(self, stream: Stream) -> None:
        """Our side is done. The rest of a client's body is thrown away, up to a window: see `_data`."""
        if self.streams.pop(stream.number, None) is not None and not stream.asked:
            self._cut.append(stream.number)
        self._ready.pop(stream, None)
