"""Commands of an RTMP session: what a client asked, and the words we answer with. AMF0 only; no state."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl

from ingest.rtmp.amf0 import Value, decode, encode, members, number, text
from ingest.rtmp.messages import Kind, Message
from media.errors import ProtocolError

COMMAND_STREAM = 3
"""Chunk stream for our commands."""
RECONNECT, MULTITRACK, MOD_EX, NANO_OFFSET = 1, 2, 4, 8
"""Bits of capsEx ([ERTMP])."""
_DECODE_AND_FORWARD = 5
_VIDEO_INFO: dict[str, Value] = {"avc1": _DECODE_AND_FORWARD, "hvc1": _DECODE_AND_FORWARD, "av01": _DECODE_AND_FORWARD}
_AUDIO_INFO: dict[str, Value] = {"mp4a": _DECODE_AND_FORWARD, "Opus": _DECODE_AND_FORWARD}
_MAX_AGENT = 100


@dataclass(frozen=True, slots=True)
class Command:
    """A command message, read."""

    name: str
    transaction: float
    stream_id: int
    object: dict[str, Value]
    arguments: list[Value]
    """What follows the command object."""


def read(message: Message) -> Command:
    """Read a command of AMF0, or of AMF3 in its known disguise. Raises `ProtocolError`."""
    body = message.body
    if message.kind == Kind.COMMAND_AMF3:
        body = body[1:]  # one zero, then AMF0
    values = decode(body)
    if not values or not isinstance(values[0], str):
        raise ProtocolError("A command has no name.", slug="bad_command")
    values += [None] * (3 - len(values))
    return Command(values[0], number(values[1]), message.stream_id, members(values[2]), values[3:])


def read_data(message: Message) -> tuple[str, dict[str, Value]]:
    """(name, values) of a data message such as onMetaData, out of its @setDataFrame. Raises `ProtocolError`."""
    body = message.body[1:] if message.kind == Kind.DATA_AMF3 else message.body
    values = decode(body)
    if values and values[0] == "@setDataFrame":
        values = values[1:]
    name = text(values[0]) if values else ""
    return name, next((value for value in values[1:] if isinstance(value, dict)), {})


@dataclass(frozen=True, slots=True)
class Client:
    """What `connect` told about the client."""

    app: str
    key: str
    """A key that stands in the application name (`live/KEY`); mostly empty."""
    parameters: dict[str, str]
    agent: str
    can_reconnect: bool


def client(connect: Command) -> Client:
    """Read the object of a `connect`."""
    path, _, query = text(connect.object.get("app")).partition("?")
    app, _, key = path.strip("/").partition("/")
    if not query:
        query = text(connect.object.get("tcUrl")).partition("?")[2]
    agent = "".join(char for char in text(connect.object.get("flashVer")) if char.isprintable())[:_MAX_AGENT]
    caps = int(number(connect.object.get("capsEx")))
    return Client(app, key, _query(query), agent, bool(caps & RECONNECT))


def publish_name(command: Command, who: Client) -> tuple[str, dict[str, str]]:
    """(key, parameters) of a `publish`: its name, else what the application name or its query holds."""
    name, _, query = text(command.arguments[0] if command.arguments else None).partition("?")
    parameters = who.parameters | _query(query)
    key = name.strip("/") or who.key or parameters.get("key", "") or parameters.get("token", "")
    return key, parameters


def _query(query: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(query, max_num_fields=32))
    except ValueError:
        raise ProtocolError("The query of the stream name has too many fields.", slug="bad_command") from None


def _command(stream_id: int, *values: Value) -> Message:
    return Message(Kind.COMMAND_AMF0, 0, stream_id, encode(*values), COMMAND_STREAM)


def connected(transaction: float) -> Message:
    """The `_result` of a `connect`, with what we can do ([ERTMP] capability negotiation)."""
    properties: dict[str, Value] = {"fmsVer": "FMS/3,5,7,7009", "capabilities": 31.0, "mode": 1.0}
    information: dict[str, Value] = {
        "level": "status",
        "code": "NetConnection.Connect.Success",
        "description": "Connection succeeded.",
        "objectEncoding": 0.0,
        "capsEx": RECONNECT | MULTITRACK | MOD_EX | NANO_OFFSET,
        "fourCcList": [*_VIDEO_INFO, *_AUDIO_INFO],
        "videoFourCcInfoMap": _VIDEO_INFO,
        "audioFourCcInfoMap": _AUDIO_INFO,
    }
    return _command(0, "_result", transaction, properties, information)


def result(transaction: float, *values: Value) -> Message:
    """A `_result` with no command object."""
    return _command(0, "_result", transaction, None, *values)


def on_fc(name: str, code: str, stream: str) -> Message:
    """onFCPublish and onFCUnpublish: old hardware encoders wait for them."""
    return _command(0, name, 0.0, None, {"code": code, "description": stream})


def on_status(stream_id: int, level: str, code: str, description: str) -> Message:
    """An `onStatus`; ffmpeg shows the description of those with level `error`."""
    return _command(stream_id, "onStatus", 0.0, None, {"level": level, "code": code, "description": description})


def reconnect_request(url: str, description: str) -> Message:
    """NetConnection.Connect.ReconnectRequest; without `url` the client comes back to where it is."""
    info: dict[str, Value] = {
        "level": "status",
        "code": "NetConnection.Connect.ReconnectRequest",
        "description": description,
    }
    if url:
        info["tcUrl"] = url
    return _command(0, "onStatus", 0.0, None, info)
