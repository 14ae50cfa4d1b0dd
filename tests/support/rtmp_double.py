"""Doubles for the RTMP tests: a gatekeeper that remembers what it let in, and a scripted client."""

from __future__ import annotations

import asyncio

from recorder import Recorder

from ingest.ports import PublishRequest, SrtAdmission
from ingest.rtmp import commands
from ingest.rtmp.amf0 import Value, encode
from ingest.rtmp.chunks import ChunkReader, ChunkWriter
from ingest.rtmp.messages import Kind, Message
from media.errors import Refused

GOOD_KEY = "good-key"


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
