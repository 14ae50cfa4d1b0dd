"""Doubles for the RTMP tests: a gatekeeper that remembers what it let in, and a scripted client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from ingest.ports import EndReason, PublishRequest, SrtAdmission, StopReason
from ingest.rtmp import commands
from ingest.rtmp.amf0 import Value, encode
from ingest.rtmp.chunks import ChunkReader, ChunkWriter
from ingest.rtmp.messages import Kind, Message
from media.errors import Refused
from media.packet import Gap, Packet

GOOD_KEY = "good-key"


@dataclass
class Recorder:
    """A publication that keeps all it is given."""

    request: PublishRequest
    stream: str = "show"
    id: str = "b1"
    start: int = 0
    items: list[Packet | Gap] = field(default_factory=list)
    values: dict[str, float | str] = field(default_factory=dict)
    ended: asyncio.Future[tuple[EndReason, str]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    first: asyncio.Event = field(default_factory=asyncio.Event)
    stop: Callable[[StopReason, str], None] | None = None

    def origin(self) -> int:
        return self.start

    def write(self, item: Packet | Gap) -> None:
        assert not self.ended.done()
        self.items.append(item)
        self.first.set()

    def report(self, **values: float | str) -> None:
        self.values.update(values)

    def on_stop(self, callback: Callable[[StopReason, str], None]) -> None:
        self.stop = callback

    def on_keyframe_wanted(self, callback: Callable[[], None]) -> None: ...

    def close(self, reason: EndReason, text: str = "") -> None:
        if not self.ended.done():
            self.ended.set_result((reason, text))

    def packets(self, track_id: int) -> list[Packet]:
        return [item for item in self.items if isinstance(item, Packet) and item.track.id == track_id]

    def gaps(self) -> list[Gap]:
        return [item for item in self.items if isinstance(item, Gap)]


class Gatekeeper:
    """Lets `GOOD_KEY` in, once `open` is set."""

    def __init__(self) -> None:
        self.requests: list[PublishRequest] = []
        self.admitted: asyncio.Queue[Recorder] = asyncio.Queue()
        self.open = asyncio.Event()
        self.open.set()
        self.asked = asyncio.Event()
        self.broken = False

    async def admit(self, request: PublishRequest) -> Recorder:
        self.requests.append(request)
        self.asked.set()
        await self.open.wait()
        if self.broken:
            raise RuntimeError("a bug")
        if request.key != GOOD_KEY:
            raise Refused("No stream has this key: copy it again.", slug="bad_key")
        recorder = Recorder(request)
        self.admitted.put_nowait(recorder)
        return recorder

    def srt_handshake(self, key: str, address: str) -> SrtAdmission:
        raise AssertionError("not asked here")


class Script:
    """The client's half of a session, as bytes: what ffmpeg sends, in its order."""

    def __init__(self) -> None:
        self._writer = ChunkWriter()
        self._reader = ChunkReader(max_message_bytes=1 << 20, max_partial_bytes=1 << 20)
        self._skip = 1 + 2 * 1536
        self.received: list[Message] = []

    hello = b"\x03" + bytes(1536)
    echo = bytes(1536)

    def command(self, name: str, transaction: float, *values: Value, sid: int = 0, csid: int = 3) -> bytes:
        return self.message(Message(Kind.COMMAND_AMF0, 0, sid, encode(name, transaction, *values), csid))

    def message(self, message: Message) -> bytes:
        return self._writer.write(message)

    def connect(self, **extra: Value) -> bytes:
        return self.command("connect", 1.0, {"app": "live", "flashVer": "test/1", **extra})

    def publish(self, name: str = GOOD_KEY) -> bytes:
        return (
            self.command("releaseStream", 2.0, None, name)
            + self.command("FCPublish", 3.0, None, name)
            + self.command("createStream", 4.0, None)
            + self.command("publish", 5.0, None, name, "live", sid=1, csid=8)
        )

    def start(self, name: str = GOOD_KEY, **extra: Value) -> bytes:
        """Everything up to publish, in one go."""
        return self.hello + self.echo + self.connect(**extra) + self.publish(name)

    def read(self, data: bytes) -> list[Message]:
        """Messages of the server in what it sent, behind its handshake."""
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        self._reader.feed(data[skipped:])
        fresh = list(self._reader.messages())
        self.received += fresh
        return fresh

    def commands(self) -> list[commands.Command]:
        return [commands.read(message) for message in self.received if message.kind == Kind.COMMAND_AMF0]

    def statuses(self) -> list[tuple[str, str, str]]:
        """(code, level, description) of each onStatus."""
        out = []
        for command in self.commands():
            if command.name == "onStatus" and command.arguments:
                info = command.arguments[0]
                assert isinstance(info, dict)
                out.append((str(info["code"]), str(info["level"]), str(info["description"])))
        return out
