"""The life of an RTMP connection, as one table."""

from __future__ import annotations

from enum import Enum, auto

from media.errors import ProtocolError


class State(Enum):
    VERSION = auto()
    """Nothing has come yet: the next byte is C0."""
    HELLO = auto()
    """C1 is awaited."""
    ECHO = auto()
    """C2 is awaited."""
    CONNECTING = auto()
    """The handshake is done; `connect` is awaited."""
    READY = auto()
    """Connected to an application, not publishing."""
    ASKING = auto()
    """The gatekeeper decides on a `publish`; nothing is read meanwhile."""
    PUBLISHING = auto()
    CLOSED = auto()
    """Nothing is read any more; what is left to send may still be sent."""


class Move(Enum):
    C0 = "the version byte"
    C1 = "the first handshake block"
    C2 = "the second handshake block"
    CONNECT = "connect"
    PUBLISH = "publish"
    ADMIT = "an admission"
    UNPUBLISH = "an end of publishing"
    CLOSE = "an end"


_TABLE = {
    (State.VERSION, Move.C0): State.HELLO,
    (State.HELLO, Move.C1): State.ECHO,
    (State.ECHO, Move.C2): State.CONNECTING,
    (State.CONNECTING, Move.CONNECT): State.READY,
    (State.READY, Move.PUBLISH): State.ASKING,
    (State.ASKING, Move.ADMIT): State.PUBLISHING,
    (State.PUBLISHING, Move.UNPUBLISH): State.READY,
    **{(state, Move.CLOSE): State.CLOSED for state in State},
}


def follow(state: State, move: Move) -> State:
    """The next state. Raises `ProtocolError` where the peer does something out of turn."""
    following = _TABLE.get((state, move))
    if following is None:
        raise ProtocolError(f"The peer sent {move.value} out of turn ({state.name.lower()}).", slug="out_of_turn")
    return following
