"""The stream id of an SRT caller: what it wants, and with which key. Pure.

Two forms. Bare, as people paste it: `KEY`, `publish/KEY`, `live/KEY`, `publish:KEY`, each with `?name=value` after
it. And SRT's access-control syntax (AccessControl.md of Haivision/srt): `#!::r=live/KEY,m=publish,u=...`.

A key is the last path segment; what stands before it is an application name and carries no right.

By the standard a `#!::` id without `m` means `m=request`, and a publisher must say `m=publish`. Encoders often leave
it out, and this port has nothing to give, so that reading would refuse everyone who forgot it: an absent `m` is
taken as publish, and `mode_stated` tells the log. An explicit `m=request` remains what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import parse_qsl, unquote

from media.errors import ProtocolError

MAX_BYTES = 512
"""The stream id's limit in the protocol (draft-sharabayko-srt 3.2.1.3)."""

_MARK = "#!::"


class Mode(Enum):
    PUBLISH = "publish"
    REQUEST = "request"
    BIDIRECTIONAL = "bidirectional"


_BARE_MODES = {
    "publish": Mode.PUBLISH,
    "request": Mode.REQUEST,
    "read": Mode.REQUEST,
    "play": Mode.REQUEST,
}
"""Words that are a mode in front of `:` or `/` in a bare id, as other servers taught people to write."""


@dataclass(frozen=True, slots=True)
class StreamId:
    """What a caller states."""

    key: str = field(repr=False)
    mode: Mode = Mode.PUBLISH
    mode_stated: bool = False
    """False where the caller left the mode out and publish was assumed."""
    kind: str = "stream"
    """`t`: `stream`, `file`, `auth` or what the caller invented."""
    user: str = ""
    session: str = ""
    host: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Keys that the standard does not name, and query parameters of a bare id."""


def parse(raw: bytes) -> StreamId:
    """The stream id as libsrt hands it over. Raises `ProtocolError` where no key can be found in it."""
    if len(raw) > MAX_BYTES:
        raise ProtocolError(f"The stream id has {len(raw)} bytes; the protocol allows {MAX_BYTES}.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ProtocolError("The stream id is not UTF-8.") from None
    if "%" in text:  # encoders that do not undo the percent signs of their URL; no key of ours has one
        text = unquote(text)
    if any(not character.isprintable() for character in text):
        raise ProtocolError("The stream id has characters that cannot be printed.")
    if text.startswith("#!:"):
        return _standard(text)
    return _bare(text)


def _bare(text: str) -> StreamId:
    text, _, query = text.partition("?")
    mode, stated = Mode.PUBLISH, False
    for separator in ":/":
        word, found, rest = text.lstrip("/").partition(separator)
        if found and word in _BARE_MODES:
            mode, stated, text = _BARE_MODES[word], True, rest
            break
    return StreamId(_key(text), mode, stated, parameters=_query(query))


def _standard(text: str) -> StreamId:
    if not text.startswith(_MARK):
        raise ProtocolError("Only the flat form of the stream id is understood: #!::r=KEY,m=publish")
    fields: dict[str, str] = {}
    for item in text.removeprefix(_MARK).split(","):
        if not item:
            continue
        name, found, value = item.partition("=")
        if not found or not name:
            raise ProtocolError("The stream id has an item that is not name=value.")
        if name in fields:
            raise ProtocolError("The stream id says one thing twice.")
        fields[name] = value
    stated = fields.pop("m", "")
    try:
        mode = Mode(stated) if stated else Mode.PUBLISH
    except ValueError:
        raise ProtocolError("The stream id's mode (m) is none of publish, request, bidirectional.") from None
    resource, _, query = fields.pop("r", "").partition("?")
    return StreamId(
        key=_key(resource),
        mode=mode,
        mode_stated=bool(stated),
        kind=fields.pop("t", "stream"),
        user=fields.pop("u", ""),
        session=fields.pop("s", ""),
        host=fields.pop("h", ""),
        parameters={**_query(query), **fields},
    )


def _key(path: str) -> str:
    key = path.strip(" ").rpartition("/")[2]
    if not key:
        raise ProtocolError("The stream id names no stream key: set it to the key, or to #!::r=KEY,m=publish")
    return key


def _query(text: str) -> dict[str, str]:
    return dict(parse_qsl(text, keep_blank_values=True))
