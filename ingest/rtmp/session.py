"""One RTMP connection of a publisher, sans I/O: bytes and `now` in, events and bytes out.

    VERSION -> HELLO -> ECHO -> CONNECTING -> READY -> ASKING -> PUBLISHING -> READY ...
    (handshake)                 (connect)     (publish)  (admit)    (FCUnpublish, deleteStream)

In ASKING nothing is parsed: no media is looked at before the gatekeeper has spoken. The shell stops reading then.
After `Ended` nothing is parsed either; `data_to_send` still gives out the last words.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from ingest.rtmp import commands, handshake, messages
from ingest.rtmp.chunks import ChunkReader, ChunkWriter
from ingest.rtmp.commands import Client, Command
from ingest.rtmp.events import Ended, Event, Ignored, Media, Pong, PublishAsked, Unpublished
from ingest.rtmp.messages import Kind, Message, UserControl
from ingest.rtmp.state import Move, State, follow
from ingest.rtmp.tracks import Tracks
from ingest.settings import LimitSettings
from media.errors import HeadraceError, MediaError, ProtocolError

WINDOW_BYTES = 2_500_000
"""Our window, and the peer's until it names its own: the value that servers have always sent."""
CHUNK_SIZE = 4096
"""Of what we send."""
PING_S = 5.0
"""Between pings to a publisher; their answers give the round trip."""
STRANGER_BYTES = 65_536
"""Largest message, and bytes of unfinished ones, of a peer that nobody has admitted yet: its commands have a few
hundred. What media may take would, times all connections, be the server's memory."""
STRANGER_CHUNKS = 2_000
"""Chunks of such a peer: known encoders need about thirty until they publish."""
SMALL_BYTES, SMALL_CHUNKS_A_SECOND = 64, 20_000
"""What a publisher's chunks count as small, and how many of them may come: the last one of each message is small, and
sixteen tracks that a stalled network held for ten seconds are some 10 000 messages at once."""
AMF_BYTES = 8
"""Of commands and metadata that count as one small chunk more: each byte may be a value of its own."""
_AMF = (Kind.COMMAND_AMF0, Kind.COMMAND_AMF3, Kind.DATA_AMF0, Kind.DATA_AMF3)
_PLAY = ("play", "play2")
_MAX_STREAMS = 16
"""createStream commands of one connection."""


