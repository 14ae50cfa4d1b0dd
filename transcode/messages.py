"""What core and worker say to each other: msgpack headers, each with a raw payload behind it (see `wire`).

| way | message | payload |
|---|---|---|
| to worker | `Admitted`, `Open`, `Change`, `Describe`, `Unit`, `Mark`, `Hole`, `Watched`, `Close` | `Unit`: frame |
| to stills | `Still` | frame |
| to core | `Join`, `Hello`, `Made`, `Encoded`, `Progress`, `Picture`, `Notice`, `Done` | `Encoded`: frame, `Picture` |
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import msgspec

from media.track import Track
from transcode.plan import Plan

EXIT_BUG = 70
"""Exit code of a worker after an error of ours; the traceback is on its stderr."""
EXIT_MEMORY = 77
"""Exit code of a worker that grew past its memory limit."""

VERSION = 2
"""Of this vocabulary; a worker of another version is not used."""


class _Message(msgspec.Struct, frozen=True, array_like=True):
    pass


class Open(_Message, tag="open", frozen=True):
    """The job. Nothing is encoded before the first `Mark`."""

    plan: Plan
    name: str = ""


class Change(_Message, tag="change", frozen=True):
    """Another plan from the next `Mark` on."""

    plan: Plan


class Describe(_Message, tag="describe", frozen=True):
    """Track number `key` of this connection; `Unit`s refer to it."""

    key: int
    track: Track


class Unit(_Message, tag="unit", frozen=True):
    """A packet: times in the track's timescale."""

    key: int
    pts: int
    dts: int
    duration: int
    keyframe: bool


class Mark(_Message, tag="cut", frozen=True):
    """A cut (`media.cut`): all that encoders need of it."""

    index: int
    pts: int
    discontinuity: bool = False


class Hole(_Message, tag="gap", frozen=True):
    """A gap (`media.packet.Gap`)."""

    track_id: int | None
    start: int
    end: int
    reason: str


class Watched(_Message, tag="watched", frozen=True):
    """How many watch which rendition: who sheds, sheds where that hurts fewest."""

    viewers: dict[str, int]


class Close(_Message, tag="close", frozen=True):
    """No more input: hand over what there is, say `Done`, exit."""


class Still(_Message, tag="still", frozen=True):
    """To the stills process alone: make a JPEG, at most `height` high, of this keyframe. One at a time: `Picture`
    or, where there is none in it, a `Notice` answers."""

    track: Track
    pts: int
    height: int


class Hello(_Message, tag="hello", frozen=True):
    """The worker is there and has loaded what it needs."""

    version: int
    pid: int


class Join(_Message, tag="join", frozen=True):
    """The first word over a network: a machine offers one worker. `Admitted` answers it."""

    version: int
    token: str
    machine: str
    cpus: int
    encoders: dict[str, tuple[str, ...]]
    """By codec: the hardware encoders that were tried there and work, best first."""


class Admitted(_Message, tag="admitted", frozen=True):
    """The answer to `Join`; with a slug it is a refusal, and the connection ends."""

    slug: str = ""
    text: str = ""


class Made(_Message, tag="made", frozen=True):
    """From now on the packets of `rendition` have this track, number `key`."""

    key: int
    rendition: str
    track: Track
    encoder: str


class Encoded(_Message, tag="encoded", frozen=True):
    """A packet of the track `key` of `Made`."""

    key: int
    pts: int
    dts: int
    duration: int
    keyframe: bool


class Progress(_Message, tag="progress", frozen=True):
    """Every half second: how far the worker is."""

    units: int
    """Messages of input taken from the socket and worked off so far."""
    values: dict[str, float | str]


class Picture(_Message, tag="picture", frozen=True):
    """A thumbnail of the source at `pts` (90 kHz)."""

    pts: int


class Notice(_Message, tag="notice", frozen=True):
    """Something an operator should know: an encoder replaced, rungs shed."""

    slug: str
    text: str
    failed: str = ""
    """The encoder or decoder (`name@device`) that is to blame; empty for none."""


class Done(_Message, tag="done", frozen=True):
    """All that was asked for is done."""


Message = (
    Open
    | Change
    | Describe
    | Unit
    | Mark
    | Hole
    | Watched
    | Close
    | Still
    | Join
    | Admitted
    | Hello
    | Made
    | Encoded
    | Progress
    | Picture
    | Notice
    | Done
)


def _enc(value: Any) -> Any:
    if isinstance(value, Fraction):
        return (value.numerator, value.denominator)
    raise NotImplementedError(f"{type(value).__name__} is not part of any message")


def _dec(kind: type, value: Any) -> Any:
    if kind is not Fraction:
        raise NotImplementedError(f"{kind.__name__} is not part of any message")
    numerator, denominator = value
    if not (isinstance(numerator, int) and isinstance(denominator, int) and denominator > 0):
        raise ValueError("not a fraction")
    return Fraction(numerator, denominator)


_encoder = msgspec.msgpack.Encoder(enc_hook=_enc)
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message, dec_hook=_dec)


def pack(message: Message) -> bytes:
    """The header's bytes."""
    return _encoder.encode(message)


def unpack(data: bytes) -> Message:
    """Read a header. Raises `msgspec.DecodeError` (or its child), `UnicodeDecodeError`, and nothing else."""
    return _decoder.decode(data)