class Session:
    """See the module. Not thread-safe."""

    def __init__(self, limits: LimitSettings, random: bytes, now: float) -> None:
        """`random`: 1528 bytes for S1. `now`: a monotonic clock, seconds."""
        self._limits = limits
        self._random = random
        self._start = now
        self._state = State.VERSION
        self._buffer = bytearray()
        self._reader = ChunkReader(
            max_message_bytes=STRANGER_BYTES, max_partial_bytes=STRANGER_BYTES, budget=STRANGER_CHUNKS
        )
        self._budgeted = now
        self._writer = ChunkWriter()
        self._out = bytearray()
        self._received = self._acknowledged = 0
        self._window = WINDOW_BYTES
        self._deadline = now + limits.handshake_timeout_s
        self._heard = self._pinged = self._admitted = now
        self._useful = False
        self._client: Client | None = None
        self._streams = 0
        self._publish_stream = 0
        self._tracks = Tracks(limits.max_tracks)
        self._told: set[str] = set()
        self._commands: dict[str, Callable[[Command], Event | None]] = {
            "connect": self._connect,
            "createStream": self._create_stream,
            "releaseStream": self._release_stream,
            "FCPublish": self._fc_publish,
            "publish": self._publish,
            "FCUnpublish": self._unpublish,
            "deleteStream": self._unpublish,
            "closeStream": self._unpublish,
        }

    @property
    def state(self) -> State:
        return self._state

    @property
    def can_reconnect(self) -> bool:
        """Whether the client understands a reconnect request ([ERTMP] capsEx)."""
        return self._client is not None and self._client.can_reconnect

    @property
    def received_bytes(self) -> int:
        """All bytes from the peer."""
        return self._received

    @property
    def broken_messages(self) -> int:
        """Media messages that were dropped because they could not be read."""
        return self._tracks.broken

    @property
    def refusal(self) -> str:
        """What of the stream cannot be used, for the publisher; empty where all can."""
        return self._tracks.refusal

    def data_to_send(self) -> bytes:
        """What is to be sent now; it is forgotten here."""
        data = bytes(self._out)
        self._out.clear()
        return data

    # What comes in

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take bytes of the peer. Never raises on account of them: errors end the session with `Ended`."""
        if self._state is State.CLOSED:
            return []
        self._received += len(data)
        if self._state in (State.VERSION, State.HELLO, State.ECHO):
            self._buffer += data
        else:
            if self._state is State.PUBLISHING and now - self._budgeted >= 1:
                self._reader.budget, self._budgeted = SMALL_CHUNKS_A_SECOND, now
            self._reader.feed(data)
        return self._parse(now)

    def check(self, now: float) -> list[Event]:
        """Time passes: ends a session that is too slow or silent, and pings a publisher. Call about once a second."""
        if self._state in (State.CLOSED, State.ASKING):
            return []
        if self._state is State.PUBLISHING:
            if now - self._heard > self._limits.idle_timeout_s:
                return [self._end(ProtocolError("The publisher fell silent.", slug="idle_timeout"))]
            if not self._useful and now - self._admitted > self._limits.idle_timeout_s:
                why = self.refusal or "send H.264, HEVC or AV1 with AAC or Opus."
                return self._fail(MediaError(f"No picture and no sound came that can be used: {why}", slug="no_media"))
            if now - self._pinged >= PING_S:
                self._pinged = now
                self._send(messages.user_control(UserControl.PING_REQUEST, self._milliseconds(now)))
        elif now > self._deadline:
            return [self._end(ProtocolError("The peer did not publish in time.", slug="handshake_timeout"))]
        return []

    # What the server wants

    def admit(self, now: float) -> list[Event]:
        """The gatekeeper said yes; goes on with what had come meanwhile."""
        if self._state is not State.ASKING:
            return []
        self._state = follow(self._state, Move.ADMIT)
        limits = self._limits
        self._reader.allow(
            max_message_bytes=limits.max_message_bytes,
            max_partial_bytes=limits.max_partial_bytes,
            free_from=SMALL_BYTES,
        )
        self._reader.budget, self._budgeted = SMALL_CHUNKS_A_SECOND, now
        self._tracks = Tracks(limits.max_tracks)
        self._heard = self._pinged = self._admitted = now
        self._useful = False
        self._send(messages.user_control(UserControl.STREAM_BEGIN, self._publish_stream))
        self._status("status", "NetStream.Publish.Start", "Publishing.")
        return self._parse(now)

    def refuse(self, text: str) -> None:
        """The gatekeeper said no: `text` is what ffmpeg prints. Close when the bytes are out."""
        self.stop("error", "NetStream.Publish.BadName", text)

    def stop(self, level: str, code: str, text: str) -> None:
        """End the session with a status of the publisher's stream."""
        if self._state is State.CLOSED:
            return
        if self._client is not None:
            self._status(level, code, text)
            if level != "error":
                self._send(messages.user_control(UserControl.STREAM_EOF, self._publish_stream))
        self._state = follow(self._state, Move.CLOSE)

    def request_reconnect(self, text: str, url: str = "") -> None:
        """Ask the client to come back on a new connection; it is served on until it leaves."""
        if self._state is not State.CLOSED:
            self._send(commands.reconnect_request(url, text))

    # Parsing

    def _parse(self, now: float) -> list[Event]:
        events: list[Event] = []
        try:
            if self._state in (State.VERSION, State.HELLO, State.ECHO):
                self._handshake(now)
            if self._state not in (State.VERSION, State.HELLO, State.ECHO, State.ASKING):
                with closing(self._reader.messages()) as incoming:
                    for message in incoming:
                        self._heard = now
                        self._message(message, now, events)
                        if self._state in (State.ASKING, State.CLOSED):
                            break
            if self._received - self._acknowledged >= self._window and self._state is not State.CLOSED:
                self._acknowledged = self._received
                self._send(messages.number(Kind.ACKNOWLEDGEMENT, self._received & 0xFFFFFFFF))
        except HeadraceError as error:
            events += self._fail(error)
        return events

    def _fail(self, error: HeadraceError) -> list[Event]:
        if self._state is State.PUBLISHING:
            self._status("error", "NetStream.Failed", error.text)
        return [self._end(error)]

    def _end(self, error: HeadraceError | None) -> Ended:
        self._state = follow(self._state, Move.CLOSE)
        return Ended(error)

    def _handshake(self, now: float) -> None:
        buffer = self._buffer
        if self._state is State.VERSION and buffer:
            handshake.check_version(buffer[0])
            del buffer[0]
            self._out += handshake.s0_s1(self._random)
            self._state = follow(self._state, Move.C0)
        if self._state is State.HELLO and len(buffer) >= handshake.SIZE:
            self._out += handshake.s2(bytes(buffer[: handshake.SIZE]), self._milliseconds(now))
            del buffer[: handshake.SIZE]
            self._state = follow(self._state, Move.C1)
        if self._state is State.ECHO and len(buffer) >= handshake.SIZE:
            self._reader.feed(bytes(buffer[handshake.SIZE :]))
            buffer.clear()
            self._state = follow(self._state, Move.C2)

    def _message(self, message: Message, now: float, events: list[Event]) -> None:
        if message.kind in _AMF:
            self._reader.charge(len(message.body) // AMF_BYTES)
        match message.kind:
            case Kind.VIDEO | Kind.AUDIO:
                if self._state is State.PUBLISHING:  # before and behind it nobody asked for media
                    take = self._tracks.video if message.kind == Kind.VIDEO else self._tracks.audio
                    samples = take(message.timestamp, message.body)
                    self._useful = self._useful or bool(samples)
                    events += [Media(sample) for sample in samples]
                    if self._tracks.ignored - self._told:
                        events += [Ignored(codec) for codec in sorted(self._tracks.ignored - self._told)]
                        self._told |= self._tracks.ignored
            case Kind.AGGREGATE:
                for part in messages.split_aggregate(message):
                    self._message(part, now, events)
            case Kind.COMMAND_AMF0 | Kind.COMMAND_AMF3:
                event = self._command(commands.read(message))
                if isinstance(event, Unpublished):
                    self._deadline = now + self._limits.handshake_timeout_s
                if event is not None:
                    events.append(event)
            case Kind.DATA_AMF0 | Kind.DATA_AMF3:
                name, values = commands.read_data(message)
                if name == "onMetaData" and self._state is State.PUBLISHING:
                    self._tracks.metadata(values)
            case Kind.WINDOW_ACK_SIZE:
                self._window = max(1, min(WINDOW_BYTES, messages.read_number(message.body)))
            case Kind.USER_CONTROL:
                self._user_control(message, now, events)
            case _:
                pass  # chunk size and abort are the reader's; acknowledgements and the rest change nothing here

    def _user_control(self, message: Message, now: float, events: list[Event]) -> None:
        event, data = messages.read_user_control(message.body)
        if event == UserControl.PING_REQUEST and len(data) >= 4:
            self._send(messages.user_control(UserControl.PING_RESPONSE, int.from_bytes(data[:4], "big")))
        elif event == UserControl.PING_RESPONSE and len(data) >= 4:
            rtt_ms = (self._milliseconds(now) - int.from_bytes(data[:4], "big")) & 0xFFFFFFFF
            if rtt_ms < 60_000:
                events.append(Pong(float(rtt_ms)))

    # Commands

    def _command(self, command: Command) -> Event | None:
        handler = self._commands.get(command.name)
        if handler is not None:
            return handler(command)
        if command.name in _PLAY:
            text = "This server takes streams in over RTMP; viewers watch over HTTP."
            self._publish_stream = command.stream_id
            self._status("error", "NetStream.Play.Failed", text)
            return self._end(ProtocolError("The peer wanted to play over RTMP.", slug="play_refused"))
        return None  # getStreamLength, _checkbw and their like need no answer

    def _connect(self, command: Command) -> None:
        who = commands.client(command)
        self._state = follow(self._state, Move.CONNECT)
        self._client = who
        self._send(messages.number(Kind.WINDOW_ACK_SIZE, WINDOW_BYTES))
        self._send(messages.peer_bandwidth(WINDOW_BYTES))
        self._send(messages.user_control(UserControl.STREAM_BEGIN, 0))
        self._send(messages.number(Kind.SET_CHUNK_SIZE, CHUNK_SIZE))
        self._send(commands.connected(command.transaction))

    def _create_stream(self, command: Command) -> None:
        if self._client is None or self._streams >= _MAX_STREAMS:
            raise ProtocolError("The peer creates streams out of turn, or too many.", slug="out_of_turn")
        self._streams += 1
        self._send(commands.result(command.transaction, float(self._streams)))

    def _release_stream(self, command: Command) -> None:
        if command.transaction:
            self._send(commands.result(command.transaction, None))

    def _fc_publish(self, command: Command) -> None:
        self._send(commands.on_fc("onFCPublish", "NetStream.Publish.Start", "FCPublish"))
        if command.transaction:
            self._send(commands.result(command.transaction, None))

    def _publish(self, command: Command) -> PublishAsked | None:
        if self._state is State.PUBLISHING:
            # A second stream on the same connection: refused by itself, the first goes on.
            self._send(
                commands.on_status(
                    command.stream_id, "error", "NetStream.Publish.BadName", "One stream for each connection."
                )
            )
            return None
        self._state = follow(self._state, Move.PUBLISH)
        assert self._client is not None
        self._publish_stream = command.stream_id
        key, parameters = commands.publish_name(command, self._client)
        return PublishAsked(key, self._client.app, self._client.agent, parameters)

    def _unpublish(self, command: Command) -> Unpublished | None:
        # gst sends the stream's name in place of its id, so the argument decides nothing.
        if self._state is not State.PUBLISHING:
            return None
        self._state = follow(self._state, Move.UNPUBLISH)
        if command.name == "FCUnpublish":
            self._send(commands.on_fc("onFCUnpublish", "NetStream.Unpublish.Success", "FCUnpublish"))
        self._status("status", "NetStream.Unpublish.Success", "Unpublished.")
        return Unpublished()

    # Sending

    def _status(self, level: str, code: str, text: str) -> None:
        self._send(commands.on_status(self._publish_stream, level, code, text))

    def _send(self, message: Message) -> None:
        self._out += self._writer.write(message)

    def _milliseconds(self, now: float) -> int:
        return int((now - self._start) * 1000) & 0xFFFFFFFF
